#!/bin/sh
# Installs what libsae needs and this machine lacks: `install-deps.sh build` for the library, the tool and the demo, `install-deps.sh check`
# for the tests too. Debian and Ubuntu, as root or with sudo; elsewhere it names the packages. Does nothing when all is there.
set -eu

build='gcc make pkg-config libjansson-dev libminizip-dev libc6-dev'
check='g++ check clang clang-format shellcheck abigail-tools qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross python3 python3-venv binutils patchelf'

case ${1:-build} in
build) wanted=$build ;;
check) wanted="$build $check" ;;
*)
    echo "usage: install-deps.sh [build|check]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
    for tool in "${CC:-cc}" make pkg-config; do
        command -v "$tool" >/dev/null 2>&1 || missing=yes
    done
    pkg-config --exists jansson minizip 2>/dev/null || missing=yes
    [ -z "${missing:-}" ] && exit 0
    cat >&2 <<'TEXT'
libsae needs a C compiler, make, pkg-config, jansson and minizip (tests: check). On your system (untested):
  Fedora  dnf install gcc make pkgconf jansson-devel minizip-compat-devel check-devel
  Arch    pacman -S gcc make pkgconf jansson minizip check
  Alpine  apk add build-base pkgconf jansson-dev minizip-dev check-dev
TEXT
    exit 1
fi

missing=
for package in $wanted; do
    [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = 'install ok installed' ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "libsae needs these packages, and this is neither root nor a machine with sudo: apt-get install$missing" >&2
        exit 1
    }
    sudo=sudo
fi
echo "installing with apt-get:$missing"
$sudo apt-get update -qq
# shellcheck disable=SC2086 # a list
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
