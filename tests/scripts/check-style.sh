#!/usr/bin/env bash
# C as .clang-format lays it out, Python as ruff.toml wants it, shell as shellcheck does, one version everywhere. Usage: check-style.sh BUILD_DIR
set -u
build=${1:?a build directory}
bin=$build/venv/bin
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

verdict() { # verdict SENTENCE STATUS good|bad
    if { [ "$2" = 0 ] && [ "$3" = good ]; } || { [ "$2" != 0 ] && [ "$3" = bad ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-style: $1"
        head -n "${4:-15}" "$tmp/said"
    fi
}

# files GLOB...: those of the repository, or of a tree that came without one.
files() {
    local glob
    git ls-files -co --exclude-standard -- "$@" 2>/dev/null || for glob in "$@"; do
        find .ci bench bindings examples include lib scripts src tests -path "$glob" -type f
    done
}

while read -r file; do
    "$bin/clang-format" --dry-run -Werror "$file" >"$tmp/said" 2>&1
    verdict "$file is not laid out as .clang-format says (make format)" $? good 5
done < <(files '*.c' '*.h')
while read -r file; do
    shellcheck "$file" >"$tmp/said" 2>&1
    verdict "shellcheck has words on $file" $? good
done < <(files '*.sh' '*.bash' .ci/run)
"$bin/ruff" check --no-cache . >"$tmp/said" 2>&1
verdict 'ruff check' $? good 40
"$bin/ruff" format --no-cache --check . >"$tmp/said" 2>&1
verdict 'ruff format (make format)' $? good

# The version stands in include/sae.h alone; what must repeat it agrees.
version=$(sed -nE 's/^#define SAE_VERSION_(MAJOR|MINOR|PATCH) //p' include/sae.h | paste -sd.)
grep -m1 '^## ' CHANGELOG.md >"$tmp/said"
grep -qE "^## $version( |\$)" "$tmp/said"
verdict "the first heading of CHANGELOG.md is not version $version" $? good
tail -n 20 lib/libsae.map | grep '^}' >"$tmp/said"
grep -qE "^SAE_${version%.*} \{" lib/libsae.map
verdict "lib/libsae.map has no node SAE_${version%.*}" $? good

# The checks can fail.
cp .clang-format ruff.toml "$tmp/"
echo 'int  f ( void ) {return 1;}' >"$tmp/bad.c"
"$bin/clang-format" --dry-run -Werror "$tmp/bad.c" >"$tmp/said" 2>&1
verdict 'ill laid out C was not found' $? bad
printf 'import os\ndef f(x):\n    match x:\n        case 1: pass\n' >"$tmp/bad.py"
"$bin/ruff" check --no-cache "$tmp/bad.py" >"$tmp/said" 2>&1
verdict 'bad Python was not found' $? bad
# shellcheck disable=SC2016 # that is the point
printf '#!/bin/sh\ncd $1\nrm $2\n' >"$tmp/bad.sh"
shellcheck "$tmp/bad.sh" >"$tmp/said" 2>&1
verdict 'a careless script was not found' $? bad
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
