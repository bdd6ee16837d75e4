#!/usr/bin/env bash
# Folders of lib/ include themselves and what lies below them, and only the folder meant for it talks to the system: by the sources (without
# comments and strings), and by what their objects ask of libc. Usage: check-layers.sh BUILD_DIR
set -u
build=${1:?a build directory}
passed=0
failed=0
order='base host simd env gemm io model codec'
top='steer taps distance features save' # on one line: they may not see each other
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# What all folders but host/ may ask of libc: pure functions whose results are the same everywhere. No exp or atan2: they differ between
# C libraries. What the compiler adds by itself is fine.
pure='mem(cpy|move|set|cmp|chr)|strn?(len|cmp|chr|cat)|strrchr|strspn|strstr|v?snprintf|fmaf?|sqrtf?|ldexp|saei?_.*|_GLOBAL_OFFSET_TABLE_|__.*_chk|__stack_chk_(fail|guard)'

# layers ROOT: every include that points up or sideways, or out of the order.
layers() {
    local root=$1 below='' folder file seen
    for folder in "$root"/*/; do
        folder=$(basename "$folder")
        case " $order $top " in *" $folder "*) ;; *) echo "$root/$folder has no place in the order" ;; esac
    done
    for folder in $order $top; do
        for file in "$root/$folder"/*.[ch]; do
            [ -e "$file" ] || continue
            while read -r seen; do
                case " $below $folder " in *" $seen "*) ;; *) echo "$file includes $seen/" ;; esac
            done < <(sed -nE 's/^#[[:space:]]*include[[:space:]]*"([^"]*)".*/\1/p' "$file" | grep -vE '^sae(/[a-z]+)?\.h$' | sed 's:/.*::' | sort -u)
        done
        case " $top " in *" $folder "*) ;; *) below="$below $folder" ;; esac
    done
}

