#!/usr/bin/env bash
# libsae builds without a build system: `cc lib/*/*.c` and no flag but the include paths and libyaml. What such a build lacks is instruction
# sets, not bits: it gives the codes of tests/golden/bits.txt too.
set -u
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0
for compiler in "${CC:-cc}" clang; do
    # shellcheck disable=SC2086 # CC may hold flags
    if $compiler -Iinclude -Ilib -o "$tmp/bits" tests/test_bits.c lib/*/*.c -lz -lyaml -lm -lpthread >"$tmp/log" 2>&1 && [ ! -s "$tmp/log" ] &&
        "$tmp/bits" tests/golden/bits.txt >"$tmp/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-direct: $compiler lib/*/*.c"
        tail -n 20 "$tmp/log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
