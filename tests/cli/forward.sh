#!/usr/bin/env bash
# sae forward.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

near='x, y = np.load(a[0]), np.load(a[1])
assert x.shape == y.shape and np.allclose(x, y, rtol=2e-3, atol=2e-3), abs(x - y).max()'
for name in standard_relu jumprelu_f32 transcoder skip_transcoder jumprelu_skip_transcoder temporal standard_layer_norm; do
    folder=$GOLDEN/saelens/$name
    ok "$name: forward" "$SAE" forward "$folder" "$folder/x.npy" -o "in/$name.npy"
    py "$name: output of SAELens" "$near" "$folder/xhat64.npy" "in/$name.npy"
done

model=$GOLDEN/saelens/skip_transcoder
rows=$model/x.npy
ok "safetensors" "$SAE" forward "$model" "$rows" -o in/y.safetensors
ok "half the size" "$SAE" forward "$model" "$rows" --out-dtype f16 -o in/half.npy
py "f16 is f32 rounded" 'x, y = np.load(a[0]), np.load(a[1]); assert (x.astype(np.float16) == y).all()' in/skip_transcoder.npy in/half.npy
ok "a pipe" sh -c "'$SAE' forward '$model' - -o - <'$rows' >in/piped.npy"
ok "the same bytes through a pipe" cmp in/piped.npy in/skip_transcoder.npy
"$SAE" forward "$model" "$rows" -o in/again.npy --threads 1 --prepare all --json >in/report.json
ok "the same bytes prepared" cmp in/again.npy in/skip_transcoder.npy
py "--json" 'j, x = json.load(open(a[0])), np.load(a[1])
assert (j["rows"], j["d_out"]) == x.shape and j["nonfinite"] >= 0 and j["seconds"] >= 0 and j["us_per_row"] >= 0' in/report.json in/again.npy
says "the summary" "non-finite pre-activations" "$SAE" forward "$model" "$rows" -o in/again.npy

refuses 2 "-o FILE is wanted" forward "$model" "$rows"
refuses 2 "both want standard output" forward "$model" "$rows" -o - --json
refuses 1 "has no rows of" forward "$model" "$GOLDEN/saelens/standard_hook_z/x.npy" -o out/y.npy
refuses 1 "has no rows of" forward "$model" "$model/z.npy" -o out/y.npy
finish
