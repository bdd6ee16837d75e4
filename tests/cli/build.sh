#!/usr/bin/env bash
# sae catalog build, against the same figures in plain NumPy.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu

check='
folder, context, most = a[0], int(a[1]), int(a[2])
z = np.load("dense.npy")
places = np.load(folder + ".places.npy")
n, d_sae = z.shape
lines = [json.loads(l) for l in open("built.jsonl")]
assert [l["index"] for l in lines] == list(range(d_sae))
for f, line in enumerate(lines):
    v = z[:, f]
    on = v != 0
    assert line["frac_nonzero"] == on.mean(), f
    assert np.float32(line["maxActApprox"]) == v.max(), f
    if not on.any():
        assert "mean" not in line and line["activations"] == []
        continue
    assert np.isclose(line["mean"], v[on].astype(float).mean(), rtol=1e-12)
    best = {}
    for r in np.nonzero(on)[0]:
        doc = places[r, 1]
        if doc not in best or v[r] > v[best[doc]]:
            best[doc] = r
    want = sorted(best.values(), key=lambda r: (-v[r], places[r, 1]))[:most]
    assert len(want) == len(line["activations"]), f
    for r, e in zip(want, line["activations"]):
        low, high = r, r
        while low > 0 and r - low < context and places[low - 1, 1] == places[r, 1]:
            low -= 1
        while high + 1 < n and high - r < context and places[high + 1, 1] == places[r, 1]:
            high += 1
        assert e["document"] == places[r, 1] and e["position"] == places[r, 2]
        assert e["tokens"] == ["<%d>" % t for t in places[low : high + 1, 0]]
        assert np.array_equal(np.float32(e["values"]), v[low : high + 1])
        assert e.get("maxValueTokenIndex", int(np.argmax(v[low : high + 1]))) == r - low'
for kind in unembed none; do
    mkdir in/$kind
    ok "shards" "$PYTHON" "$HERE/make_shards.py" in/$kind "$model" $kind 2500
    "$SAE" encode "$model" in/$kind.x.npy --dense -o dense.npy >said.txt
    while read -r context examples; do
        rm -f built
        ok "build $kind" "$SAE" catalog build --sae "$model" in/$kind -o built --context "$context" --examples "$examples" --json
        "$SAE" catalog export built >built.jsonl
        py "build $kind, context $context" "$check" in/$kind "$context" "$examples"
    done <<<$'0 4\n3 100\n10 7'
done
py "tokens by mean activation" '
z, places = np.load("dense.npy"), np.load("in/none.places.npy")
seen = np.bincount(places[:, 0], minlength=50)
for line in map(json.loads, open("built.jsonl")):
    means = np.bincount(places[:, 0], weights=z[:, line["index"]], minlength=50) / (seen + 1)
    best = np.argsort(-means, kind="stable")[: min(10, (means > 0).sum())]
    assert np.allclose(line["pos_values"], means[best], rtol=1e-5)
    assert line["neg_str"] == []'
"$SAE" catalog build --sae "$model" in/unembed -o words --tokens 4 >said.txt
"$SAE" catalog export words >words.jsonl
py "tokens from the unembedding" '
raw = open(a[0] + "/sae_weights.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
h = json.loads(raw[8 : 8 + n])["W_dec"]
s, e = h["data_offsets"]
w = np.frombuffer(raw[8 + n + s : 8 + n + e], "<f4").reshape(h["shape"]).astype(float)
logits = w @ np.load("in/unembed/unembed.npy").astype(float).T
for line in map(json.loads, open("words.jsonl")):
    row = logits[line["index"]]
    up, down = np.argsort(-row)[:4], np.argsort(row)[:4]
    assert line["pos_str"] == ["<%d>" % i for i in up] and np.allclose(line["pos_values"], row[up], rtol=1e-4)
    assert line["neg_str"] == ["<%d>" % i for i in down] and np.allclose(line["neg_values"], row[down], rtol=1e-4)' "$model"
echo '{"index": 3, "description": "a new name"}' >in/name.jsonl
ok "a name" "$SAE" catalog import in/name.jsonl words --sae "$model"
ok "build again" "$SAE" catalog build --sae "$model" in/unembed -o words
"$SAE" search words "new name" --json >s.json
py "names stay" 'assert [f["feature"] for f in json.load(open("s.json"))["features"]] == [3]'
says "found by token" "(no label)" "$SAE" search words 7

# Shards from strangers.
damaged() { # damaged TEXT PYTHON: the code changes the index j or files of folder d
    rm -rf in/bad
    cp -r in/unembed in/bad
    "$PYTHON" -c "import json, os, numpy as np
d = 'in/bad/'
j = json.load(open(d + 'shards.json'))
$2
if os.path.exists(d + 'shards.json'): json.dump(j, open(d + 'shards.json', 'w'))"
    refuses 1 "$1" catalog build --sae "$model" in/bad -o out/cat
}
damaged "shards.json: " 'os.unlink(d + "shards.json")'
damaged "is 'x' version 1" 'j["format"] = "x"'
damaged "version 2" 'j["version"] = 2'
damaged "key 'hook_name'" 'del j["hook_name"]'
damaged "the rows are from 'blocks.9'" 'j["hook_name"] = "blocks.9"'
damaged "d_in is 5" 'j["d_in"] = 5'
damaged "key 'shards'" 'j["shards"] = []'
damaged "key 'rows'" 'j["shards"][1]["rows"] = -1'
damaged "key 'rows'" 'j["shards"][0]["rows"] = 2**62; j["shards"][1]["rows"] = 2**62'
damaged "shards.json says 7" 'j["shards"][1]["rows"] = 7'
damaged "not the name of a file in that folder" 'j["shards"][1]["tokens"] = "../x.npy"'
damaged "not the name of a file in that folder" 'j["shards"][1]["activations"] = "/etc/passwd"'
damaged "not the name of a file in that folder" 'j["vocab"] = ".."'
damaged "not the name of a file in that folder" 'j["unembed"] = ""'
damaged "key 'tokens'" 'del j["shards"][1]["tokens"]'
damaged "vocab.json: is no list" 'json.dump({}, open(d + "vocab.json", "w"))'
damaged "vocab.json: entry 1" 'json.dump(["x", 1], open(d + "vocab.json", "w"))'
damaged "there are 50 tokens" 't = np.load(d + "tokens-00001.npy"); t[3, 0] = 50; np.save(d + "tokens-00001.npy", t)'
damaged "row 3 is token -1" 't = np.load(d + "tokens-00001.npy"); t[3, 0] = -1; np.save(d + "tokens-00001.npy", t)'
damaged "not int32" 'np.save(d + "tokens-00001.npy", np.load(d + "tokens-00001.npy").astype("<i8"))'
damaged "has no rows of" 'np.save(d + "activations-00001.npy", np.load(d + "activations-00001.npy")[:, 1:])'
damaged "unembed.npy: is" 'np.save(d + "unembed.npy", np.zeros((49, j["d_in"]), "<f4"))'
damaged "not finite" 'np.save(d + "unembed.npy", np.full((50, j["d_in"]), np.nan, "<f4"))'
damaged "activations-00002.npy: cannot open" 'os.unlink(d + "activations-00002.npy")'
refuses 2 "-o CATALOG is wanted" catalog build --sae "$model" in/unembed
refuses 2 "--sae PATH is wanted" catalog build in/unembed -o out/cat

finish
