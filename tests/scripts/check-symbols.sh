#!/usr/bin/env bash
# Declared = mapped = exported; every global of the archive carries the prefix; no object has writable data. Usage: check-symbols.sh [BUILD_DIR]
set -u
build=${1:-build}
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

verdict() { # verdict NAME COMMAND...: it must succeed
    local name=$1
    shift
    if "$@" >"$tmp/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-symbols: $name"
        head -n 20 "$tmp/out"
    fi
}

declared() { sed -n 's/^SAE_API .*[ *]\(sae_[a-z0-9_]*\)(.*/\1/p' include/sae/*.h | sort; }
mapped() { sed -n 's/^ *\(sae_[a-z0-9_]*\);/\1/p' "${1:-lib/libsae.map}" | sort; }
exported() { nm -D --defined-only "$build/libsae.so" | sed -n 's/.* T \([a-z0-9_]*\)@.*/\1/p' | sort; }
unprefixed() { nm -g --defined-only "$1" | awk 'NF==3 {print $3}' | grep -vE '^saei?_|^__(asan|tsan|ubsan|odr)'; }
writable() { size -A "$1" | awk '$1 ~ /^\.(data|bss)(\.|$)/ && $1 !~ /^\.data\.rel\.ro/ && $2 > 0'; }

declared >"$tmp/declared"
mapped >"$tmp/mapped"
exported >"$tmp/exported"
verdict 'the headers and lib/libsae.map differ' diff "$tmp/declared" "$tmp/mapped"
verdict 'lib/libsae.map and libsae.so differ' diff "$tmp/mapped" "$tmp/exported"
verdict 'there are symbols at all' test -s "$tmp/exported"
unprefixed "$build/libsae.a" >"$tmp/unprefixed"
verdict 'a global of libsae.a has no prefix' diff /dev/null "$tmp/unprefixed"
writable "$build/libsae.a" >"$tmp/writable"
verdict 'an object of libsae.a has writable data' diff /dev/null "$tmp/writable"

# The checks can fail.
echo 'int counter = 1; int sae_fine(void) { return counter++; }' >"$tmp/bad.c"
cc -c -o "$tmp/bad.o" "$tmp/bad.c"
verdict 'a global without the prefix was not found' test -n "$(unprefixed "$tmp/bad.o")"
verdict 'writable data was not found' test -n "$(writable "$tmp/bad.o")"
sed '0,/sae_/s/ sae_[a-z0-9_]*;/ sae_gone;/' lib/libsae.map >"$tmp/other.map"
mapped "$tmp/other.map" >"$tmp/other"
verdict 'a changed map was not found' sh -c "! diff -q '$tmp/declared' '$tmp/other'"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
