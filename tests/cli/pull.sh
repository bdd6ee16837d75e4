#!/usr/bin/env bash
# sae pull: what the tool itself does of it. The downloads are tested where they are written, in bindings/python/tests/test_hub.py.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
package=$(cd "$HERE/../../bindings/python" && pwd)

# No Python, and a Python without the package, even where the current folder has one of that name.
export SAE_PYTHON=$WORK/nowhere
refuses 1 "cannot run $WORK/nowhere" pull someone/some-sae
says "help needs no Python" "Usage: sae pull" "$SAE" pull someone/some-sae --help
export SAE_PYTHON=$PYTHON
mkdir libsae
echo 'raise SystemExit("the wrong package")' >libsae/__init__.py
unset PYTHONPATH LIBSAE_LIBRARY
refuses 1 'cannot load the Python package libsae' pull someone/some-sae
refuses 1 'pip install "libsae[hub]"' pull someone/some-sae

# Every word arrives as it is.
# shellcheck disable=SC2016 # for the shell that is written
printf '#!/bin/sh\nshift 2\nfor word; do printf "<%%s>\\n" "$word"; done\nexit 7\n' >fake
chmod +x fake
SAE_PYTHON=$WORK/fake "$SAE" pull a/b "x  y" '' "it's" --json -- --help >said.txt 2>err.txt
ok "its exit status" test $? = 7
printf '<%s>\n' a/b "x  y" '' "it's" --json -- --help >want.txt
ok "its words" cmp want.txt said.txt
mkdir bin
ln -s "$WORK/fake" bin/python3
ok "python3 of the path" test "$(SAE_PYTHON='' PATH=$WORK/bin:$PATH "$SAE" pull q)" = "<q>"

# The tool tells of the options that the package has. (A library with a sanitizer in it cannot be loaded by Python.)
export PYTHONPATH=$package LIBSAE_LIBRARY
LIBSAE_LIBRARY=$(dirname "$SAE")/libsae.so
rm -r libsae
flags() {
    grep -oE -- '^ +(-[a-z][^-]*)?--[a-z-]+' | grep -oE -- '--[a-z-]+' | sort
}
if "$PYTHON" -c 'import libsae' 2>err.txt; then
    "$SAE" pull --help | flags >tool.txt
    "$PYTHON" -m libsae pull --help | flags >python.txt
    ok "the same options" cmp tool.txt python.txt
    ok "there are options" test "$(wc -l <tool.txt)" = 6
    refuses 2 "unrecognized arguments: --colour" pull someone/some-sae --colour
fi
finish
