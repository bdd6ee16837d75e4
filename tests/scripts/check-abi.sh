#!/usr/bin/env bash
# The ABI of libsae.so against the recorded one of the last release. Functions may be added and structs with struct_size may grow at their end;
# anything else is a break. What is behind a handle is nobody's business. Usage: check-abi.sh BUILD_DIR [store]
set -u
build=${1:?a build directory}
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
record=tests/abi/libsae.abi
rules='--suppressions tests/abi/libsae.suppr'

[ "$(uname -m)" = x86_64 ] || { echo 'skip: the recorded ABI is that of x86-64'; echo '0 passed, 0 failed'; exit 0; }
# Without debug information abidiff would compare names alone and find everything in order.
if ! readelf -S "$build/libsae.so" | grep -q '\.debug_info'; then
    echo "check-abi: $build/libsae.so has no debug information; build it with -g in CFLAGS"
    exit 1
fi
if [ "${2:-}" = store ]; then
    # shellcheck disable=SC2086 # words
    abidw --no-show-locs --no-comp-dir-path --no-corpus-path $rules "$build/libsae.so" >"$record"
    exit
fi

# compare LIBRARY RECORD; no --headers-dir: it hides real breaks.
compare() {
    # shellcheck disable=SC2086 # words
    abidiff --no-added-syms $rules "$2" "$1" >"$tmp/out" 2>&1
}

verdict() { # verdict SENTENCE STATUS same|differs
    case $2 in
    0) is=same ;;
    4 | 8 | 12) is=differs ;;
    *) is="in error (status $2)" ;; # of abidiff, or of the build
    esac
    if [ "$is" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-abi: $1: it is $is"
        tail -n 30 "$tmp/out"
    fi
}

compare "$build/libsae.so" "$record"
verdict "the ABI is not the recorded one (if that is meant, it is another soname's)" $? same

# The check can fail. Each edit is made in a copy of the tree and taken back; only what depends on it is built again.
tree=$tmp/tree
mkdir "$tree"
cp -r Makefile include lib "$tree/"
edited() { # edited FILE SED_EXPRESSION
    cp "$tree/$1" "$tmp/kept"
    sed -i "$2" "$tree/$1"
    if cmp -s "$tree/$1" "$tmp/kept"; then
        echo "the edit $2 changed nothing in $1" >"$tmp/out"
        return 99
    fi
    rc=0
    make -C "$tree" SAN= B=b CFLAGS='-O0 -g' b/libsae.so.0 >"$tmp/out" 2>&1 && compare "$tree/b/libsae.so" "$record" || rc=$?
    cp "$tmp/kept" "$tree/$1"
    return $rc
}
edited include/sae/steer.h 's/^    int32_t feature;/    int32_t surprise;\n&/'
verdict 'a field in the middle of a struct' $? differs
edited include/sae/codec.h 's/^} sae_ctx_options;/    int64_t later;\n&/'
verdict 'a field at the end of a struct with struct_size' $? same
edited lib/env/env.h 's/^    saei_ref ref;/    long private;\n&/'
verdict 'a field behind a handle' $? same
edited lib/libsae.map 's/^ *sae_version;//'
verdict 'a function that is gone' $? differs
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
