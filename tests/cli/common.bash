# Sourced by the tests of the tool. Needs $SAE (the binary) and $PYTHON with NumPy; each test works in a folder of its own and
# closes with "N passed, N failed".
# shellcheck shell=bash
set -u

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SAE=${SAE:?set SAE to the sae binary}
case $SAE in */*) SAE=$(cd "$(dirname "$SAE")" && pwd)/$(basename "$SAE") ;; esac
PYTHON=${PYTHON:-python3}
export GOLDEN=$HERE/../golden
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export TMPDIR=$WORK/tmp
mkdir "$WORK/tmp" "$WORK/in" "$WORK/out"
cd "$WORK" || exit 1
passed=0
failed=0

pass() {
    passed=$((passed + 1))
}

fail() {
    failed=$((failed + 1))
    printf 'FAILED %s: %s\n' "$(basename "$0")" "$*"
}

# ok NAME COMMAND...: the command succeeds.
ok() {
    local name=$1
    shift
    if "$@" >"$WORK/ok.txt" 2>&1; then
        pass
    else
        fail "$name"
        sed 's/^/    /' "$WORK/ok.txt"
    fi
}

# py NAME CODE [ARG...]: Python with numpy as np, json, sys and the arguments as `a`; asserts are the test.
py() {
    local name=$1 code=$2
    shift 2
    ok "$name" "$PYTHON" -c "import json, sys, numpy as np
a = sys.argv[1:]
$code" "$@"
}

# says NAME TEXT COMMAND...: success, and standard output contains TEXT.
says() {
    local name=$1 text=$2
    shift 2
    if "$@" >"$WORK/said.txt" 2>"$WORK/err.txt" && grep -qF -- "$text" "$WORK/said.txt"; then
        pass
    else
        fail "$name: no '$text' in"
        sed 's/^/    /' "$WORK/said.txt" "$WORK/err.txt"
    fi
}

# refuses STATUS TEXT ARG...: `sae ARG...` ends with that status, prints nothing but one sentence on standard error that begins with
# "sae" and contains TEXT, and leaves no file in the folders for outputs and temporary files.
refuses() {
    local status=$1 text=$2 got
    shift 2
    # a command that fails leaves its memory to exit(), which is no leak
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 "$SAE" "$@" >"$WORK/said.txt" 2>"$WORK/err.txt" </dev/null
    got=$?
    check_refusal "$status" "$text" "$got" "sae $*"
}

# The same for a command that has run already, with its outputs in said.txt and err.txt.
check_refusal() {
    local status=$1 text=$2 got=$3 name=$4 left
    left=$(find "$WORK/out" "$TMPDIR" -mindepth 1)
    if [ "$got" = "$status" ] && [ "$(grep -cv 'warning: ' "$WORK/err.txt")" = 1 ] && grep -q '^sae' "$WORK/err.txt" &&
        grep -qF -- "$text" "$WORK/err.txt" && [ ! -s "$WORK/said.txt" ] && [ -z "$left" ]; then
        pass
    else
        fail "$name: status $got (wanted $status), left '$left', wanted the sentence '$text', got"
        sed 's/^/    /' "$WORK/err.txt" "$WORK/said.txt"
    fi
    rm -rf "$WORK/out" && mkdir "$WORK/out"
}

finish() {
    if [ -n "$(ls -A "$TMPDIR")" ]; then
        fail "temporary files were left: $(ls -A "$TMPDIR")"
    fi
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}
