#!/usr/bin/env bash
# sae encode.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"

agree='
z, c = np.load(a[0]), np.load(a[1])
d = np.zeros_like(z)
for r in range(len(z)):
    s = slice(c["indptr"][r], c["indptr"][r + 1])
    d[r, c["indices"][s]] = c["data"][s]
ok = ~np.isfinite(z) | (abs(d - np.nan_to_num(z)) <= 2e-3 * (1 + abs(np.nan_to_num(z))))
assert tuple(c["shape"]) == z.shape and ok.all(), np.argwhere(~ok)'
for name in standard_relu jumprelu_f32 jumprelu_fp16 topk gated standard_layer_norm standard_constant_norm_rescale standard_hook_z; do
    folder=$GOLDEN/saelens/$name
    ok "$name: encode" "$SAE" encode "$folder" "$folder/x.npy" -o "in/$name.npz"
    py "$name: codes are those of SAELens" "$agree" "$folder/z64.npy" "in/$name.npz"
done

model=$GOLDEN/saelens/jumprelu_f32
rows=$model/x.npy
py "what scipy.sparse.load_npz asks for" '
c = np.load(a[0])
assert bytes(c["format"].item()) == b"csr" and c["format"].shape == ()
assert (c["indptr"].dtype, c["indices"].dtype, c["data"].dtype) == (np.int64, np.int32, np.float32)
try:
    import scipy.sparse
except ImportError:
    sys.exit()
m = scipy.sparse.load_npz(a[0])
assert m.shape == tuple(c["shape"]) and m.nnz == len(c["data"]) and m.has_sorted_indices' in/jumprelu_f32.npz
py "row_scale only where rows are normalised" '
assert "row_scale" in np.load(a[0]) and "row_shift" in np.load(a[0]) and "row_scale" not in np.load(a[1])' \
    in/standard_layer_norm.npz in/jumprelu_f32.npz

# All rows are one sequence for a temporal SAE: more than a block of them too, and those before do count.
temporal=$GOLDEN/saelens/temporal
"$PYTHON" -c 'import sys, numpy as np
x = np.load(sys.argv[1])
x = np.concatenate([x, np.random.default_rng(5).standard_normal((4291, x.shape[1]), np.float32)])
np.save("in/long.npy", x)
np.save("in/tail.npy", x[4096:])' "$temporal/x.npy"
ok "temporal: a long sequence" "$SAE" encode "$temporal" in/long.npy --dense -o in/long_z.npy
ok "temporal: its end alone" "$SAE" encode "$temporal" in/tail.npy --dense -o in/tail_z.npy
ok "temporal: forward of a long sequence" "$SAE" forward "$temporal" in/long.npy -o in/long_y.npy
py "temporal: one sequence" '
z, long, tail, y, xhat = (np.load(p) for p in a)
assert np.allclose(long[: len(z)], z, rtol=1e-3, atol=1e-3) and np.allclose(y[: len(z)], xhat, rtol=1e-3, atol=1e-3)
assert (long[4096:] != tail).any()' "$temporal/z64.npy" in/long_z.npy in/tail_z.npy in/long_y.npy "$temporal/xhat64.npy"
"$PYTHON" -c 'import numpy as np; np.save("in/longest.npy", np.zeros((65537, 24), np.float32))'
refuses 1 "all rows are one sequence: of 65537 rows, 65536 at most" encode "$temporal" in/longest.npy
says "temporal: top" "row 8," "$SAE" top --sae "$temporal" "$temporal/x.npy"

# The same bytes whatever computes them.
for how in "--isa scalar" "--isa auto" "--threads 1" "--threads 3" "--copy" "--prepare rows" "--prepare panels" "--prepare all" "--check"; do
    # shellcheck disable=SC2086
    ok "encode $how" "$SAE" encode $how "$model" "$rows" -o in/again.npz
    ok "the same bytes with $how" cmp in/again.npz in/jumprelu_f32.npz
done

# Dense.
ok "dense .npy" "$SAE" encode "$model" "$rows" --dense -o in/dense.npy
ok "dense safetensors" "$SAE" encode "$model" "$rows" --dense -o in/dense.safetensors
ok "dense .npz" "$SAE" encode "$model" "$rows" --dense -o in/dense.npz
py "dense equals sparse" '
d, c = np.load(a[0]), np.load(a[1])
assert d.dtype == np.float32 and d.shape == tuple(c["shape"])
r, k = np.nonzero(d)
assert (k == c["indices"]).all() and (d[r, k] == c["data"]).all() and (np.bincount(r, minlength=len(d)) == np.diff(c["indptr"])).all()
assert (np.load(a[2])["codes"] == d).all()' in/dense.npy in/jumprelu_f32.npz in/dense.npz

