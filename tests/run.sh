#!/usr/bin/env bash
# Runs tests and counts them: `tests/run.sh c` the C programs of $B, `all` those and everything else of `make check`, `ecosystem` the comparison
# with torch and SAELens. Output goes to $B/log/NAME; a line per item, then "N passed, N failed". A failing item's log is shown.
set -u
cd "$(dirname "$0")/.." || exit 1
B=$(realpath -m "${B:-build}") # absolute: tests change folders
logs=$B/log
mkdir -p "$logs"
total_passed=0
total_failed=0

# Sums what Check, pytest and our own programs say; an item that says nothing counts as one.
count() {
    sed -nE \
        -e 's/^[0-9]+%: Checks: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+)$/c \1 \2 \3/p' \
        -e 's/^([0-9]+) passed, ([0-9]+) failed.*$/o \1 \2/p' \
        -e 's/^(=+ )?([0-9]+) failed, ([0-9]+) passed.* in [0-9.]+s.*$/o \3 \2/p' \
        -e 's/^(=+ )?([0-9]+) passed.* in [0-9.]+s.*$/o \2 0/p' "$1" |
        awk '$1=="c"{p+=$2-$3-$4; f+=$3+$4} $1=="o"{p+=$2; f+=$3} END{print p+0, f+0}'
}

item() {
    local name=$1 rc=0 passed failed
    shift
    "$@" >"$logs/$name" 2>&1 </dev/null || rc=$?
    read -r passed failed < <(count "$logs/$name")
    if [ $rc -ne 0 ] && [ "$failed" = 0 ]; then failed=1; fi
    if [ "$passed" = 0 ] && [ "$failed" = 0 ]; then passed=1; fi
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    if [ "$failed" = 0 ]; then
        printf '  ok    %-28s %5d\n' "$name" "$passed"
        grep -h '^skip' "$logs/$name"
    else
        printf '  FAIL  %-28s %5d passed, %d failed (exit %d)\n' "$name" "$passed" "$failed" "$rc"
        tail -n 40 "$logs/$name" | sed 's/^/      /'
    fi
}

c_tests() {
    local test name
    for test in tests/test_*.c tests/api_*.c; do
        [ -e "$test" ] || continue
        name=$(basename "$test" .c)
        case $name in
        test_bits) item "$name" "$B/tests/$name" tests/golden/bits.txt ;;
        *) item "$name" "$B/tests/$name" ;;
        esac
    done
}

# The core programs where other instruction sets are in charge: the bits must not move.
emulated() {
    local program cpu
    for program in test_kernels test_bits; do
        [ -e "$B/aarch64/$program" ] || continue
        item "$program-aarch64" qemu-aarch64 "$B/aarch64/$program" tests/golden/bits.txt
        [ "$(uname -m)" = x86_64 ] || continue
        for cpu in Nehalem Haswell; do
            item "$program-$cpu" qemu-x86_64 -cpu $cpu "$B/tests/$program" tests/golden/bits.txt
        done
    done
}

everything() {
    local script
    c_tests
    emulated
    for script in tests/scripts/check-*.sh; do
        item "$(basename "$script" .sh)" bash "$script" "$B"
    done
    for script in tests/cli/*.sh; do
        item "cli-$(basename "$script" .sh)" env SAE="$B/sae" PYTHON="$B/venv/bin/python" bash "$script"
    done
    if [ -d bindings/python/tests ]; then
        item python env LIBSAE_LIBRARY="$(realpath "$B/libsae.so")" PYTHONPATH=bindings/python "$B/venv/bin/python" -m pytest -q bindings/python/tests
    fi
}

ecosystem() {
    if ls bindings/python/libsae/__init__.py >/dev/null 2>&1; then
        item ecosystem env LIBSAE_LIBRARY="$(realpath "$B/libsae.so")" PYTHONPATH=bindings/python:tests/ecosystem SAE="$B/sae" \
            "$B/venv-ecosystem/bin/python" -m pytest -q tests/ecosystem
    else
        echo "skip: the comparison with SAELens needs the Python package"
    fi
}

case ${1:-all} in
c) c_tests ;;
all) everything ;;
ecosystem) ecosystem ;;
esac
if [ -z "${SAE_TEST_DATA:-}" ] && [ "${1:-all}" = all ]; then echo "skip: real activations (make check SAE_TEST_DATA=DIR)"; fi
echo "$total_passed passed, $total_failed failed"
[ $total_failed -eq 0 ]
