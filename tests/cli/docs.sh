#!/usr/bin/env bash
# docs/tool.md: its commands run, and every option of the tool is in it.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
page=$HERE/../../docs/tool.md
model=$GOLDEN/saelens/standard_relu
ln -s "$model" gemma
mkdir activations
"$PYTHON" "$HERE/make_shards.py" activations "$model" unembed 1000
echo '{"index": 3, "description": "the golden gate bridge", "maxActApprox": 3}' >features.jsonl
cp "$model/x.npy" x.npy
"$PYTHON" -c 'import numpy as np; np.save("direction.npy", np.load("x.npy")[1])'
sae() {
    "$SAE" "$@"
}
export SAE
export -f sae

lines=0
# shellcheck disable=SC2016 # the backticks are Markdown's
while read -r line; do
    lines=$((lines + 1))
    ok "$line" bash -c "set -o pipefail; $line"
done < <(sed -n '/^```sh/,/^```/{/^```/!p}' "$page")
ok "there are commands" test "$lines" -gt 10
for command in info convert verify encode decode forward neighbors steer 'catalog build' 'catalog import' 'catalog export' search top pull bench; do
    read -ra words <<<"$command"
    ok "a section on $command" grep -q "^## sae $command\$" "$page"
    while read -r option; do
        ok "$command $option is described" grep -qF -- "\`$option" "$page"
    done < <("$SAE" "${words[@]}" --help | grep -oE -- '^ +(-., )?--[a-z-]+' | grep -oE -- '--[a-z-]+')
done

finish