# Reports.
"$SAE" encode "$model" "$rows" --json --top 3 >in/report.json
py "--json --top" '
j, d = json.load(open(a[0])), np.load(a[1])
l0 = (d != 0).sum(1)
assert j["rows"] == len(d) and j["d_sae"] == d.shape[1] and (j["l0"]["min"], j["l0"]["max"]) == (l0.min(), l0.max())
assert abs(j["l0"]["mean"] - l0.mean()) < 1e-6 and j["nonfinite"] >= 0 and j["seconds"] >= 0 and j["us_per_row"] >= 0
for row, t in zip(d, j["top"]):
    want = np.argsort(-row, kind="stable")[:3]
    want = want[row[want] != 0]
    assert [f["feature"] for f in t] == list(want) and np.allclose([f["value"] for f in t], row[want], rtol=1e-6)
assert len(j["top"]) == len(d)' in/report.json in/dense.npy
says "--top as a table" "row 1      L0 " "$SAE" encode "$model" "$rows" --top 2
says "summary" "9 rows, L0 mean " "$SAE" encode "$model" "$rows"

# Many rows: several blocks, and more codes than the first guess has room for.
py "make many rows" '
x = np.load(a[0])
np.save("in/many.npy", np.tile(x, (1200, 1)))
np.save("in/none.npy", x[:0])' "$rows"
ok "10800 rows" "$SAE" encode "$model" in/many.npy -o in/many.npz
py "blocks do not show" '
one, many = np.load(a[0]), np.load(a[1])
assert (np.diff(many["indptr"]).reshape(1200, -1) == np.diff(one["indptr"])).all()
assert (many["data"].reshape(1200, -1) == one["data"]).all() and (many["indices"].reshape(1200, -1) == one["indices"]).all()' \
    in/jumprelu_f32.npz in/many.npz
ok "no rows" "$SAE" encode "$model" in/none.npy -o in/none.npz
py "codes of no rows" 'c = np.load(a[0]); assert list(c["indptr"]) == [0] and len(c["data"]) == 0 and list(c["shape"]) == [0, 131]' in/none.npz
ok "no rows, dense" "$SAE" encode "$model" in/none.npy --dense -o in/none_dense.npy
py "dense codes of no rows" 'assert np.load(a[0]).shape == (0, 131)' in/none_dense.npy

py "rows of hook_z by head" 'np.save("in/heads.npy", np.load(a[0]).reshape(9, 4, 9))' "$GOLDEN/saelens/standard_hook_z/x.npy"
ok "encode rows by head" "$SAE" encode "$GOLDEN/saelens/standard_hook_z" in/heads.npy -o in/heads.npz
ok "heads together are a row" cmp in/heads.npz in/standard_hook_z.npz

py "rows that are not finite" 'x = np.load(a[0]); x[3, 2] = np.nan; x[5] = np.inf; np.save("in/nan.npy", x)' "$rows"
"$SAE" encode "$model" in/nan.npy --json >in/nan.json
py "are counted" 'j = json.load(open(a[0])); assert j["nonfinite"] >= 131, j' in/nan.json

refuses 2 "PATH and ROWS wanted, 1 of 2 given" encode "$model"
refuses 2 "sparse codes are several arrays" encode "$model" "$rows" -o out/c.npy
refuses 2 "the ending says the format" encode "$model" "$rows" -o out/codes
refuses 2 "--dense says how to write" encode "$model" "$rows" --dense
refuses 2 "--json both want standard output" encode "$model" "$rows" -o - --json
refuses 2 "--top both want standard output" encode "$model" "$rows" -o - --top 3
refuses 2 "--top wants a number in 1 .." encode "$model" "$rows" --top 0
refuses 1 "has no rows of 37 elements, the d_in of this SAE" encode "$model" "$GOLDEN/saelens/jumprelu_fp16/x.npy" -o out/c.npz
refuses 1 "nowhere.npy: cannot open: No such file" encode "$model" nowhere.npy -o out/c.npz
refuses 1 "cannot create a file: No such file" encode "$model" "$rows" -o nowhere/c.npz
refuses 1 "W_enc is nan at row 3, column 4" encode "$GOLDEN/bad/sl_nan_weight" "$rows" -o out/c.npz

finish
