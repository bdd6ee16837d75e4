#!/usr/bin/env bash
# sae convert.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/jumprelu_f32
half=$GOLDEN/saelens/jumprelu_fp16 # does not subtract b_dec, so Gemma Scope can say it
topk=$GOLDEN/saelens/topk

"$SAE" encode "$half" "$half/x.npy" -o in/want.npz >in/ok.txt
for out in out/a.sae out/folder out/params.npz; do
    says "$out" "verified: the fingerprints are the same" "$SAE" convert "$half" "$out" --verify
    "$SAE" encode "$out" "$half/x.npy" -o in/got.npz >in/ok.txt
    ok "$out has the same codes" cmp in/want.npz in/got.npz
    says "$out has the same fingerprint" "$("$SAE" info "$half" | grep fingerprint)" "$SAE" info "$out"
done
says "back into a folder" "saelens, jumprelu 48 x 192, f16" "$SAE" convert out/a.sae out/again
ok "the same weights" cmp out/folder/sae_weights.safetensors out/again/sae_weights.safetensors
ok "the same configuration" cmp out/folder/cfg.json out/again/cfg.json
py "the npz is what NumPy reads" '
z = np.load(a[0])
assert {n: (z[n].shape, z[n].dtype.str) for n in z} == {
    "W_enc": ((48, 192), "<f4"), "W_dec": ((192, 48), "<f4"), "b_enc": ((192,), "<f4"), "b_dec": ((48,), "<f4"), "threshold": ((192,), "<f4")}
import zipfile
assert zipfile.ZipFile(a[0]).testzip() is None' out/params.npz
"$SAE" convert "$half" out/again.npz >in/ok.txt
ok "the same bytes every time" cmp out/params.npz out/again.npz

says "KiB" "out/k.sae: sae, topk 37 x 131, f32, 4" "$SAE" convert "$topk" out/k.sae
says "--k goes into the file" "topk, k 3" "$SAE" info "$("$SAE" convert "$topk" out/k3.sae --k 3 >in/ok.txt; echo out/k3.sae)"
says "--dtype" "verified: sound, with rounded weights" "$SAE" convert "$topk" out/b.sae --dtype bf16 --verify
says "--dtype is in the file" "W_enc bf16, W_dec bf16" "$SAE" info out/b.sae
says "--format" "out/f: saelens" "$SAE" convert "$topk" out/f --format saelens
says "--catalog" "labels.catalog" "$SAE" info "$("$SAE" convert "$topk" out/c.sae --catalog labels.catalog >in/ok.txt; echo out/c.sae)"
says "--force" "out/b.sae: sae" "$SAE" convert "$topk" out/b.sae --force
"$SAE" convert "$model" out/j.sae --json --verify >in/j.json
py "JSON" '
j = json.load(open(a[0]))
assert j["path"] == "out/j.sae" and j["format"] == "sae" and j["w_enc_dtype"] == j["w_dec_dtype"] == "f32", j
assert j["verified"] is True and j["same_fingerprint"] is True and j["bytes"] > 37 * 131 * 8, j' in/j.json
"$SAE" convert "$model" out/l.sae --json >in/j.json
py "JSON without --verify" 'j = json.load(open(a[0])); assert j["verified"] is False and j["same_fingerprint"] is None' in/j.json
py "no temporary files" 'import os; assert not [f for f in os.listdir("out") if "part" in f]'
rm -rf out && mkdir out

"$SAE" convert "$topk" in/there.sae >in/ok.txt
refuses 1 "in/there.sae is there already" convert "$topk" in/there.sae
refuses 1 "is not jumprelu, which a Gemma Scope file cannot say" convert "$topk" out/a.npz
refuses 1 "scaled by 2.5 first" convert "$GOLDEN/saelens/standard_expected_average_only_in" out/a --norm-scaling-factor 2.5
refuses 1 "the name of a catalog" convert "$topk" out/a --catalog x.catalog
refuses 1 "No such file" convert "$topk" nowhere/a.sae
refuses 1 "nowhere.sae" convert nowhere.sae out/a.sae
refuses 2 "--format is sae, saelens or gemma_scope, not 'onnx'" convert "$topk" out/a --format onnx
refuses 2 "IN and OUT wanted" convert "$topk"
refuses 2 "dtype" convert "$topk" out/a.sae --dtype f64
# A file that may not grow: one sentence, nothing left.
(
    trap '' XFSZ
    ulimit -f 8
    ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 "$SAE" convert "$topk" out/a.sae >said.txt 2>err.txt
)
check_refusal 1 "cannot write out/a.sae: File too large" $? "sae convert on a full disk"

# Damage that only reading everything can find.
cp in/there.sae in/bad.sae
printf '\x41' | dd of=in/bad.sae bs=1 seek=20000 conv=notrunc 2>/dev/null
refuses 1 "checksum" info in/bad.sae
head -c 20000 in/there.sae >in/cut.sae
refuses 1 "cut or joined" info in/cut.sae

finish
