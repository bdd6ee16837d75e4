#!/usr/bin/env bash
# sae verify, and the screen in .sae files.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/jumprelu_f32
rows=$model/x.npy

for name in standard_relu jumprelu_f32 topk gated jumprelu_fp16 jumprelu_training_checkpoint_bf16; do
    says "$name: made rows" "the same bits" "$SAE" verify "$GOLDEN/saelens/$name" --count 20
    says "$name: its rows" "the same bits" "$SAE" verify "$GOLDEN/saelens/$name" --rows "$GOLDEN/saelens/$name/x.npy"
done
for name in matching_pursuit temporal abstopk topk_rescale_by_decoder_norm skip_transcoder; do
    [ -d "$GOLDEN/saelens/$name" ] || fail "no fixture $name"
    says "$name" "the same bits" "$SAE" verify "$GOLDEN/saelens/$name" --count 9
done
says "no screen" "cannot be screened" "$SAE" verify "$GOLDEN/saelens/abstopk" --count 3
says "several hook points" "the same bits" "$SAE" verify "$GOLDEN/crosscoder_learning/CrossCoder_safetensors" --count 5
says "what is compared" "on scalar; 1 and 2 threads; 1, 3, 8, 64 rows at once" "$SAE" verify "$model" --isa scalar --threads 2
says "one thread" "on scalar; 1 thread; 1, 3" "$SAE" verify "$model" --isa scalar --threads 1
says "panels" "the same bits" "$SAE" verify "$model" --prepare panels --count 9

"$SAE" verify "$model" --json --count 30 --seed 5 --threads 2 >in/v.json
"$SAE" verify "$model" --json --rows "$rows" >in/r.json
py "JSON" '
v, r = json.load(open(a[0])), json.load(open(a[1]))
assert v["same"] is True and v["difference"] is None and v["screen"] == "built" and v["seed"] == 5 and v["rows"] == 30, v
assert (v["architecture"], v["d_in"], v["d_sae"]) == ("jumprelu", 37, 131) and v["codes"] > 100
assert v["isas"][0] in ("scalar", "neon") and v["threads"] == [1, 2] and v["rows_at_once"] == [1, 3, 8, 64]
assert v["encodes"] == 16 * len(v["isas"]) and v["rows_screened"] + v["rows_dense"] == 30 * v["encodes"] // 2
assert v["rows_screened"] > 0 and v["candidates"] >= v["active"] > 0
assert r["seed"] is None and r["rows"] == np.load(a[2]).shape[0] and r["same"] is True, r' in/v.json in/r.json "$rows"
"$SAE" verify "$model" --json --count 30 --seed 6 --threads 2 >in/w.json
ok "another seed, other rows" sh -c '! cmp -s in/v.json in/w.json'
py "pipes" 'np.save(a[1], np.load(a[0])[:4])' "$rows" in/four.npy
says "rows from a pipe" "rows            4, -" sh -c "'$SAE' verify '$model' --rows - <in/four.npy"
py "no rows" 'np.save(a[0], np.zeros((0, 37), "f4"))' in/none.npy
says "no rows" "0 codes" "$SAE" verify "$model" --rows in/none.npy

# The screen in a file.
says "--screen" "verified: the fingerprints are the same" "$SAE" convert "$model" in/s.sae --screen --verify
says "the screen is of the file" "in the file; it is the one that W_enc gives" "$SAE" verify in/s.sae
says "info tells" "(in the file)" "$SAE" info in/s.sae
"$SAE" encode "$model" "$rows" -o in/want.npz >in/ok.txt
"$SAE" encode in/s.sae "$rows" -o in/got.npz >in/ok.txt
ok "the same codes" cmp in/want.npz in/got.npz
ok "a copy to be forged is the file" "$PYTHON" "$HERE/forge.py" in/s.sae in/f.sae 69 0
ok "a copy to be forged is the file" cmp in/s.sae in/f.sae
refuses 1 "a screen is to be kept" convert "$model" out/a --screen
refuses 1 "cannot be screened" convert "$GOLDEN/saelens/abstopk" out/a.sae --screen

# Forged with true checksums: the comparison with W_enc finds it, and so do the codes.
"$PYTHON" "$HERE/forge.py" in/s.sae in/f.sae 69 -1000 7 50
refuses 1 "screen.top in the file is not what W_enc gives, first for feature 7" verify in/f.sae
refuses 1 "screen.top in the file is not what W_enc gives, first for feature 7" info in/f.sae
refuses 1 "screen.top in the file is not what W_enc gives" convert in/f.sae out/a.sae --check
"$PYTHON" "$HERE/forge.py" in/s.sae in/g.sae 67 0.25 7
refuses 1 "screen.error in the file is not what W_enc gives, first for feature 7" verify in/g.sae
# shellcheck disable=SC2046 # numbers
"$PYTHON" "$HERE/forge.py" in/s.sae in/f.sae 69 -1000 $(seq 0 130)
refuses 1 "rows at once), 0 screened (" verify in/f.sae --no-check
refuses 1 "should be the same bits" verify in/f.sae --no-check --rows "$rows" --isa scalar
"$SAE" verify in/f.sae --no-check --json >in/d.json 2>err.txt
ok "exit status with --json" test $? = 1
py "JSON of a difference" '
d = json.load(open(a[0]))
assert d["same"] is False and d["difference"]["first"] > 0 == d["difference"]["second"], d
assert d["difference"]["first_way"]["screened"] is False and d["difference"]["second_way"]["screened"] is True, d' in/d.json

refuses 1 "has no rows of 37 elements" verify "$model" --rows "$GOLDEN/saelens/jumprelu_fp16/x.npy"
refuses 1 "nowhere.npy" verify "$model" --rows nowhere.npy
refuses 2 "--count wants a number in 1 .." verify "$model" --count 0
refuses 2 "are about the rows of --rows" verify "$model" --tensor x

finish
