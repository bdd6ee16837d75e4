#!/usr/bin/env bash
# Runs what make has built in $B, and counts. Usage: tests/run.sh c|all|ecosystem
#   c  the C programs        all  those and everything else of `make check`
#   ecosystem  llama.cpp, the comparison with torch and SAELens, the demo's page in a browser, every figure of the world
# An item is a command; what it says goes to $B/log/NAME, and is shown when it fails. Closes with "N passed, N failed".
set -u
cd "$(dirname "$0")/.." || exit 1
B=$(realpath -m "${B:-build}") # absolute: tests change folders
python=$B/venv/bin/python
logs=$B/log
mkdir -p "$logs"
total_passed=0
total_failed=0

# Every kind of closing line that our tests have: Check, pytest, and "N passed, N failed" of everything else.
count() {
    awk '
        /^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+$/ { gsub(/[^0-9 ]/, ""); passed += $2 - $3 - $4; failed += $3 + $4 }
        /^([a-z-]+: )?[0-9]+ passed, [0-9]+ failed$/ { sub(/^[a-z-]+: /, ""); passed += $1; failed += $3 }
        /^(=+ )?[0-9]+ [a-z]+.* in [0-9.]+s/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^(failed|errors?)/) failed += $(i - 1)
            }
        }
        END { print passed + 0, failed + 0 }' "$1"
}

item() { # item NAME COMMAND...
    local name=$1 rc=0 passed failed began=$SECONDS
    local log=$logs/$name
    shift
    "$@" >"$log" 2>&1 </dev/null || rc=$?
    read -r passed failed < <(count "$log")
    if [ "$passed" = 0 ] && [ "$failed" = 0 ] && ! grep -qE '^skip|skipped' "$log"; then
        failed=1
        echo "$name ran no test" >>"$log"
    elif [ $rc -ne 0 ] && [ "$failed" = 0 ]; then
        failed=1
    fi
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    if [ "$failed" = 0 ]; then
        printf '  ok    %-28s %6d passed %5d s\n' "$name" "$passed" $((SECONDS - began))
        grep '^skip' "$log"
    else
        printf '  FAIL  %-28s %6d passed, %d failed, exit %d: %s\n' "$name" "$passed" "$failed" "$rc" "$log"
        tail -n 40 "$log" | sed 's/^/        /'
    fi
}

# Most of these start no threads, which leaves nothing for their sanitizer; test_torture does, and takes too long under it: test_host,
# test_properties, test_temporal and the api_ programs run the same code on threads.
single='test_(base|bits|data|formats|gguf|golden|hostile|io|kernels|packed|sae_file|screen|torch|torture|yaml|zip)|api_save|fuzz_.*'

c_programs() {
    local source name
    # A sanitizer ends the program at its first find anyway, and takes a second for each fork.
    if [ -n "${SAN:-}" ]; then export CK_FORK=no; fi
    for source in tests/test_*.c tests/api_*.c; do
        name=$(basename "$source" .c)
        if [ "${SAN:-}" = thread ] && [[ $name =~ ^($single)$ ]]; then continue; fi
        case $name in
        test_bits) item "$name" "$B/tests/$name" tests/golden/bits.txt ;;
        *) item "$name" "$B/tests/$name" ;;
        esac
    done
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        if [ "${SAN:-}" = thread ] && [[ $name =~ ^($single)$ ]]; then continue; fi
        item "$name" "$B/tests/fuzz/$name" "tests/fuzz/corpus/$name"
    done
}

# The core where other processors are in charge: aarch64, with matrix products of bytes, with dot products of them and with neither; x86-64
# before AVX, and one with AVX2 but no AVX-512.
emulated() {
    local name cpu arguments
    for cpu in neoverse-n1 cortex-a72; do # test_bits multiplies no bytes
        if qemu-aarch64 -cpu help | grep -qw $cpu; then
            item "test_kernels-$cpu" qemu-aarch64 -cpu $cpu "$B/aarch64/test_kernels"
        else
            echo "skip: the kernels on $cpu, which this qemu-aarch64 does not know"
        fi
    done
    for name in test_kernels test_bits; do
        arguments=()
        if [ $name = test_bits ]; then arguments=(tests/golden/bits.txt --brief); fi
        item "$name-aarch64" qemu-aarch64 "$B/aarch64/$name" "${arguments[@]}"
        [ "$(uname -m)" = x86_64 ] || continue
        for cpu in Nehalem Haswell; do
            item "$name-$cpu" qemu-x86_64 -cpu $cpu "$B/tests/$name" "${arguments[@]}"
        done
    done
}

tool() {
    local script
    for script in tests/cli/*.sh; do
        item "cli-$(basename "$script" .sh)" env SAE="$B/sae" PYTHON="$python" bash "$script"
    done
}

everything() {
    local script
    c_programs
    tool
    # A library with a sanitizer in it fits into no other program, and its symbols are not those of a release.
    if [ -n "${SAN:-}" ]; then return; fi
    emulated
    for script in tests/scripts/check-*.sh; do
        item "$(basename "$script" .sh)" bash "$script" "$B"
    done
    item python env LIBSAE_LIBRARY="$B/libsae.so" PYTHONPATH=bindings/python "$python" -m pytest -q -p no:cacheprovider bindings/python/tests
    item ggml bash tests/ggml/toy.sh "$B"
    item engine env B="$B" "$python" -m pytest -q -p no:cacheprovider tests/engine
    item world env B="$B" LIBSAE_LIBRARY="$B/libsae.so" PYTHONPATH=bindings/python "$python" -m pytest -q -p no:cacheprovider tests/world
    item demo env B="$B" "$python" -m pytest -q -p no:cacheprovider tests/demo
    if [ -z "${SAE_TEST_DATA:-}" ]; then echo 'skip: SAEs trained on real activations (make check SAE_TEST_DATA=DIR)'; fi
    echo 'skip: the comparison with torch and SAELens and the page in a browser, which need large packages (make check-ecosystem)'
}

# Somebody else's engine, from a package of its own.
llamacpp() {
    if [ ! -e "$B/venv-llamacpp/ready" ]; then
        echo "skip: watching and steering llama.cpp, because pip could not install tests/llamacpp/requirements.txt and the headers beside it"
        return
    fi
    item llamacpp env B="$B" ENGINE="$B/engine" LIBSAE_LIBRARY="$B/libsae.so" PYTHONPATH=bindings/python \
        "$B/venv-llamacpp/bin/python" -m pytest -q -p no:cacheprovider tests/llamacpp
}

ecosystem() {
    llamacpp
    if [ ! -e "$B/venv-ecosystem/ready" ]; then
        echo "skip: the comparison with SAELens and the page in a browser, because pip could not install tests/ecosystem/requirements.txt"
        return
    fi
    item ecosystem env LIBSAE_LIBRARY="$B/libsae.so" PYTHONPATH=bindings/python:tests/ecosystem B="$B" SAE="$B/sae" ENGINE="$B/engine" \
        "$B/venv-ecosystem/bin/python" -m pytest -q -p no:cacheprovider tests/ecosystem
    item world-check env LIBSAE_LIBRARY="$B/libsae.so" PYTHONPATH=bindings/python "$B/venv-ecosystem/bin/python" examples/world/check_world.py
}

case ${1:-} in
c) c_programs ;;
all) everything ;;
ecosystem) ecosystem ;;
*)
    echo 'usage: tests/run.sh c|all|ecosystem' >&2
    exit 2
    ;;
esac
echo "$total_passed passed, $total_failed failed"
[ $total_failed -eq 0 ]
