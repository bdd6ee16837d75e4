#!/usr/bin/env bash
# sae bench: what it says, not how fast it is.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/jumprelu_f32
rows=$model/x.npy

check='
j = json.load(open(a[0]))
batches, threads = json.loads(a[1]), json.loads(a[2])
lines = j["results"]
assert [(r["threads"], r["batch"]) for r in lines] == [(t, b) for t in threads for b in batches], lines
for r in lines:
    ways = [r["dense"]] + ([r["screened"]] if r["screened"] else [])
    assert r["rounds"] >= 3 and all(0 < w["ms_min"] <= w["ms_median"] for w in ways), r
    if r["screened"]:
        assert r["screened"]["times_faster"] > 0 and r["screened"]["roof_fraction"] > 0 and r["screened"]["read_gbs"] > 0
assert j["active"] > 0 and j["packing_seconds"] >= 0 and j["panels_bytes"] > 0'

# One's own SAE and rows: of 9 rows no blocks of 64 can be had.
"$SAE" bench "$model" "$rows" --seconds 0 --threads 3 --json >in/own.json
py "own rows: one thread and three, batches of 1 and 8" "$check
assert j['path'] == a[3] and (j['architecture'], j['d_in'], j['d_sae'], j['rows'], j['rows_made']) == ('jumprelu', 37, 131, 9, False)
assert j['same_bits'] is True and j['rows_compared'] == 2 * 4 * (1 + 8) and j['screen_bytes'] > 0
assert all(r['screened']['dense_rows'] == 1 and r['screened']['survivors'] is None for r in lines)  # too small to be screened" \
    in/own.json '[1, 8]' '[1, 3]' "$model"
"$SAE" encode "$model" "$rows" --json >in/encoded.json
py "the same isa as encode says" 'assert len({json.load(open(p))["isa"] for p in a}) == 1' in/encoded.json in/own.json

# Made up, and large enough to be screened.
"$SAE" bench --shape 256x8192 --seconds 0.2 --threads 1 --json >in/made.json 2>in/made.err
py "made up: screened" "$check
assert j['path'] is None and j['rows'] == 512 and j['rows_made'] is True and (j['d_in'], j['d_sae']) == (256, 8192)
assert j['rows_compared'] >= 4 * (1 + 8 + 64 + 512) and 4 < j['active'] < 100
for r in lines:
    assert r['screened']['dense_rows'] == 0 and 4 < r['screened']['survivors'] < 400" in/made.json '[1, 8, 64, 512]' '[1]'
ok "no progress where nobody looks" test ! -s in/made.err
"$SAE" bench --shape 256x8192 --seconds 0.2 --threads 1 --json >in/again.json
py "the same is made up again" 'one, two = (json.load(open(p)) for p in a); assert abs(one["active"] / two["active"] - 1) < 0.2' \
    in/made.json in/again.json

# Every architecture, with rows made up for it.
for name in standard_layer_norm topk gated standard_hook_z jumprelu_transcoder jumprelu_skip_transcoder; do
    says "$name" "rows encoded both ways, no difference." "$SAE" bench "$GOLDEN/saelens/$name" --seconds 0 --threads 1
done
for name in abstopk matching_pursuit temporal topk_rescale_by_decoder_norm; do
    says "$name" "This SAE cannot be screened: it always encodes densely." "$SAE" bench "$GOLDEN/saelens/$name" --seconds 0 --threads 1
done
"$SAE" bench "$GOLDEN/saelens/abstopk" --seconds 0 --threads 1 --json >in/dense.json
py "no screen" "$check
assert j['same_bits'] is None and j['rows_compared'] == 0 and j['screen_bytes'] == 0 and all(r['screened'] is None for r in lines)" \
    in/dense.json '[1, 8, 64, 512]' '[1]'

# Rows of other types, and of many.
py "rows" 'x = np.load(a[0]); np.save("in/many.npy", np.tile(x, (1000, 1)).astype("f2")); np.save("in/none.npy", x[:0])' "$rows"
"$SAE" bench "$model" in/many.npy --seconds 0 --threads 1 --json >in/many.json
py "of many rows the first" "$check
assert j['rows'] == 4096" in/many.json '[1, 8, 64, 512]' '[1]'
says "text" "made up: jumprelu, 64 x 300, " "$SAE" bench --shape 64x300 --seconds 0 --threads 1
says "text names its columns" "threads  batch  dense ms (least)      screened ms (least)" "$SAE" bench --shape 64x300 --seconds 0 --threads 1

for shape in 64 64x 0x3 64x300x2 x300 64x-1 65537x2 60000x60000; do
    refuses 2 "--shape wants d_in and d_sae, such as 2304x16384" bench --shape "$shape"
done
refuses 2 "--shape is for an SAE that is made up" bench "$model" --shape 64x300
refuses 2 "--seconds wants a number from 0 to 3600" bench --seconds -1
refuses 2 "--seconds wants a number from 0 to 3600" bench --seconds 3601
refuses 2 "--seconds wants a finite number" bench --seconds inf
refuses 2 "'z' is one too many" bench x y z
refuses 1 "nowhere: " bench nowhere
refuses 1 "has no rows of 37 elements, the d_in of this SAE" bench "$model" "$GOLDEN/saelens/jumprelu_fp16/x.npy"
refuses 1 "in/none.npy: holds no rows" bench "$model" in/none.npy
refuses 1 "W_enc is not finite at row 3, column 4" bench "$GOLDEN/bad/sl_nan_weight" --no-check
: >said.txt
"$SAE" bench --shape 8x8 --seconds 0 --threads 1 >/dev/full 2>err.txt
check_refusal 1 "cannot write to standard output" $? "a full disk"

finish
