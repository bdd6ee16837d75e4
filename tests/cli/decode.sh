#!/usr/bin/env bash
# sae decode.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

for name in standard_relu jumprelu_f32 jumprelu_fp16 topk topk_rescale_by_decoder_norm gated standard_layer_norm \
    standard_constant_norm_rescale standard_hook_z; do
    folder=$GOLDEN/saelens/$name
    "$SAE" encode "$folder" "$folder/x.npy" -o "in/$name.npz" >/dev/null 2>&1
    ok "$name: decode" "$SAE" decode "$folder" "in/$name.npz" -o in/xhat.npy
    py "$name: rows are those of SAELens" '
y, x = np.load(a[0]), np.load(a[1]).reshape(-1, np.load(a[0]).shape[1])
f = np.isfinite(x).all(1)
assert y.dtype == np.float32 and f.sum() > 5 and np.allclose(y[f], x[f], rtol=2e-3, atol=2e-3), abs(y[f] - x[f]).max()' in/xhat.npy "$folder/xhat64.npy"
done

model=$GOLDEN/saelens/jumprelu_f32
rows=$model/x.npy
codes=in/jumprelu_f32.npz
"$SAE" decode "$model" "$codes" -o in/xhat.npy --compare "$rows" --json >in/report.json
py "--compare" '
j, y, x = json.load(open(a[0])), np.load(a[1]).astype(float), np.load(a[2]).astype(float)
e = ((x - y) ** 2).sum()
assert j["rows"] == len(x) and j["d_out"] == x.shape[1]
assert np.isclose(j["mse"], e / x.size, rtol=1e-5) and np.isclose(j["fvu"], e / ((x - x.mean(0)) ** 2).sum(), rtol=1e-5)' in/report.json in/xhat.npy "$rows"
says "--compare alone" "fraction of variance unexplained" "$SAE" decode "$model" "$codes" --compare "$rows"
py "one row" 'np.save("in/one.npy", np.load(a[0])[1:2]); np.save("in/vector.npy", np.load(a[0])[1])' "$rows"
"$SAE" encode "$model" in/one.npy -o in/one.npz >/dev/null
"$SAE" encode "$model" in/vector.npy -o in/vector.npz >/dev/null
ok "a vector is one row" cmp in/one.npz in/vector.npz
"$SAE" decode "$model" in/one.npz --compare in/one.npy --json >in/one.json
py "one row does not vary" 'assert json.load(open(a[0]))["fvu"] is None' in/one.json

# Every way to hold the same codes gives the same bytes.
"$SAE" encode "$model" "$rows" -o in/codes.safetensors >/dev/null
"$SAE" encode "$model" "$rows" --dense -o in/dense.npy >/dev/null
py "other spellings of the codes" '
c = dict(np.load(a[0]))
np.savez("in/values.npz", indptr=c["indptr"].astype("i4"), indices=c["indices"].astype("i8"), values=c["data"])
np.savez_compressed("in/packed.npz", **c)' "$codes"
for other in in/codes.safetensors in/dense.npy in/values.npz in/packed.npz; do
    ok "decode $other" "$SAE" decode "$model" "$other" -o in/other.npy
    ok "$other gives the same bytes" cmp in/other.npy in/xhat.npy
done
for how in "--isa scalar" "--threads 1" "--threads 3" "--copy" "--prepare all"; do
    # shellcheck disable=SC2086
    ok "decode $how" "$SAE" decode $how "$model" "$codes" -o in/other.npy
    ok "the same bytes with $how" cmp in/other.npy in/xhat.npy
done

ok "--out-dtype f16" "$SAE" decode "$model" "$codes" -o in/half.npy --out-dtype f16
ok "--out-dtype bf16" "$SAE" decode "$model" "$codes" -o in/brain.npy --out-dtype bf16
py "half floats" '
y, h, b = np.load(a[0]), np.load(a[1]), np.load(a[2])
with np.errstate(over="ignore"):
    assert h.dtype == np.float16 and (h == y.astype(np.float16)).all()
u = y.view("u4")
assert b.dtype == np.uint16 and (b == ((u + 0x7FFF + (u >> 16 & 1)) >> 16)).all()' in/xhat.npy in/half.npy in/brain.npy
"$SAE" decode "$model" "$codes" -o in/many.npy >/dev/null
py "many rows" '
c = np.load(a[0]); n = 1200
np.savez("in/many.npz", indptr=np.concatenate([[0], np.cumsum(np.tile(np.diff(c["indptr"]), n))]), indices=np.tile(c["indices"], n), data=np.tile(c["data"], n))' "$codes"
ok "decode 10800 rows" "$SAE" decode "$model" in/many.npz -o in/many.npy
py "blocks do not show" 'y, m = np.load(a[0]), np.load(a[1]); assert (m.reshape(1200, *y.shape) == y).all()' in/xhat.npy in/many.npy

