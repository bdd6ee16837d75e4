#!/bin/sh
# Builds every example as a stranger would: the library installed under a prefix of its own, flags from pkg-config, sources copied out
# of the tree, once against the shared library and once against the archive. Runs both and compares what they print with
# tests/golden/examples. Usage: check-examples.sh [BUILD_DIR]; UPDATE=1 rewrites the expected outputs.
set -eu

build=${1:-build}
root=$(pwd)
golden=tests/golden/examples
folder=$root/tests/golden/saelens/jumprelu_f32
flags='-std=c11 -O2 -Wall -Wextra -Wpedantic -Werror'
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "check-examples: $*" >&2
}

prefix=$tmp/usr
"${MAKE:-make}" --no-print-directory -s install B="$build" prefix="$prefix" DESTDIR= >"$tmp/install.log" 2>&1 || {
    cat "$tmp/install.log" >&2
    echo "check-examples: make install failed" >&2
    exit 1
}
PKG_CONFIG_PATH=$prefix/lib/pkgconfig:$prefix/lib64/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
pkg=${PKG_CONFIG:-pkg-config}
libdir=$($pkg --variable=libdir sae)
mkdir "$tmp/archive" "$tmp/src" "$tmp/out"
ln -s "$libdir/libsae.a" "$tmp/archive/libsae.a" # a folder without the .so, so that -lsae means the archive

# compile NAME shared|archive: SAN, when set, must be that of the library.
compile() {
    san=${SAN:+-fsanitize=$SAN}
    # shellcheck disable=SC2046,SC2086 # flags are words
    case $2 in
    shared) ${CC:-cc} $flags $san -o "$tmp/out/$1.$2" "$tmp/src/$1.c" $($pkg --cflags --libs sae) -lm -lpthread -Wl,-rpath,"$libdir" ;;
    archive) ${CC:-cc} $flags $san -o "$tmp/out/$1.$2" "$tmp/src/$1.c" -L"$tmp/archive" $($pkg --cflags --libs --static sae) ;;
    esac
}

# arguments NAME: what the script gives an example.
arguments() {
    case $1 in
    encode | neighbors | steer) echo "$folder" ;;
    esac
}

for source in examples/*.c; do
    name=$(basename "$source" .c)
    cp "$source" "$tmp/src/"
    for kind in shared archive; do
        if ! (cd "$tmp" && compile "$name" $kind) 2>"$tmp/log"; then
            bad "$name does not build against the installed library ($kind):" "$(cat "$tmp/log")"
            continue
        fi
        if [ $kind = archive ] && ldd "$tmp/out/$name.$kind" 2>/dev/null | grep -q 'libsae\.so'; then
            bad "$name was to be linked with libsae.a, but needs libsae.so"
            continue
        fi
        # shellcheck disable=SC2046 # no argument or one without spaces
        if ! (cd "$tmp" && "out/$name.$kind" $(arguments "$name")) >"$tmp/got" 2>"$tmp/log"; then
            bad "$name ($kind) failed:" "$(cat "$tmp/log")"
        elif [ -n "${UPDATE:-}" ] && [ $kind = shared ]; then
            cp "$tmp/got" "$golden/$name.txt"
            ok
        elif ! diff -u "$golden/$name.txt" "$tmp/got" >"$tmp/log" 2>&1; then
            bad "$name ($kind) prints something else than $golden/$name.txt:" "$(cat "$tmp/log")"
        else
            ok
        fi
    done
done

# BLIS, where the build has it, comes with the library: no example uses it, so a program here does. Beside it the host has a BLIS of its own.
cat >"$tmp/src/layer.c" <<'TEXT'
#include <sae.h>
#include <stdio.h>

char scratch[1 << 20];
void bli_init(void);
void bli_init(void)
{
    puts("the host's");
}

int main(void)
{
    const float w[] = {1, 2, 3, 4, 5, 6};
    float x[] = {1, 10, 100}, y[2];
    sae_env *env;
    sae_gemm *gemm;
    sae_gemm_weights weights = {.struct_size = sizeof weights, .dtype = SAE_F32, .w = w, .n_out = 2, .n_in = 3};
    sae_rows in = {sizeof in, SAE_F32, x, 0, 1, NULL}, out = {sizeof out, SAE_F32, y, 0, 1, NULL};
    int32_t backend = sae_gemm_blis_available() == SAE_YES ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE;
    if (sae_env_create(&env, NULL, NULL) || sae_gemm_pack(&gemm, env, &weights, backend, NULL) ||
        sae_gemm_run(gemm, &in, &out, scratch, sizeof scratch, NULL))
        return 1;
    printf("%g %g\n", (double)y[0], (double)y[1]);
    sae_gemm_free(gemm);
    sae_env_free(env);
    return 0;
}
TEXT
for kind in shared archive; do
    if (cd "$tmp" && compile layer $kind) 2>"$tmp/log" && "$tmp/out/layer.$kind" >"$tmp/got" 2>"$tmp/log" && [ "$(cat "$tmp/got")" = '321 654' ]; then
        ok
    else
        bad "a linear layer ($kind) does not build or gives something else:" "$(cat "$tmp/log" "$tmp/got")"
    fi
done

# An expected output without its example, and a wrong call, must not go unnoticed.
for text in "$golden"/*.txt; do
    name=$(basename "$text" .txt)
    if [ -f "examples/$name.c" ]; then ok; else bad "$text belongs to no example"; fi
done
for name in encode neighbors steer; do
    if "$tmp/out/$name.shared" /nonexistent >"$tmp/got" 2>"$tmp/log"; then
        bad "$name did not notice a missing folder"
    elif grep -q nonexistent "$tmp/log" && [ ! -s "$tmp/got" ]; then
        ok
    else
        bad "$name: the sentence for a missing folder does not name it:" "$(cat "$tmp/log")"
    fi
done

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
