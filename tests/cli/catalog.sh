#!/usr/bin/env bash
# sae catalog import and export, sae search, sae top.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu
other=$GOLDEN/saelens/standard_hook_z

# ---- import and export ----

cat >in/a.jsonl <<'END'
{"modelId": "gemma-2-2b", "layer": "12-res", "index": "3", "description": "다리를 건너는 사람", "frac_nonzero": 0.001, "maxActApprox": 12.5, "pos_str": [" bridge", "▁다리"], "pos_values": [1.5, 0.1], "neg_str": ["\u0001\"\\"], "neg_values": [-0.0], "activations": [{"tokens": ["the", " bridge"], "values": [0, 12.5], "dfaValues": []}, {"tokens": ["a", "b", "c"], "values": [1, 2, 2], "maxValueTokenIndex": 2, "document": 7, "position": 19}, {"tokens": [], "values": []}], "creatorId": null}

{"index": 0, "description": "golden gate bridge", "frac_nonzero": 1e-7, "maxActApprox": 3}
{"index": 1, "description": null}
END
says "import" "3 features into cat" "$SAE" catalog import in/a.jsonl cat --sae "$model"
ok "export" "$SAE" catalog export cat -o one.jsonl
ok "the catalog is one file" test "$(echo cat*)" = cat
ok "into another" "$SAE" catalog import one.jsonl cat2 --sae "$model" --json
"$SAE" catalog export cat2 >two.jsonl
ok "export, import, export: the same bytes" cmp one.jsonl two.jsonl
ok "again into the same" "$SAE" catalog import one.jsonl cat --sae "$model"
"$SAE" catalog export cat -o - >two.jsonl
ok "nothing is doubled" cmp one.jsonl two.jsonl
py "what was exported" '
got = [json.loads(l) for l in open("one.jsonl")]
assert [g["index"] for g in got] == [0, 1, 3]
want = json.loads(open("in/a.jsonl").readline())
g = got[2]
for key in "modelId", "layer", "description", "frac_nonzero", "maxActApprox", "pos_str", "pos_values", "neg_str", "neg_values":
    assert g[key] == want[key], key
assert str(g["neg_values"]) == "[-0.0]"
for a, b in zip(g["activations"], want["activations"]):
    assert a["tokens"] == b["tokens"] and a["values"] == b["values"]
assert g["activations"][1]["maxValueTokenIndex"] == 2 and g["activations"][1]["document"] == 7
empty = {"description": "", "pos_str": [], "pos_values": [], "neg_str": [], "neg_values": [], "activations": []}
assert got[1] == {"index": 1, **empty}
rng = np.random.default_rng(1)
with open("in/many.jsonl", "w") as f:
    for i in range(37):
        v = [float(x) for x in rng.standard_normal(9) * 10.0 ** rng.integers(-30, 30, 9)]
        line = {"index": i, "frac_nonzero": rng.random(), "mean": rng.random() * 1e300, "pos_str": ["x"] * 9, "pos_values": v}
        f.write(json.dumps(line) + "\n")'
ok "odd numbers" "$SAE" catalog import - many --sae "$model" <in/many.jsonl
"$SAE" catalog export many >one.jsonl
"$SAE" catalog import one.jsonl many2 --sae "$model" >said.txt
"$SAE" catalog export many2 >two.jsonl
ok "odd numbers: the same bytes" cmp one.jsonl two.jsonl
py "numbers are exact" '
for a, b in zip(open("in/many.jsonl"), open("one.jsonl")):
    a, b = json.loads(a), json.loads(b)
    assert a["frac_nonzero"] == b["frac_nonzero"] and a["mean"] == b["mean"]
    assert np.array_equal(np.float32(a["pos_values"]), np.float32(b["pos_values"]))'

# What a line leaves out stays.
echo '{"index": 3, "description": "a new name"}' >in/name.jsonl
ok "a name alone" "$SAE" catalog import in/name.jsonl cat2 --sae "$model"
"$SAE" catalog export cat2 >one.jsonl
py "the rest stays" '
g = [json.loads(l) for l in open("one.jsonl")][2]
assert g["description"] == "a new name" and g["pos_str"] == [" bridge", "▁다리"] and len(g["activations"]) == 3 and g["maxActApprox"] == 12.5'