refuses 2 "-o FILE, --compare ROWS or both" decode "$model" "$codes"
refuses 2 "--tensor and --dtype are about --compare" decode "$model" "$codes" -o out/x.npy --dtype f16
refuses 2 "--out-dtype is f32, f16 or bf16, not 'f64'" decode "$model" "$codes" -o out/x.npy --out-dtype f64
refuses 2 "-o - and --json" decode "$model" "$codes" -o - --json
refuses 2 "cannot both be standard input" decode "$model" - --compare -
refuses 1 "has 1 rows" decode "$model" "$codes" -o out/x.npy --compare in/one.npy
refuses 1 "holds codes of 131 features, this SAE has d_sae = 192" decode "$GOLDEN/saelens/jumprelu_fp16" "$codes" -o out/x.npy
refuses 1 "row_scale" decode "$GOLDEN/saelens/standard_layer_norm" in/values.npz -o out/x.npy
refuses 1 "no dense array of codes" decode "$model" "$rows" -o out/x.npy
"$PYTHON" - "$codes" <<'P'
import sys
import numpy as np

c = dict(np.load(sys.argv[1]))
def save(name, **other):
    np.savez(f"in/bad_{name}.npz", **{**c, **other})
p, i, v = c["indptr"], c["indices"], c["data"]
save("indptr_first", indptr=p + 1)
save("indptr_falls", indptr=np.concatenate([p[:5], [0], p[6:]]))
save("indptr_end", indptr=np.concatenate([p[:-1], [p[-1] + 5]]))
save("indptr_empty", indptr=p[:0])
save("indptr_float", indptr=p.astype("f4"))
save("indices_short", indices=i[:-1])
save("index_high", indices=np.where(np.arange(len(i)) == len(i) - 1, 131, i).astype("i4"))
save("index_negative", indices=np.where(np.arange(len(i)) == 0, -1, i).astype("i8"))
save("values_f8", data=v.astype("f8"))
save("values_2d", data=v[None])
save("shape_rows", shape=np.array([8, 131]))
save("shape_size", shape=np.array([9, 131, 1]))
save("csc", format=np.array(b"csc"))
save("scale", row_scale=v[:3])
np.savez("in/bad_other.npz", x=v, y=v)
P
refuses 1 "'indptr' element 0 is 1: it ascends from 0" decode "$model" in/bad_indptr_first.npz -o out/x.npy
refuses 1 "'indptr' element 5 is 0" decode "$model" in/bad_indptr_falls.npz -o out/x.npy
refuses 1 "'indptr' ends at" decode "$model" in/bad_indptr_end.npz -o out/x.npy
refuses 1 "'indptr' is empty" decode "$model" in/bad_indptr_empty.npz -o out/x.npy
refuses 1 "'indptr' holds '<f4'" decode "$model" in/bad_indptr_float.npz -o out/x.npy
refuses 1 "'indptr' ends at" decode "$model" in/bad_indices_short.npz -o out/x.npy
refuses 1 "131" decode "$model" in/bad_index_high.npz -o out/x.npy
refuses 1 "'indices' element 0 is -1, no feature" decode "$model" in/bad_index_negative.npz -o out/x.npy
refuses 1 "'data' holds '<f8', float32 was expected" decode "$model" in/bad_values_f8.npz -o out/x.npy
refuses 1 "one dimension was expected" decode "$model" in/bad_values_2d.npz -o out/x.npy
refuses 1 "'shape' says 8 rows, 'indptr' 9" decode "$model" in/bad_shape_rows.npz -o out/x.npy
refuses 1 "'shape' has 3 elements, 2 were expected" decode "$model" in/bad_shape_size.npz -o out/x.npy
refuses 1 "format 'csc'" decode "$model" in/bad_csc.npz -o out/x.npy
refuses 1 "'row_scale' has 3 elements, 9 were expected" decode "$model" in/bad_scale.npz -o out/x.npy
refuses 1 "holds no codes: indptr, indices and data" decode "$model" in/bad_other.npz -o out/x.npy

finish
