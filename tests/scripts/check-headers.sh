#!/usr/bin/env bash
# Every public header compiles alone, as C99 and C++11, without a padding hole in any struct. Usage: check-headers.sh [BUILD_DIR]
set -u
passed=0
failed=0

try() { # try NAME COMMAND...
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-headers: $name"
        "$@" 2>&1 | head -n 5
    fi
}

c='-std=c99 -Wall -Wextra -Wpedantic -Wpadded -Werror -fsyntax-only -Iinclude -x c'
cxx='-std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -Iinclude -x c++'
for header in include/sae.h include/sae/*.h; do
    # shellcheck disable=SC2086 # flags are words
    for compiler in gcc clang; do
        command -v $compiler >/dev/null || continue
        try "$header ($compiler, C99)" $compiler $c "$header"
    done
    # shellcheck disable=SC2086
    try "$header (C++11)" g++ $cxx "$header"
done

# The check can fail: a struct with a hole is found.
broken=$(mktemp --suffix=.h)
trap 'rm -f "$broken"' EXIT
echo 'struct hole { char c; long l; };' >"$broken"
# shellcheck disable=SC2086
if gcc $c "$broken" >/dev/null 2>&1; then
    failed=$((failed + 1))
    echo "check-headers: a struct with a hole was not found"
else
    passed=$((passed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
