#!/usr/bin/env bash
# Declared = mapped = exported; every global of the archive carries the prefix; no object has writable data, but for the one that holds BLIS;
# no symbol of BLIS goes in or out. Usage: check-symbols.sh BUILD_DIR
set -u
build=${1:?a build directory}
passed=0
failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

verdict() { # verdict SENTENCE COMMAND...: it must succeed
    local sentence=$1
    shift
    if "$@" >"$tmp/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-symbols: $sentence"
        head -n 20 "$tmp/out"
    fi
}

declared() { sed -nE 's/^SAE_API [^(]*[ *](sae_[a-z0-9_]*)\(.*/\1/p' include/sae.h include/sae/*.h | sort; }
mapped() { sed -n 's/^ *\(sae_[a-z0-9_]*\);/\1/p' lib/libsae.map | sort; }
exported() { nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | sed 's/@.*//' | sort; }
unprefixed() { nm -g --defined-only "$1" | awk 'NF == 3 {print $3}' | grep -vE '^saei?_'; }
# Constants that hold addresses lie in .data.rel.ro, which is read-only once the library is loaded.
writable() { size -A "$1" | awk '/\(ex / { blis = $1 == "blis.o" } !blis && $1 ~ /^\.(t?data|t?bss)(\.|$)/ && $1 !~ /^\.data\.rel\.ro/ && $2 > 0'; }

of_blis() { awk '$NF ~ /^(bli|cblas)_/'; } # defined or wanted

declared >"$tmp/declared"
mapped >"$tmp/mapped"
exported "$build/libsae.so" >"$tmp/exported"
unprefixed "$build/libsae.a" >"$tmp/unprefixed"
writable "$build/libsae.a" >"$tmp/writable"
verdict 'not every SAE_API line of the headers was understood' test "$(cat include/sae.h include/sae/*.h | grep -c '^SAE_API')" = "$(wc -l <"$tmp/declared")"
verdict 'the headers (<) and lib/libsae.map (>) differ' diff "$tmp/declared" "$tmp/mapped"
verdict 'lib/libsae.map (<) and libsae.so (>) differ' diff "$tmp/mapped" "$tmp/exported"
verdict 'there are no symbols at all' test -s "$tmp/exported"
verdict 'globals of libsae.a without the prefix' diff /dev/null "$tmp/unprefixed"
verdict 'writable data in libsae.a' diff /dev/null "$tmp/writable"
verdict 'symbols of BLIS in libsae.so' diff /dev/null <(nm -D "$build/libsae.so" | of_blis)
verdict 'symbols of BLIS in libsae.a' diff /dev/null <(nm -g "$build/libsae.a" | of_blis)
verdict 'constants with addresses stay writable: libsae.so is not linked with -z relro' grep -q GNU_RELRO <(readelf -lW "$build/libsae.so")
verdict 'libsae.so needs more than libc, SQLite, zlib and libyaml' diff /dev/null <(readelf -d "$build/libsae.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libpthread|ld-linux.*|libgcc_s|libsqlite3|libz|libyaml-0)\.')

# The checks can fail.
printf '%s\n' 'int counter = 1;' 'static _Thread_local int mine;' 'int sae_fine(void);' 'int sae_fine(void) { return counter++ + mine++; }' >"$tmp/bad.c"
${CC:-cc} -fPIC -shared -o "$tmp/bad.so" "$tmp/bad.c"
${CC:-cc} -fPIC -c -o "$tmp/bad.o" "$tmp/bad.c"
verdict 'a global without the prefix was not found' test "$(unprefixed "$tmp/bad.o")" = counter
verdict 'writable data was not found' test "$(writable "$tmp/bad.o" | wc -l)" = 2
echo 'int bli_init(void); int sae_f(void); int sae_f(void) { return bli_init(); }' >"$tmp/leak.c"
${CC:-cc} -fPIC -shared -o "$tmp/leak.so" "$tmp/leak.c"
verdict 'a symbol of BLIS was not found' test "$(nm -D "$tmp/leak.so" | of_blis | wc -l)" = 1
mkdir "$tmp/archive"
cp "$tmp/bad.o" "$tmp/archive/blis.o"
(cd "$tmp/archive" && ar rcs one.a blis.o && ar rcs both.a blis.o ../bad.o)
verdict 'the writable data of BLIS was found' test "$(writable "$tmp/archive/one.a" | wc -l)" = 0
verdict 'writable data beside BLIS was not found' test "$(writable "$tmp/archive/both.a" | wc -l)" = 2
verdict 'an export that no header declares was not found' test "$(exported "$tmp/bad.so" | comm -13 "$tmp/declared" - | tr '\n' ' ')" = 'counter sae_fine '
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
