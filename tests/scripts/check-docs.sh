#!/bin/sh
# Holds the documentation to the code: every public function is on a page of docs/, every relative link leads somewhere (and its #heading
# exists), every SAE_ constant that a page names is in the headers, and the C of the README's first screen stands in examples/encode.c.
set -eu

passed=0 failed=0
ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "check-docs: $*" >&2
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

cat docs/*.md >"$tmp/docs"
sed -n 's/^SAE_API [^(]*[ *]\(sae_[a-z0-9_]*\)(.*/\1/p' include/sae/*.h | sort >"$tmp/functions"
[ "$(wc -l <"$tmp/functions")" -eq "$(grep -hc '^SAE_API' include/sae/*.h | awk '{ n += $1 } END { print n }')" ] ||
    bad "not every SAE_API line of include/sae was understood"
while read -r name; do
    if grep -qE "\b$name\b" "$tmp/docs"; then ok; else bad "$name is on no page of docs/"; fi
done <"$tmp/functions"

# What pages name must exist: functions, constants.
grep -ohE '\bSAE_[A-Z0-9_]*[A-Z0-9]\b' docs/*.md README.md lib/README.md examples/README.md | sort -u >"$tmp/constants"
while read -r name; do
    # SAN flags and variables of make and of the environment are not constants of the library.
    case $name in SAE_TEST_DATA | SAE_API | SAE_PYTHON) continue ;; esac
    if grep -qE "\b$name\b" include/sae.h include/sae/*.h; then ok; else bad "the documentation names $name, the headers do not"; fi
done <"$tmp/constants"
grep -ohE '\bsae_[a-z0-9_]+\(' docs/*.md README.md examples/README.md | tr -d '(' | sort -u >"$tmp/called"
while read -r name; do
    # sae/ggml.h is glue that hosts compile: its functions are not the library's.
    if grep -qx "$name" "$tmp/functions" || grep -qE "^static inline .*\b$name\(" include/sae/ggml*.h; then ok; else bad "the documentation calls $name, the headers do not have it"; fi
done <"$tmp/called"

# Headings as GitHub makes anchors of them.
anchors() {
    sed -n 's/^##* //p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'
}
for page in README.md docs/*.md lib/README.md examples/README.md; do
    dir=$(dirname "$page")
    awk '/^```/ { code = !code } !code' "$page" | grep -oE '\]\([^)]+\)' | sed 's/^](//; s/)$//' | grep -vE '^[a-z]+:' >"$tmp/links" || true
    while read -r link; do
        file=${link%%#*}
        target=$page
        [ -z "$file" ] || target=$dir/$file
        if [ ! -e "$target" ]; then
            bad "$page links to $link, which is not there"
        elif [ "$link" != "$file" ] && ! anchors "$target" | grep -qx "${link#*#}"; then
            bad "$page links to $link, but $target has no such heading"
        else
            ok
        fi
    done <"$tmp/links"
done

# The first C block of the README, verbatim but for the indentation of the function that it stands in.
awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md >"$tmp/snippet"
sed 's/^    //' examples/encode.c >"$tmp/example"
if [ ! -s "$tmp/snippet" ]; then
    bad "README.md has no C block"
elif awk 'NR == FNR { want = want $0 "\n"; next } { have = have $0 "\n" } END { exit index(have, want) ? 0 : 1 }' "$tmp/snippet" "$tmp/example"; then
    ok
else
    bad "the first C block of README.md does not stand in examples/encode.c"
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
