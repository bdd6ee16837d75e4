#!/usr/bin/env bash
# sae steer.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu
rows=$model/x.npy

"$SAE" encode "$model" "$rows" --dense -o in/z.npy >/dev/null
py "weights" '
raw = open(a[0] + "/sae_weights.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
s, e = (h := json.loads(raw[8 : 8 + n])["W_dec"])["data_offsets"]
d = np.frombuffer(raw[8 + n + s : 8 + n + e], "<f4").reshape(h["shape"])
np.save("in/d.npy", d)
np.save("in/v.npy", d[11])
z = np.load("in/z.npy")
open("in/f", "w").write(" ".join(map(str, np.argsort(-(z > 0).sum(0), kind="stable")[:2])))' "$model"
read -r f g <in/f # two features that are often active

# The delta form by hand: x + sum (z_new - z) * d, with codes of the original row.
law='
x, y, z, d = np.load(a[0]).astype(float), np.load(a[1]), np.load("in/z.npy").astype(float), np.load("in/d.npy").astype(float)
f, g = int(a[2]), int(a[3])
norm = np.linalg.norm(d, axis=1)
want = x + eval(a[4])
assert y.dtype == np.float32 and np.allclose(y, want, rtol=1e-4, atol=1e-4), abs(y - want).max()'
try() { # EXPECTED-DELTA OPTION...
    local delta=$1
    shift
    ok "steer $*" "$SAE" steer "$model" "$rows" -o in/y.npy "$@"
    py "law of $*" "$law" "$rows" in/y.npy "$f" "$g" "$delta"
}
try 'np.outer(5 - z[:, f], d[f])' --set "$f=5"
try 'np.outer(2.5 + 0 * z[:, f], d[f])' --add "$f=2.5"
try 'np.outer(-z[:, f], d[f])' --ablate "$f"
try 'np.outer(-z[:, f], d[f])' --scale "$f=0"
try 'np.outer(2 * z[:, f], d[f])' --scale "$f=3"
try 'np.outer(np.maximum(z[:, f], 1) - z[:, f], d[f])' --min "$f=1"
try 'np.outer(np.minimum(z[:, f], 0.5) - z[:, f], d[f])' --max "$f=0.5"
try 'np.outer(5 - z[:, f], d[f]) + np.outer(-z[:, g], d[g])' --set "$f=5" --ablate "$g"
try 'np.outer(4 / norm[f] + 0 * z[:, f], d[f])' --unit unit --add "$f=4"
try 'np.outer(1.5 * 8 - z[:, f], d[f])' --unit max_act --set "$f=1.5" --max-act "$f=8"
try 'np.outer(1 + 0 * z[:, f], d[f]) + np.outer(2 / norm[g] + 0 * z[:, g], d[g])' --add "$f=1" --unit unit --add "$g=2"
try '0 * x - 2 * d[11]' --add-vector in/v.npy=-2
try '0 * x + 3 * d[11] / norm[11]' --unit unit --add-vector in/v.npy=3

"$SAE" steer "$model" "$rows" -o in/y.npy --ablate "$f" --json >in/report.json
py "--json, and rows that no edit changes are untouched" '
j, x, y, z = json.load(open(a[0])), np.load(a[1]), np.load(a[2]), np.load("in/z.npy")
changed = (x.view("u4") != y.view("u4")).any(1)
assert j["rows"] == len(x) and j["changed"] == changed.sum() and j["edits"] == 1 and j["dtype"] == "f32"
assert not changed[z[:, int(a[3])] == 0].any() and 0 < changed.sum() < len(x), changed' in/report.json "$rows" in/y.npy "$f"
says "summary" "9 of 9 rows changed by 1 edits" "$SAE" steer "$model" "$rows" -o in/y.npy --set "$f=50"
for how in "--isa scalar" "--threads 1" "--prepare all" "--copy"; do
    # shellcheck disable=SC2086
    ok "steer $how" "$SAE" steer $how "$model" "$rows" -o in/w.npy --set "$f=50"
    ok "the same bytes with $how" cmp in/w.npy in/y.npy
done
ok "a file onto itself" cp "$rows" in/self.npy
ok "a file onto itself, steered" "$SAE" steer "$model" in/self.npy -o in/self.npy --set "$f=50"
ok "is the same as into another" cmp in/self.npy in/y.npy
ok "top-k" "$SAE" steer "$GOLDEN/saelens/topk" "$GOLDEN/saelens/topk/x.npy" -o in/t.npy --ablate 1 --add 2=1

refuses 2 "-o FILE is wanted" steer "$model" "$rows" --ablate 1
refuses 2 "an edit is wanted" steer "$model" "$rows" -o out/y.npy
refuses 2 "--set wants a key, '=' and a number, not '5'" steer "$model" "$rows" -o out/y.npy --set 5
refuses 2 "--set wants a finite number, not 'x'" steer "$model" "$rows" -o out/y.npy --set 5=x
refuses 2 "--add wants a finite number, not 'inf'" steer "$model" "$rows" -o out/y.npy --add 5=inf
refuses 2 "--ablate wants a whole number, not '5=1'" steer "$model" "$rows" -o out/y.npy --ablate 5=1
refuses 2 "--scale wants a number in 0 .." steer "$model" "$rows" -o out/y.npy --scale -1=2
refuses 2 "--unit is raw, unit or max_act" steer "$model" "$rows" -o out/y.npy --unit cm --set 5=1
refuses 2 "wants --max-act 5=V" steer "$model" "$rows" -o out/y.npy --unit max_act --set 5=1 --max-act 6=1
refuses 2 "--max-act wants a number above 0" steer "$model" "$rows" -o out/y.npy --max-act 5=0 --set 5=1
refuses 2 "--add-vector knows the units raw and unit" steer "$model" "$rows" -o out/y.npy --unit max_act --add-vector in/v.npy=1
refuses 2 "-o - and --json" steer "$model" "$rows" -o - --json --ablate 1
refuses 2 "the ending says the format" steer "$model" "$rows" -o out/y.txt --ablate 1
refuses 1 "100000" steer "$model" "$rows" -o out/y.npy --ablate 100000
refuses 1 "is not a vector of" steer "$model" "$rows" -o out/y.npy --add-vector in/d.npy=1
refuses 1 "nowhere.npy: cannot open" steer "$model" "$rows" -o out/y.npy --add-vector nowhere.npy=1

finish
