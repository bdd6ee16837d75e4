#!/bin/sh
# The bench on a tiny SAE: workers, checks, tables. Usage: check-bench.sh BUILD_DIR
set -eu
build=${1:?a build directory}
if [ -n "${SAN:-}" ]; then
    echo "skip: the bench under a sanitizer"
    echo "0 passed, 0 failed"
    exit 0
fi
B=$build "$build/venv/bin/python" -m pytest -q -p no:cacheprovider tests/bench
