#!/usr/bin/env bash
# Every public header compiles alone and twice, as C99 and as C++11, with gcc and clang, without a padding hole in any struct.
set -u
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
strict='-Wall -Wextra -Wpedantic -Wundef -Wpadded -Werror -fsyntax-only -Iinclude'
compilers='gcc -std=c99 -Wstrict-prototypes -x c
clang -std=c99 -Wstrict-prototypes -x c
g++ -std=c++11 -x c++
clang++ -std=c++11 -x c++'

# alone HEADER: all four compilers take it; what they say goes to $tmp/said.
alone() {
    local compiler
    while read -r compiler; do
        # shellcheck disable=SC2086 # flags are words
        printf '#include "%s"\n#include "%s"\n' "$1" "$1" | $compiler $strict - || return 1
    done <<<"$compilers"
} >"$tmp/said" 2>&1

verdict() { # verdict SENTENCE STATUS good|bad
    if { [ "$2" = 0 ] && [ "$3" = good ]; } || { [ "$2" != 0 ] && [ "$3" = bad ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-headers: $1"
        head -n 10 "$tmp/said"
    fi
}

for header in include/sae.h include/sae/*.h; do
    case $header in include/sae/ggml*.h) continue ;; esac # glue that needs ggml's headers: tests/ggml and tests/llamacpp compile it
    alone "${header#include/}"
    verdict "$header does not compile alone" $? good
done

# The check can fail.
refused() { # refused SENTENCE TEXT
    printf '%s\n' '#ifndef BROKEN_H' '#define BROKEN_H' "$2" '#endif' >"$tmp/broken.h"
    alone "$tmp/broken.h"
    verdict "$1 was not found" $? bad
}
refused 'a hole in a struct' 'struct hole { char c; long l; };'
refused 'padding at the end of a struct' 'struct tail { long l; char c; };'
refused 'a type from a header that is not included' 'int32_t sae_something(void);'
refused 'a word of C++' 'int sae_something(int new);'
refused 'a feature later than C99' '_Static_assert(1, "");'
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
