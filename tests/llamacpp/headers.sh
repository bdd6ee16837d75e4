#!/usr/bin/env bash
# The headers of the llama.cpp that the installed xllamacpp holds, which its source brings along: into VENV/include/llama.cpp.
# Usage: headers.sh VENV
set -eu
venv=${1:?a virtual environment}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
wanted=$(grep '^xllamacpp==' "$(dirname "$0")/requirements.txt")
"$venv/bin/pip" -qq --disable-pip-version-check download --no-deps --no-binary xllamacpp -d "$tmp" "$wanted"
mkdir -p "$venv/include/llama.cpp"
tar -xzf "$tmp"/xllamacpp-*.tar.gz -C "$venv/include/llama.cpp" --strip-components=4 --wildcards '*/thirdparty/llama.cpp/include/*.h'
tar -xzf "$tmp"/xllamacpp-*.tar.gz -C "$venv/include/llama.cpp" --strip-components=5 --wildcards '*/thirdparty/llama.cpp/ggml/include/*.h'
