#!/bin/sh
# The table of docs/formats.md is what tests/test_golden prints now. Usage: check-formats.sh BUILD [store]
#   store  writes it there
set -eu
build=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
CK_FORK=no "$build/tests/test_golden" --table | grep '^|' >"$tmp/table"
if [ "${2:-}" = store ]; then
    awk -v table="$tmp/table" '
        /^<!-- table -->$/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
        /^<!-- end -->$/ { skip = 0 }
        !skip' docs/formats.md >"$tmp/page"
    cat "$tmp/page" >docs/formats.md
    exit 0
fi
awk '/^<!-- end -->$/ { on = 0 } on; /^<!-- table -->$/ { on = 1 }' docs/formats.md >"$tmp/page"
rows=$(wc -l <"$tmp/page")
if [ "$rows" -gt 70 ] && diff "$tmp/page" "$tmp/table"; then
    echo "$rows passed, 0 failed"
else
    echo "check-formats: the table of docs/formats.md is not what build/tests/test_golden --table prints; tests/scripts/check-formats.sh BUILD store writes it" >&2
    echo "0 passed, 1 failed"
    exit 1
fi
