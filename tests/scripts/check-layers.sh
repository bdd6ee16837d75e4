#!/usr/bin/env bash
# Folders of lib/ include themselves and what lies below them; only the folder meant for it talks to the system. Usage: check-layers.sh [BUILD_DIR]
set -u
passed=0
failed=0
order='base host simd env gemm io model codec'
top='steer distance' # on one line: they may not see each other

# layers ROOT: prints every include that points up or sideways.
layers() {
    local root=$1 below='' folder file seen ok
    for folder in $order $top; do
        [ -d "$root/$folder" ] || continue
        for file in "$root/$folder"/*.[ch]; do
            [ -e "$file" ] || continue
            # shellcheck disable=SC2013 # folder names are words
            for seen in $(sed -n 's/^#[[:space:]]*include "\([a-z]*\)\/.*/\1/p' "$file" | sort -u); do
                ok=
                for allowed in $below $folder sae; do [ "$seen" = "$allowed" ] && ok=yes; done
                [ -n "$ok" ] || echo "$file includes $seen/"
            done
        done
        case " $top " in *" $folder "*) ;; *) below="$below $folder" ;; esac
    done
}

# calls ROOT: prints what a guest library may not do, and system calls outside host/.
calls() {
    local root=$1
    grep -HnE '\b(printf|fprintf|puts|abort|exit|getenv|setenv|assert)\(' "$root"/*/*.[ch]
    grep -HnE '\b(malloc|calloc|realloc|free|posix_memalign|aligned_alloc|pthread_[a-z_]+|open|close|read|pread|mmap|munmap|fopen|clock_gettime|time)\(' \
        "$root"/*/*.[ch] | grep -v "^$root/host/" | grep -vE '(->|\.)(open|close|read)\('
    grep -HnE 'include <(immintrin|x86intrin|arm_neon|emmintrin)' "$root"/*/*.[ch] | grep -v "^$root/simd/"
    grep -Hn 'include <jansson' "$root"/*/*.[ch] | grep -v "^$root/io/"
}

verdict() { # verdict NAME OUTPUT WANT(empty|some)
    if { [ -z "$2" ] && [ "$3" = empty ]; } || { [ -n "$2" ] && [ "$3" = some ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-layers: $1"
        echo "$2"
    fi
}

for folder in lib/*/; do
    name=$(basename "$folder")
    case " $order $top " in *" $name "*) ;; *) verdict "lib/$name has no place in the order" "$name" empty ;; esac
done
verdict 'an include points up or sideways' "$(layers lib)" empty
verdict 'a call that does not belong there' "$(calls lib)" empty
verdict 'the tool sees more than the public headers' "$(grep -HnE '#include "(base|host|simd|env|gemm|io|model|codec|steer|distance)/' src/*.[ch])" empty

# The checks can fail.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/simd" "$copy/codec" "$copy/steer" "$copy/distance"
echo '#include "codec/codec.h"' >"$copy/simd/up.c"
verdict 'an include that points up was not found' "$(layers "$copy")" some
rm "$copy/simd/up.c"
echo '#include "distance/distance.h"' >"$copy/steer/sideways.c"
verdict 'an include that points sideways was not found' "$(layers "$copy")" some
echo 'void f(void) { abort(); }' >"$copy/codec/loud.c"
verdict 'abort() was not found' "$(calls "$copy")" some
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
