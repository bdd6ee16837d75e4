#!/usr/bin/env bash
# The ABI of libsae.so against the recorded one (tests/abi/libsae.abi; `make storeabi` records a release). Functions may be added, option
# structs may grow at their end; anything else is a break. Usage: check-abi.sh [BUILD_DIR]
set -u
build=${1:-build}
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

[ "$(uname -m)" = x86_64 ] || { echo 'skip: the recorded ABI is that of x86-64'; echo '0 passed, 0 failed'; exit 0; }

compare() { abidiff --no-added-syms --suppressions tests/abi/append.suppr tests/abi/libsae.abi "$1"; }

verdict() { # verdict NAME STATUS WANT
    if { [ "$2" = 0 ] && [ "$3" = same ]; } || { [ "$2" != 0 ] && [ "$3" = differs ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-abi: $1"
        cat "$tmp/out"
    fi
}

compare "$build/libsae.so" >"$tmp/out" 2>&1
verdict 'the ABI is not the recorded one' $? same

# The check can fail: a field in the middle of a struct is found, one at the end of an options struct is not a break.
break_abi() { # break_abi NAME SED_EXPRESSION
    rm -rf "$tmp/tree"
    mkdir "$tmp/tree"
    cp -r Makefile include lib "$tmp/tree/"
    sed -i "$2" "$tmp/tree/include/sae/model.h"
    make -s -C "$tmp/tree" B=b CFLAGS='-O0 -g' b/libsae.so.0 >"$tmp/out" 2>&1 || return 9
    compare "$tmp/tree/b/libsae.so" >"$tmp/out" 2>&1
}
break_abi middle 's/^    int32_t d_in;  *\/\* expected; a file that differs is refused \*\//    int64_t surprise;\n&/'
verdict 'a field in the middle of sae_open_options was not found' $? differs
break_abi end 's/^} sae_open_options;/    int64_t later;\n&/'
verdict 'a field at the end of sae_open_options was taken for a break' $? same
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
