#!/bin/sh
# Installs what libsae needs and this machine lacks. Usage: install-deps.sh [build|demo|check|check-ecosystem|fuzz|bench]...
#   build  the library, the tool and the engine (the default; the others include it)
#   demo, check, check-ecosystem, fuzz, bench  what the goals of make with these names need besides
# On Debian and Ubuntu with apt-get, as root or through sudo, without questions; elsewhere it names the packages. Looks for the thing, not for the
# package, so it keeps quiet where all is there, however it came.
set -eu

debian='' fedora='' arch='' alpine=''

# need DEBIAN FEDORA ARCH ALPINE PROBE...: notes the packages unless the command PROBE succeeds.
need() {
    here="$1|$2|$3|$4"
    shift 4
    if "$@" >/dev/null 2>&1 </dev/null; then return; fi
    debian="$debian $(echo "$here" | cut -d'|' -f1)"
    fedora="$fedora $(echo "$here" | cut -d'|' -f2)"
    arch="$arch $(echo "$here" | cut -d'|' -f3)"
    alpine="$alpine $(echo "$here" | cut -d'|' -f4)"
}

# Can this compiler build, with these flags?
builds() {
    out=$(mktemp)
    program=$1
    compiler=$2
    shift 2
    rc=0
    echo "$program" | "$compiler" "$@" -x c -o "$out" - || rc=1
    rm -f "$out"
    return $rc
}

have() {
    command -v "$1"
}

serial_blis() {
    [ -e "$("${CC:-cc}" -print-file-name=blis-serial/libblis.a)" ]
}

pkg() {
    "${PKG_CONFIG:-pkg-config}" --exists "$1"
}

main='#include <stdio.h>
int main(void) { return puts("") < 0; }'
target='#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) { return !data && size; }'

for_build() {
    need 'gcc libc6-dev' gcc gcc 'gcc musl-dev' builds "$main" "${CC:-cc}"
    need make make make make have "${MAKE:-make}"
    need pkg-config pkgconf pkgconf pkgconf have "${PKG_CONFIG:-pkg-config}"
    need libjansson-dev jansson-devel jansson jansson-dev pkg jansson
    need libminizip-dev minizip-compat-devel minizip minizip-dev pkg minizip
    need libsqlite3-dev sqlite-devel sqlite sqlite-dev pkg sqlite3
    need libyaml-dev libyaml-devel libyaml yaml-dev pkg yaml-0.1
    need libxxhash-dev xxhash-devel xxhash xxhash-dev builds "#include <xxhash.h>
$main" "${CC:-cc}"
    need zlib1g-dev zlib-devel zlib zlib-dev pkg zlib
}

for_fuzz() {
    need "clang $(clang_runtime)" 'clang compiler-rt' 'clang compiler-rt' 'clang compiler-rt' builds "$target" clang -fsanitize=fuzzer,address
}

# Debian keeps libFuzzer in a package with clang's version in its name, Ubuntu too.
clang_runtime() {
    if have apt-cache >/dev/null; then
        apt-cache depends clang 2>/dev/null | sed -n 's/^ *Depends: clang-\([0-9]*\)$/libclang-rt-\1-dev/p'
    fi
}

for_demo() {
    need python3 python3 python python3 have "${PYTHON:-python3}"
}

for_python() {
    need 'python3 python3-venv' python3 python python3 "${PYTHON:-python3}" -c 'import ensurepip, venv'
}

for_check() {
    need g++ gcc-c++ gcc g++ builds "$main" "${CXX:-c++}"
    need check check-devel check check-dev pkg check
    # A choice of the library's; only Debian keeps the archive where the Makefile looks.
    if have apt-get >/dev/null; then need libblis-serial-dev blis-devel blis '' serial_blis; fi
    need shellcheck ShellCheck shellcheck shellcheck have shellcheck
    need abigail-tools libabigail abigail-tools libabigail-tools have abidiff
    need qemu-user qemu-user qemu-user 'qemu-aarch64 qemu-x86_64' have qemu-aarch64
    need 'gcc-aarch64-linux-gnu libc6-dev-arm64-cross' gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc '' \
        builds "$main" "${CROSS_CC:-aarch64-linux-gnu-gcc}" -static
    for_python
    for_fuzz
}

# What the demo's page is tried in, and a font for its Korean in the pictures.
for_browser() {
    need chromium chromium chromium chromium any_browser
    need 'fonts-nanum fontconfig' 'google-noto-sans-cjk-fonts fontconfig' 'noto-fonts-cjk fontconfig' 'font-noto-cjk fontconfig' korean_font
}

any_browser() {
    have chromium || have chromium-browser || have google-chrome
}

korean_font() {
    fc-list :lang=ko | grep -q .
}

for_bench() {
    need libblis-serial-dev blis-devel blis '' builds "#include <blis.h>
$main" "${CC:-cc}" -fsyntax-only
    for_python
}

for_build
for part in "$@"; do
    case $part in
    build) ;;
    demo | check | fuzz | bench) "for_$part" ;;
    check-ecosystem)
        for_python
        for_browser
        ;;
    *)
        echo 'usage: install-deps.sh [build|demo|check|check-ecosystem|fuzz|bench]...' >&2
        exit 2
        ;;
    esac
done
[ -n "$debian" ] || exit 0

if ! command -v apt-get >/dev/null; then
    cat >&2 <<TEXT
libsae needs packages that are not on this machine. They are called (untested)
  on Fedora   dnf install$fedora
  on Arch     pacman -S$arch
  on Alpine   apk add$alpine
  on Debian   apt-get install$debian
TEXT
    exit 1
fi

root=''
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: this needs root or sudo: apt-get install$debian" >&2
        exit 1
    fi
    root=sudo
fi

# install_all: the list may be stale or absent, then apt-get says so, and is asked again after an update.
install_all() {
    # shellcheck disable=SC2086 # a list of packages
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $debian >"$log" 2>&1
}

echo "install-deps.sh: ${root:+sudo }apt-get install$debian"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install_all; then
    echo "install-deps.sh: ${root:+sudo }apt-get update"
    $root apt-get update -qq
    # With the lists at hand the name of clang's runtime is known.
    case $debian in *' clang '*) debian="$debian $(clang_runtime)" ;; esac
    if ! install_all; then
        cat "$log" >&2
        exit 1
    fi
fi
