#!/usr/bin/env bash
# sae neighbors.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu

py "weights" '
raw = open(a[0] + "/sae_weights.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
h = json.loads(raw[8 : 8 + n])
for name in "W_enc", "W_dec":
    s, e = h[name]["data_offsets"]
    np.save(f"in/{name}.npy", np.frombuffer(raw[8 + n + s : 8 + n + e], "<f4").reshape(h[name]["shape"]))
d = np.load("in/W_dec.npy")
np.save("in/query.npy", d[3])
np.save("in/query2.npy", d[3:4])
np.save("in/zero.npy", 0 * d[3])
np.save("in/nan.npy", d[3] * np.nan)
np.save("in/double.npy", d[3].astype(float))
np.savez("in/two.npz", x=d[3], y=d[3])' "$model"
nearest='
j = json.load(open(a[0]))
w = np.load("in/W_dec.npy") if j["by"] == "decoder" else np.load("in/W_enc.npy").T
w = w.astype(float)
q = w[3]
c = w @ q / np.linalg.norm(w, axis=1) / np.linalg.norm(q)
if j["feature"] is not None:
    c[3] = -9
best = np.argsort(-c, kind="stable")[: int(a[1])]
assert [f["feature"] for f in j["neighbors"]] == list(best), (j, best)
assert np.allclose([f["cosine"] for f in j["neighbors"]], c[best], atol=1e-5)'
"$SAE" neighbors "$model" --feature 3 --json >in/n.json
py "of a feature" "$nearest" in/n.json 10
"$SAE" neighbors "$model" --feature 3 --by encoder -k 4 --json >in/n.json
py "by encoder" "$nearest" in/n.json 4
"$SAE" neighbors "$model" --vector in/query.npy --count 5 --json >in/n.json
py "of a vector" "$nearest" in/n.json 5
"$SAE" neighbors "$model" --vector - -k 5 --json <in/query.npy >in/m.json
ok "a vector from a pipe" cmp in/n.json in/m.json
"$SAE" neighbors "$model" --vector in/query2.npy -k 5 --json >in/m.json
ok "a vector as one row" cmp in/n.json in/m.json
"$SAE" neighbors "$model" --feature 3 --json -k 1000 >in/n.json
py "more than there are" 'j = json.load(open(a[0])); assert 100 < len(j["neighbors"]) < 1000' in/n.json
"$SAE" neighbors "$model" --feature 3 -k 2 >in/a.txt
"$SAE" neighbors "$model" --feature 3 -k 2 --isa scalar --threads 1 --prepare all --copy >in/b.txt
ok "the same on every instruction set" cmp in/a.txt in/b.txt
says "text" "cosine of decoder rows" "$SAE" neighbors "$model" --feature 3

refuses 2 "one of --feature I and --vector FILE" neighbors "$model"
refuses 2 "one of --feature I and --vector FILE" neighbors "$model" --feature 1 --vector in/query.npy
refuses 2 "--by is decoder or encoder, not 'bias'" neighbors "$model" --feature 1 --by bias
refuses 2 "-k wants a number in 1 .." neighbors "$model" --feature 1 -k 0
refuses 2 "--feature wants a number in 0 .." neighbors "$model" --feature -1
refuses 1 "100000" neighbors "$model" --feature 100000
refuses 1 "in/zero.npy: " neighbors "$model" --vector in/zero.npy
refuses 1 "in/nan.npy: " neighbors "$model" --vector in/nan.npy
refuses 1 "in/double.npy: holds '<f8'; a vector is float32" neighbors "$model" --vector in/double.npy
refuses 1 "is not a vector of" neighbors "$model" --vector in/W_dec.npy
refuses 1 "holds 2 arrays, one was expected: x, y" neighbors "$model" --vector in/two.npz
refuses 1 "nowhere.npy: cannot open" neighbors "$model" --vector nowhere.npy

finish