# calls ROOT: what a guest library may not do, and the system outside host/, intrinsics outside simd/, jansson, zlib and libyaml outside io/, SQLite
# outside features/, BLIS outside its file.
calls() {
    local file code
    for file in "$1"/*/*.[ch]; do
        [ -e "$file" ] || continue
        code=$(gcc -fpreprocessed -dD -E -P "$file" 2>/dev/null | sed -E 's/"(\\.|[^"\])*"/""/g')
        found "$file" "$code" '\b(v?f?printf|f?puts|f?putc|putchar|perror|abort|_?exit|(secure_)?getenv|setenv|assert|setlocale|signal|strtok)[[:space:]]*\('
        case $file in
        "$1"/host/*) ;;
        *)
            found "$file" "$code" '(^|[^a-z_>.])(malloc|calloc|realloc|free|posix_memalign|aligned_alloc|open|close|p?read|mmap|munmap|fopen|time)[[:space:]]*\('
            found "$file" "$code" '\b(pthread_|clock_gettime|sysconf)'
            ;;
        esac
        case $file in "$1"/simd/* | "$1"/host/fpmode.c) ;; *) found "$file" "$code" 'include[[:space:]]*<([a-z]*intrin|arm_neon|arm_acle)\.h' ;; esac
        case $file in "$1"/gemm/blis.c) ;; *) found "$file" "$code" 'include[[:space:]]*<blis|\bbli_' ;; esac
        case $file in "$1"/features/*) ;; *) found "$file" "$code" 'include[[:space:]]*<sqlite3' ;; esac
        case $file in "$1"/io/*) ;; *) found "$file" "$code" 'include[[:space:]]*<(jansson|zlib|yaml)' ;; esac
    done
}

found() { # found FILE CODE PATTERN
    grep -nE -- "$3" <<<"$2" | sed "s:^:$1\: :"
}

# imports ROOT: what objects outside host/ ask for beyond the pure functions of libc. BLIS is for one of them; readers of files ask zlib, for
# what needs no file of its own, one of them libyaml; catalogs ask SQLite too, and log: an order of search results may differ in the last digit.
imports() {
    local object
    for object in "$1"/*/*.o; do
        case $object in
        "$1"/host/*) ;;
        "$1"/gemm/blis.o) nm -u "$object" | awk '{print $NF}' | grep -vxE "$pure|bli_.*" | sed "s:^:$object needs :" ;;
        "$1"/io/yaml.o) nm -u "$object" | awk '{print $NF}' | grep -vxE "$pure|yaml_.*" | sed "s:^:$object needs :" ;;
        "$1"/io/*) nm -u "$object" | awk '{print $NF}' | grep -vxE "$pure|inflate(Init2_|End)?|crc32_z" | sed "s:^:$object needs :" ;;
        "$1"/features/*) nm -u "$object" | awk '{print $NF}' | grep -vxE "$pure|sqlite3_.*|log" | sed "s:^:$object needs :" ;;
        *) nm -u "$object" | awk '{print $NF}' | grep -vxE "$pure" | sed "s:^:$object needs :" ;;
        esac
    done
}

verdict() { # verdict NAME OUTPUT empty|some
    if { [ -z "$2" ] && [ "$3" = empty ]; } || { [ -n "$2" ] && [ "$3" = some ]; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "check-layers: $1"
        echo "$2"
    fi
}

verdict 'an include points up or sideways' "$(layers lib)" empty
verdict 'a call that does not belong there' "$(calls lib)" empty
verdict 'an object outside host/ needs the system' "$(imports "$build/lib")" empty
inside='^#[[:space:]]*include[[:space:]]*"(lib|'${order// /|}'|'${top// /|}')/'
# shellcheck disable=SC2046 # file names without spaces
verdict 'what is outside lib/ sees more than the public headers' \
    "$(grep -nE "$inside" $(find src examples bindings bench -name '*.[ch]' 2>/dev/null) tests/api_*.c /dev/null)" empty

# planted FOLDER NAME LINE CHECK: a file with this line is found by the check.
planted() {
    local root=$tmp/root
    rm -rf "$root"
    mkdir -p "$root/$1"
    printf '%s\n' "$3" >"$root/$1/$2.c"
    if [ "$4" = imports ]; then ${CC:-cc} -w -c -o "$root/$1/$2.o" "$root/$1/$2.c"; fi
    verdict "'$3' in $1/ was not found" "$("$4" "$root")" some
}
# The checks can fail.
planted simd up '#include "codec/codec.h"' layers
planted steer sideways '#include "distance/angle.h"' layers
planted fuzzy new '' layers
planted codec loud 'void f(void) { abort(); }' calls
planted model memory 'void *f(void) { return malloc (1); }' calls
planted gemm lanes '#include <immintrin.h>' calls
planted codec blas '#include <blis.h>' calls
planted model text '#include <jansson.h>' calls
planted features pack '#include <zlib.h>' calls
planted codec config '#include <yaml.h>' calls
planted steer rows '#include <sqlite3.h>' calls
planted distance database 'int sqlite3_sleep(int); int f(void) { return sqlite3_sleep(1); }' imports
planted io gzip 'int gzopen(int); int f(void) { return gzopen(1); }' imports
planted codec inflate 'int inflate(int); int f(void) { return inflate(1); }' imports
planted steer libm 'double exp(double); double f(double x) { return exp(x); }' imports
planted gemm blis 'int abort(void); int bli_init(void); int f(void) { return bli_init() + abort(); }' imports
planted io json 'int yaml_parser_parse(void); int f(void) { return yaml_parser_parse(); }' imports
planted gemm tile 'int bli_init(void); int f(void) { return bli_init(); }' imports
mkdir -p "$tmp/talk/codec"
echo 'const char *f(void) { return "a \"free (x)"; } /* free(x) */' >"$tmp/talk/codec/talk.c"
verdict 'a comment or a string was taken for a call' "$(calls "$tmp/talk")" empty
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
