#!/usr/bin/env bash
# sae info.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

for folder in "$GOLDEN"/saelens/*/; do
    name=$(basename "$folder")
    ok "$name: text" "$SAE" info "$folder"
    "$SAE" info "$folder" --json >in/info.json 2>in/err.txt
    py "$name: JSON agrees with fixture.json" '
i, f = json.load(open(a[0])), json.load(open(a[1]))
assert (i["d_in"], i["d_sae"], i["d_out"]) == (f["d_in"], f["d_sae"], f["d_out"]), i
assert i["format"] == "saelens" and i["checked"] is True and isinstance(i["warnings"], list)
assert (i["threshold"] is not None) == (i["architecture"] == "jumprelu")
assert (i["k"] > 0) == (i["architecture"] == "topk")
n = i["decoder_norm"]
assert 0 <= n["min"] <= n["median"] <= n["max"]
assert set(i["memory"]) == {"mapped_bytes", "vectors_bytes", "rows_bytes", "panels_bytes", "ctx_bytes"}' in/info.json "$folder/fixture.json"
done

model=$GOLDEN/saelens/jumprelu_f32
says "architecture" "architecture     jumprelu" "$SAE" info "$model"
says "shape" "d_in 37, d_sae 131, d_out 37" "$SAE" info "$model"
says "threshold" "threshold        min " "$SAE" info "$model"
says "top-k" "topk, k " "$SAE" info "$GOLDEN/saelens/topk"
says "the bare file" "d_sae 131" "$SAE" info "$model/sae_weights.safetensors"
says "--no-check" "not checked" "$SAE" info "$model" --no-check
says "--isa" '"isa": "scalar"' "$SAE" info "$model" --json --isa scalar
says "--apply-b-dec" "b_dec not subtracted" "$SAE" info "$model" --apply-b-dec no
says "--normalize-activations" "input            layer_norm" "$SAE" info "$model" --normalize-activations layer_norm
says "--norm-scaling-factor" "(factor 2.5)" "$SAE" info "$GOLDEN/saelens/standard_expected_average_only_in" --norm-scaling-factor 2.5
says "a warning is shown" "warning " "$SAE" info "$GOLDEN/saelens/standard_expected_average_only_in"
says "--k" "topk, k 2" "$SAE" info "$GOLDEN/saelens/topk" --k 2
says "--prepare" "shape" "$SAE" info "$model" --prepare all --threads 2 --copy --d-in 37 --d-out 37
"$SAE" info "$GOLDEN/saelens/jumprelu_training_checkpoint_bf16" --json >in/info.json
py "statistics are those of the tensors" '
from struct import unpack
raw = open(a[1] + "/sae_weights.safetensors", "rb").read()
n = unpack("<Q", raw[:8])[0]
h = json.loads(raw[8 : 8 + n])
def tensor(name):
    t = h[name]
    b = raw[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]]
    v = np.frombuffer(b, "<f4") if t["dtype"] == "F32" else (np.frombuffer(b, "<u2").astype("<u4") << 16).view("<f4")
    return v.reshape(t["shape"])
norm = np.linalg.norm(tensor("W_dec").astype(float), axis=1)
i = json.load(open(a[0]))["decoder_norm"]
assert np.allclose([i["min"], i["median"], i["max"]], [norm.min(), np.median(norm), norm.max()], rtol=1e-5)' \
    in/info.json "$GOLDEN/saelens/jumprelu_training_checkpoint_bf16"

refuses 1 "nowhere" info nowhere
refuses 1 "abstopk" info "$GOLDEN/refused/abstopk"
refuses 1 "d_in" info "$model" --d-in 38
refuses 2 "'extra' is one too many" info "$model" extra
# Bad files: status 1 and a sentence for each, whatever it is that is wrong.
for bad in "$GOLDEN"/bad/sl_* "$GOLDEN"/bad/st_*; do
    refuses 1 "sae info: " info "$bad"
done

finish
