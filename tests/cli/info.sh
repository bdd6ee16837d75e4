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
for name in jumprelu_training_checkpoint_bf16 jumprelu_fp16 standard_relu; do
    "$SAE" info "$GOLDEN/saelens/$name" --json >in/info.json
    py "$name: statistics are those of the tensors" '
raw = open(a[1] + "/sae_weights.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
t = json.loads(raw[8 : 8 + n])["W_dec"]
b = raw[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]]
v = {"F32": lambda: np.frombuffer(b, "<f4"), "F16": lambda: np.frombuffer(b, "<f2"), "BF16": lambda: (np.frombuffer(b, "<u2").astype("<u4") << 16).view("<f4")}
norm = np.linalg.norm(v[t["dtype"]]().reshape(t["shape"]).astype(float), axis=1)
i = json.load(open(a[0]))["decoder_norm"]
assert np.allclose([i["min"], i["median"], i["max"]], [norm.min(), np.median(norm), norm.max()], rtol=1e-6), (i, np.median(norm))' \
        in/info.json "$GOLDEN/saelens/$name"
done

refuses 1 "nowhere" info nowhere
refuses 1 "abstopk" info "$GOLDEN/refused/abstopk"
refuses 1 "expects d_in = 38" info "$model" --d-in 38
refuses 1 "expects d_out = 38" info "$model" --d-out 38
refuses 2 "'extra' is one too many" info "$model" extra
# Bad files: status 1 and a sentence for each, whatever it is that is wrong.
for bad in "$GOLDEN"/bad/sl_* "$GOLDEN"/bad/st_*; do
    refuses 1 "sae info: " info "$bad"
done

finish
