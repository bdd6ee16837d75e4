#!/usr/bin/env bash
# toy.c on the ggml of the package libggml-python, whose headers and libraries need no compiling. Usage: toy.sh BUILD_DIR
set -u
build=$(realpath "${1:?a build directory}")
here=$(dirname "$0")
ggml=$("$build/venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("libggml").submodule_search_locations[0])' 2>/dev/null) || {
    echo 'skip: a graph in ggml, whose package libggml-python has no binary for this Python or machine'
    exit 0
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

verdict() { # verdict NAME STATUS
    if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "toy: $1" && head -n 20 "$tmp/said"; fi
}

flags="-O1 -g -Wall -Wextra -Wpedantic -Wshadow -Werror -I$here/../../include -isystem $ggml/include"
link="-L$build -lsae -L$ggml/lib64 -lggml -lggml-base -lggml-cpu -ldl -Wl,-rpath,$build:$ggml/lib64"
# shellcheck disable=SC2086 # flags are words
for compiler in "${CC:-cc} -std=c11 -D_GNU_SOURCE" 'clang -std=c11 -D_GNU_SOURCE'; do
    $compiler $flags -o "$tmp/toy" "$here/toy.c" $link >"$tmp/said" 2>&1 && "$tmp/toy" >"$tmp/said" 2>&1
    verdict "$compiler toy.c" $?
    ours=$(grep -oE '^[0-9]+ passed' "$tmp/said" | cut -d' ' -f1)
    passed=$((passed + ${ours:-0}))
done
# The header is for C++ too.
printf '#include <sae/ggml.h>\n#include <sae/ggml.h>\nbool (*hook)(struct ggml_tensor *, bool, void *) = sae_ggml_eval;\n' >"$tmp/hook.cpp"
for compiler in 'g++ -std=c++17' 'clang++ -std=c++17'; do
    # shellcheck disable=SC2086 # flags are words
    $compiler $flags -fsyntax-only "$tmp/hook.cpp" >"$tmp/said" 2>&1
    verdict "$compiler sae/ggml.h" $?
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