# Wrong lines: line and key are named, nothing is written.
wrong() { # wrong LINE TEXT
    printf '%s\n' '{"index": 5, "description": "good"}' "$1" >in/wrong.jsonl
    refuses 1 "in/wrong.jsonl: line 2: $2" catalog import in/wrong.jsonl out/cat --sae "$model"
    "$SAE" catalog export cat >before.jsonl
    refuses 1 "in/wrong.jsonl: line 2: $2" catalog import in/wrong.jsonl cat --sae "$model"
    "$SAE" catalog export cat >after.jsonl
    ok "nothing of it is written: $2" cmp before.jsonl after.jsonl
}
wrong '{"index": 5' "column"
wrong '[]' "it is no JSON object"
wrong '{"description": "x"}' "key 'index' is missing"
wrong '{"index": -1}' "key 'index' is no whole number"
wrong '{"index": 1.5}' "key 'index' is no whole number"
wrong '{"index": "7x"}' "key 'index' is no whole number"
wrong '{"index": 100000}' "there is no feature 100000, this SAE has 0 .. "
wrong '{"index": 1, "index": 2}' "column"
wrong '{"index": 1, "description": 5}' "key 'description' is no text"
wrong '{"index": 1, "description": "\u0000"}' "column"
wrong '{"index": 1, "frac_nonzero": "x"}' "key 'frac_nonzero' is no number"
wrong '{"index": 1, "maxActApprox": 1e999}' "column"
wrong '{"index": 1, "pos_str": ["x"]}' "key 'pos_values' is no list"
wrong '{"index": 1, "pos_str": ["x"], "pos_values": []}' "key 'pos_values' has 0 entries, 'pos_str' has 1"
wrong '{"index": 1, "neg_str": [1], "neg_values": [1]}' "key 'neg_str': entry 0 is no text"
wrong '{"index": 1, "neg_str": ["x"], "neg_values": [1e39]}' "key 'neg_values': entry 0 is no number that float32 can hold"
wrong '{"index": 1, "activations": {}}' "key 'activations' is no list"
wrong '{"index": 1, "activations": [1]}' "key 'activations': an entry is no object"
wrong '{"index": 1, "activations": [{"tokens": ["x"], "values": [null]}]}' "key 'activations[0].values': entry 0"
wrong '{"index": 1, "activations": [{"tokens": ["x"], "values": [1], "maxValueTokenIndex": 1}]}' "key 'activations[0].maxValueTokenIndex' is 1, there are 1"
refuses 2 "--sae PATH is wanted" catalog import in/a.jsonl out/cat
refuses 2 "FILE and CATALOG wanted, 1 of 2 given" catalog import in/a.jsonl
refuses 1 "nowhere.jsonl: cannot open" catalog import nowhere.jsonl out/cat --sae "$model"
refuses 1 "cannot open nowhere" catalog export nowhere
refuses 1 "in/a.jsonl is no SQLite file" catalog export in/a.jsonl
refuses 2 "one of \`catalog build\`" catalog
refuses 2 "one of \`catalog build\`" catalog nonsense

# ---- search ----

says "search" "golden gate bridge" "$SAE" search cat bridge
"$SAE" search cat 다리 --json >s.json
py "two syllables" 'j = json.load(open("s.json")); assert j["query"] == "다리" and [f["feature"] for f in j["features"]] == [3], j'
"$SAE" search cat bridge -n 1 --json >s.json
py "one" '
f, = json.load(open("s.json"))["features"]
assert f["feature"] == 0 and f["label"] == "golden gate bridge" and f["score"] > 0 and f["mean"] is None'
"$SAE" search cat zebra --json >s.json
py "none" 'assert json.load(open("s.json"))["features"] == []'
ok "of this SAE" "$SAE" search cat bridge --sae "$model"
refuses 1 "at 'blocks.1.hook_resid_post', not of this one, " search cat bridge --sae "$other"
refuses 2 "-n wants a number in 1 .." search cat bridge -n 0
refuses 2 "CATALOG and QUERY wanted" search cat

# ---- top ----

"$SAE" top --sae "$model" --catalog cat "$model/x.npy" -n 3 --json >t.json
"$SAE" encode "$model" "$model/x.npy" --top 3 --json >e.json
py "top agrees with encode" '
t, e = json.load(open("t.json")), json.load(open("e.json"))
assert t["rows"] == e["rows"] == len(t["top"])
assert [[(f["feature"], f["value"]) for f in r] for r in t["top"]] == [[(f["feature"], f["value"]) for f in r] for r in e["top"]]
with open("in/all.jsonl", "w") as f:
    for i in {f["feature"] for r in t["top"] for f in r}:
        f.write(json.dumps({"index": i, "description": f"name {i}"}) + "\n")'
ok "names for them" "$SAE" catalog import in/all.jsonl names --sae "$model"
"$SAE" top --sae "$model" --catalog names "$model/x.npy" -n 3 --json >t.json
py "labels" 'assert all(f["label"] == "name %d" % f["feature"] for r in json.load(open("t.json"))["top"] for f in r)'
says "top as text" "name " "$SAE" top --sae "$model" --catalog names "$model/x.npy"
says "top without a catalog" "row 0, " "$SAE" top --sae "$model" "$model/x.npy"
refuses 2 "--sae PATH is wanted" top "$model/x.npy"

# A catalog of another SAE with as many features: one bit of b_dec differs.
cp -r "$model" shifted
py "another SAE" '
p = "shifted/sae_weights.safetensors"
raw = bytearray(open(p, "rb").read())
n = int.from_bytes(raw[:8], "little")
raw[8 + n + json.loads(raw[8 : 8 + n])["b_dec"]["data_offsets"][0]] ^= 1
open(p, "wb").write(raw)'
mkdir sequence
"$PYTHON" "$HERE/make_shards.py" sequence "$GOLDEN/saelens/temporal" none 1000
refuses 1 "the codes of a temporal SAE depend on the rows before" catalog build --sae "$GOLDEN/saelens/temporal" sequence -o out/cat
refuses 1 "of another SAE" top --sae shifted --catalog cat "$model/x.npy"
refuses 1 "of another SAE" search cat bridge --sae shifted
refuses 1 "of another SAE" catalog import in/a.jsonl cat --sae shifted
ok "forced" "$SAE" top --sae shifted --catalog cat --force "$model/x.npy"
"$SAE" info "$model" --json >i.json
"$SAE" info shifted --json >i2.json
py "info tells them apart" 'p = [json.load(open(f))["fingerprint"] for f in ("i.json", "i2.json")]; assert p[0] != p[1] and len(p[0]) == 32, p'

finish
