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
assert (i["k"] > 0) == (i["architecture"] in ("topk", "abstopk", "matching_pursuit", "temporal"))
for n in i["encoder_norm"], i["decoder_norm"]:
    assert 0 <= n["min"] <= n["median"] <= n["max"]
assert i["n_in"] == i["n_out"] == i["n_blocks"] == 1 and i["has_skip"] == ("skip" in f["architecture"] if "architecture" in f else i["has_skip"])
assert i["keeps_negative"] == (i["architecture"] == "abstopk") and not i["returns_unscaled"]
assert (i["residual_threshold"] > 0 or i["stops_on_repeat"]) == (i["architecture"] == "matching_pursuit")
assert i["dead_features"] >= 0 and isinstance(i["notes"], list) and i["catalog"] == ""
assert set(i["memory"]) == {"mapped_bytes", "vectors_bytes", "rows_bytes", "panels_bytes", "screen_bytes", "screen_stored_bytes", "ctx_bytes"}' in/info.json "$folder/fixture.json"
done

model=$GOLDEN/saelens/jumprelu_f32
says "architecture" "architecture     jumprelu" "$SAE" info "$model"
says "shape" "d_in 37, d_sae 131, d_out 37" "$SAE" info "$model"
says "threshold" "threshold        min " "$SAE" info "$model"
says "top-k" "topk, k " "$SAE" info "$GOLDEN/saelens/topk"
says "matching pursuit" "matching_pursuit, k 6 " "$SAE" info "$GOLDEN/saelens/matching_pursuit"
says "a skip" "with a skip" "$SAE" info "$GOLDEN/saelens/skip_transcoder"
says "hook points" "reads 2, writes 2, 1 encoder" "$SAE" info "$GOLDEN/crosscoder_learning/CrossCoder_safetensors"
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
    for tensor in W_enc W_dec; do
        py "$name: statistics are those of $tensor" '
raw = open(a[1] + "/sae_weights.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
t = json.loads(raw[8 : 8 + n])[a[2]]
b = raw[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]]
v = {"F32": lambda: np.frombuffer(b, "<f4"), "F16": lambda: np.frombuffer(b, "<f2"), "BF16": lambda: (np.frombuffer(b, "<u2").astype("<u4") << 16).view("<f4")}
norm = np.linalg.norm(v[t["dtype"]]().reshape(t["shape"]).astype(float), axis=1 if a[2] == "W_dec" else 0)
i = json.load(open(a[0]))["decoder_norm" if a[2] == "W_dec" else "encoder_norm"]
assert np.allclose([i["min"], i["median"], i["max"]], [norm.min(), np.median(norm), norm.max()], rtol=1e-6), (i, np.median(norm))' \
            in/info.json "$GOLDEN/saelens/$name" "$tensor"
    done
done

# Notes on the weights: dead features, norms, an odd factor, values that are not finite.
py "an SAE to take note of" '
import os, shutil
os.makedirs("in/odd")
shutil.copy(a[0] + "/cfg.json", "in/odd/cfg.json")
raw = bytearray(open(a[0] + "/sae_weights.safetensors", "rb").read())
n = int.from_bytes(raw[:8], "little")
h = json.loads(raw[8 : 8 + n])
def view(name):
    s, e = h[name]["data_offsets"]
    return np.frombuffer(raw, "<f4", (e - s) // 4, 8 + n + s).reshape(h[name]["shape"])
view("W_dec")[[3, 5]] = 0
view("W_enc")[:, 7] = 0
view("W_enc")[4, 9] = np.nan
open("in/odd/sae_weights.safetensors", "wb").write(raw)' "$GOLDEN/saelens/standard_expected_average_only_in"
says "dead features" "3 dead features" "$SAE" info in/odd --no-check
says "not finite" "1 feature with weights that are not finite" "$SAE" info in/odd --no-check
says "not of unit norm" "not of unit norm" "$SAE" info in/odd --no-check
says "an odd factor" "scaled by 5000 first" "$SAE" info in/odd --no-check --norm-scaling-factor 5000
says "dead features in JSON" '"dead_features": 3' "$SAE" info in/odd --no-check --json

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
