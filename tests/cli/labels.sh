#!/usr/bin/env bash
# sae catalog import: labels as other projects publish them.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/standard_relu
from=$GOLDEN/labels

# report NAME CODE COMMAND...: the JSON that the command prints is j.
report() {
    local name=$1 code=$2
    shift 2
    ok "$name: the command" sh -c '"$@" >r.json' sh "$@"
    py "$name" "j = json.load(open('r.json')); $code"
}

# holds NAME CATALOG CODE: the catalog's features by number are f.
holds() {
    "$SAE" catalog export "$2" >holds.jsonl
    py "$1" "f = {g['index']: g for g in map(json.loads, open('holds.jsonl'))}
$3"
}

# An SAE with as many features as the annotated ones have, all zeros.
py "a wide SAE" '
import os, struct
n = 32768
os.makedirs("wide")
shapes = {"W_enc": [1, n], "W_dec": [n, 1], "b_enc": [n], "b_dec": [1]}
header, at = {}, 0
for name, shape in shapes.items():
    size = 4 * int(np.prod(shape))
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
    at += size
text = json.dumps(header).encode()
open("wide/sae_weights.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + bytes(at))
json.dump({"architecture": "standard", "d_in": 1, "d_sae": n, "dtype": "float32"}, open("wide/cfg.json", "w"))'

# ---- Neuronpedia ----

np_says='
assert sorted(f) == [0, 1, 10]
assert f[0]["modelId"] == "gemma-2-2b" and f[0]["layer"] == "12-gemmascope-res-16k"
assert f[0]["frac_nonzero"] == 0.00123 and f[0]["maxActApprox"] == 12.5 and f[1]["maxActApprox"] == 0
assert f[0]["pos_str"] == ["▁bridge", " 다리"] and f[0]["pos_values"] == [1.5, 0.75] and f[0]["neg_str"] == ["\n"]
assert [max(e["values"]) for e in f[0]["activations"]] == [12.5, 9, 7.25, 4, 3]
assert [e["tokens"][3] for e in f[0]["activations"]] == ["▁1", "▁5", "▁3", "▁6", "▁0"]
assert [e["tokens"] for e in f[10]["activations"]] == [["▁the", "▁end"]] and f[1]["activations"] == []
assert f[10]["description"] == "articles" and f[1]["description"] == ""'
report "a folder" '
assert j["features"] == 3 and j["catalog"] == "np" and j["format"] == "neuronpedia", j
assert j["files"] == 3 and j["files skipped"] == 1 and j["read"] == 16 and j["imported"] == 15, j
assert j["skipped"]["where the feature is not active"] == 1 and sum(j["skipped"].values()) == 1, j
assert j["explainers"] == {"gpt-4o-mini, oai_token-act-pair": 2, "gemini-2.0-flash, np_max-act": 1}, j' \
    "$SAE" catalog import "$from/neuronpedia" np --sae "$model" --json
holds "what the folder said" np "$np_says
assert f[0]['description'] == 'words before bridge'"
cp holds.jsonl once.jsonl
ok "again" "$SAE" catalog import "$from/neuronpedia" np --sae "$model"
holds "the same again" np "assert open('holds.jsonl').read() == open('once.jsonl').read()"
cp -r "$from/neuronpedia" packed
chmod -R u+w packed
gzip packed/*/*.jsonl
ok "compressed, in another order" "$SAE" catalog import packed/activations/batch-0.jsonl.gz packed/explanations packed/features np2 --sae "$model"
holds "the same from compressed files" np2 "assert open('holds.jsonl').read() == open('once.jsonl').read()"
ok "compressed from a pipe" "$SAE" catalog import - np3 --sae "$model" <packed/features/batch-0.jsonl.gz
report "labels of one explainer" '
assert j["imported"] == 2 and j["skipped"]["of another explainer"] == 1 and list(j["explainers"]) == ["gpt-4o-mini, oai_token-act-pair"], j' \
    "$SAE" catalog import "$from/neuronpedia/explanations" np --explainer gpt-4o-mini --json
holds "its label" np "$np_says
assert f[0]['description'] == 'mentions of bridges and 다리'"
ok "two examples" "$SAE" catalog import "$from/neuronpedia" two --sae "$model" --examples 2 --explainer np_max-act
holds "two examples are kept" two "assert [max(e['values']) for e in f[0]['activations']] == [12.5, 9] and [f[i]['description'] for i in (0, 10)] == ['words before bridge', '']"
ok "more examples later" "$SAE" catalog import "$from/neuronpedia" two --examples 6
holds "examples come to those that are there" two "assert [max(e['values']) for e in f[0]['activations']] == [12.5, 9, 7.25, 4, 3, 2]"
printf '{"index": "0", "tokens": ["weak"], "values": [2.5]}\n' >in/weak.jsonl
printf '{"index": "0", "tokens": ["strong"], "values": [20]}\n' >in/strong.jsonl
ok "a weaker example" "$SAE" catalog import in/weak.jsonl two --examples 7
holds "the largest activation stays" two "assert f[0]['maxActApprox'] == 12.5 and [max(e['values']) for e in f[0]['activations']] == [12.5, 9, 7.25, 4, 3, 2.5, 2]"
ok "a stronger example" "$SAE" catalog import in/strong.jsonl two --examples 1
holds "it is the largest activation" two "assert f[0]['maxActApprox'] == 20 and [e['tokens'] for e in f[0]['activations']] == [['strong']]"
says "a download" "2 features into list" "$SAE" catalog import "$from/neuronpedia-explanations.json" list --sae "$model"
holds "the download's labels" list "assert {i: g['description'] for i, g in f.items()} == {0: 'mentions of bridges and 다리', 10: 'articles'}"
says "found by its label" "mentions of" "$SAE" search list 다리
tr -d '\n' <"$from/neuronpedia-explanations.json" >in/line.json
ok "a download in one line" "$SAE" catalog import in/line.json list2 --sae "$model"
ok "the same in one line" cmp <("$SAE" catalog export list) <("$SAE" catalog export list2)

cat >in/api.json <<'END'
{
  "modelId": "gemma-2-2b", "layer": "12-gemmascope-res-16k", "index": "4", "frac_nonzero": 0.25,
  "activations": [{"tokens": ["a", "b"], "values": [0, 2], "maxValueTokenIndex": 1}],
  "explanations": [{"description": "the first"}, {"description": "the second"}]
}
END
ok "a feature of the API" "$SAE" catalog import in/api.json api --sae "$model"
holds "it has its first explanation" api "assert f[4]['description'] == 'the first' and len(f[4]['activations']) == 1 and f[4]['frac_nonzero'] == 0.25"
printf '{"index": 1, "layer": "a", "activations": []}\n{"index": 2, "layer": "b", "activations": []}\n' >in/mixed.jsonl
ok "lines of a catalog that is of two SAEs" "$SAE" catalog import in/mixed.jsonl mixed --sae "$model"
report "those of one" 'assert j["imported"] == 1 and j["skipped"]["of another source"] == 1' \
    "$SAE" catalog import in/mixed.jsonl mixed2 --sae "$model" --source b --json
printf '{"index": 1, "layer": "a", "description": "x"}\n{"index": 2, "layer": "b", "description": "y"}\n' >in/mixed.jsonl
refuses 1 "in/mixed.jsonl: line 2: this is of 'b', what came before of 'a'" catalog import in/mixed.jsonl out/cat --sae "$model"

# ---- feature-circuits ----

refuses 1 "line 3: this is of 'resid_0', what came before of 'embed': --source NAME takes those of one" \
    catalog import "$from/feature-circuits.jsonl" out/cat --sae wide
refuses 1 "nothing is of 'resid_4'; the first is of 'embed'" catalog import "$from/feature-circuits.jsonl" out/cat --sae wide --source resid_4
report "one of many SAEs" '
assert j["format"] == "feature-circuits" and j["read"] == 17 and j["imported"] == 4 and j["features"] == 1, j
assert j["skipped"]["of another source"] == 11 and j["skipped"]["without a feature"] == 2, j' \
    "$SAE" catalog import "$from/feature-circuits.jsonl" circuits --sae wide --source resid_6 --json
holds "the last annotation" circuits "assert {i: g['description'] for i, g in f.items()} == {11417: 'plural nouns'}"
says "no annotation" "2 features into embed; 11 entries of another source skipped; 2 entries without a label skipped; 2 entries without a feature skipped" \
    "$SAE" catalog import "$from/feature-circuits.jsonl" embed --sae wide --source embed
holds "short lines" embed "assert {i: g['description'] for i, g in f.items()} == {293: 'plural nouns', 946: \"'his'\"}"

# ---- SAEDashboard and sae_vis ----

dash=$from/sae-dashboard
ok "tokens stay out" sh -c '"$@" 2>err.txt && grep -q "warning: .* --vocab FILE says their texts" err.txt' sh "$SAE" catalog import "$dash/vis.json" vis --sae "$model"
report "ids without texts" 'assert j["format"] == "sae-dashboard" and j["features"] == j["imported"] == 3, j' \
    "$SAE" catalog import "$dash/vis.json" vis --json
holds "statistics alone" vis "
assert sorted(f) == [0, 3, 7] and f[3]['frac_nonzero'] == 0.1875 and f[0]['pos_str'] == f[0]['activations'] == [] and f[7]['maxActApprox'] == 0
assert abs(f[0]['maxActApprox'] - 19.7285) < 1e-4"
ok "with texts" "$SAE" catalog import "$dash/vis.json" vis --vocab "$dash/vocab.json"
ok "a batch" "$SAE" catalog import "$dash/batch-0.json" batch --sae "$model"
holds "the batch" batch '
want = {g["feature_index"]: g for g in json.load(open(a[0]))["features"]} if a else None
assert f[0]["layer"] == "0-res-tiny" and f[0]["modelId"] == "tiny-1l" and f[0]["pos_str"] == ["Ġthe", "\n", " gate"]
assert f[0]["activations"][0] == {"tokens": [" cat", " a", " a", " cat", " 강"], "values": [0, 11.462, 19.728, 0, 0]}
assert len(f[0]["activations"]) == 5 and f[7]["activations"] == [] and f[7]["frac_nonzero"] == 0'
cp holds.jsonl batch.jsonl
holds "the package writes the same twice" vis '
b = {g["index"]: g for g in map(json.loads, open("batch.jsonl"))}
for i in f:
    assert f[i]["pos_str"] == b[i]["pos_str"] and f[i]["neg_str"] == b[i]["neg_str"]
    assert np.allclose(f[i]["pos_values"], b[i]["pos_values"], atol=6e-4)
    assert len(f[i]["activations"]) == len(b[i]["activations"])
    for x, y in zip(f[i]["activations"], b[i]["activations"]):
        assert x["tokens"] == y["tokens"] and np.allclose(x["values"], y["values"], atol=6e-4)'
py "vocabularies, NaN" '
words = json.load(open(a[0]))
json.dump({w: i for i, w in enumerate(words)}, open("vocab.json", "w"))
json.dump({"model": {"vocab": {w: i for i, w in enumerate(words[:12])}}, "added_tokens": [{"id": i, "content": w} for i, w in enumerate(words) if i > 11]},
          open("tokenizer.json", "w"))
json.dump({"model": {"vocab": [[w, -1.5] for w in words]}}, open("unigram.json", "w"))
json.dump(words[:5], open("short.json", "w"))
v = json.load(open(a[1]))
for i in "03":
    v["feature_data_dict"][i]["feature_tables_data"]["correlated_neurons_pearson"] = [float("nan"), float("-inf")]
v["feature_data_dict"]["0"]["acts_histogram_data"]["title"] = "NaN \" NaN"
json.dump(v, open("nan.json", "w"))
json.dump(v, open("pretty.json", "w"), indent=1)' "$dash/vocab.json" "$dash/vis.json"
for vocab in vocab tokenizer unigram; do
    ok "a vocabulary: $vocab" "$SAE" catalog import "$dash/vis.json" "cat-$vocab" --sae "$model" --vocab $vocab.json
    ok "the same with $vocab" cmp <("$SAE" catalog export vis) <("$SAE" catalog export "cat-$vocab")
done
for file in nan pretty; do
    ok "NaN: $file" "$SAE" catalog import $file.json "cat-$file" --sae "$model" --vocab vocab.json
    ok "the same with $file" cmp <("$SAE" catalog export vis) <("$SAE" catalog export "cat-$file")
done
refuses 1 "entry 1 is no token of --vocab, which has 0 .. 4" catalog import "$dash/vis.json" out/cat --sae "$model" --vocab short.json
refuses 1 "is no list of texts, no object with an id for each text" catalog import "$dash/vis.json" out/cat --sae "$model" --vocab wide/cfg.json
refuses 1 "nowhere: " catalog import "$dash/vis.json" out/cat --sae "$model" --vocab nowhere

# ---- Delphi ----

report "a run" '
assert j["format"] == "delphi" and j["features"] == 2 and j["files"] == 6 and j["files skipped"] == 1 and j["imported"] == 4, j
assert j["skipped"]["without a label"] == 1 and j["skipped"]["where the feature is not active"] == 1, j' \
    "$SAE" catalog import "$from/delphi" delphi --sae "$model" --json
holds "explanations and examples" delphi '
assert {i: g["description"] for i, g in f.items()} == {3: "Words about bridges and river crossings.", 10: "다리 \"건너다\"\nand line breaks"}
assert [e["values"] for e in f[3]["activations"]] == [[0, 0.25, 5, 0], [0, 0.25, 3, 0], [0, 0.25, 1, 0]] and f[3]["maxActApprox"] == 5
assert f[3]["activations"][0]["tokens"] == [" the", " old", " bridge4", "."]'
mkdir run
echo '[{"activating": false, "str_tokens": ["x"], "activations": [3]}]' >in/layers.5_latent4.txt
says "an entry that is no example" "0 features into inactive" "$SAE" catalog import in/layers.5_latent4.txt inactive --sae "$model"
cp "$from/delphi/explanations/layers.5.mlp_latent3.txt" run/layers.5.mlp_feature3.txt
cp "$from/delphi/explanations/layers.5.mlp_latent10.txt" run/layers.6.mlp_latent10.txt
refuses 1 "this is of 'layers.6.mlp', what came before of 'layers.5.mlp'" catalog import run out/cat --sae "$model"
ok "one layer" "$SAE" catalog import run layer6 --sae "$model" --source layers.6.mlp
holds "that layer" layer6 'assert list(f) == [10]'

# ---- what is refused: file, line and reason, and nothing is written ----

bad() { # bad TEXT NAME CONTENT: as printf takes it
    # shellcheck disable=SC2059
    printf "$3" >"in/$2"
    refuses 1 "in/$2: $1" catalog import "in/$2" out/cat --sae "$model"
}
bad "line 1: it fits no format: Neuronpedia's rows have a key 'index'" a.jsonl '{"name": "x"}\n'
bad "line 1: it fits no format" a.txt '"a text"'
bad "line 1: it fits no format" a.json '[1, 2]'
bad "line 2: column 17: unable to decode byte 0xff" b.jsonl '{"index": 1}\n{"description": "\377"}\n'
bad "line 4: column" c.json '[\n  {"index": 1},\n  {"index": 2\n'
bad "line 1, entry 1: key 'index' is missing" d.json '[{"index": 1}, {"description": "x"}]'
bad "line 1, entry 1: it is no JSON object" e.json '[{"index": 1}, 7]'
bad "line 2: it is no JSON object" f.jsonl '{"index": 1}\n[{"index": 1}]\n'
bad "line 1: key 'values' is no list" g.jsonl '{"index": 1, "tokens": ["x"]}\n'
bad "line 1: key 'values' has 1 entries, 'tokens' has 2" h.jsonl '{"index": 1, "tokens": ["x", "y"], "values": [1]}\n'
bad "line 1: key 'values': entry 0 is no number" i.jsonl '{"index": 1, "tokens": ["x"], "values": [NaN]}\n'
bad "line 1: key 'index' is missing" j.jsonl '{"index": null, "tokens": ["x"], "values": [1]}\n'
bad "line 1: there is no feature 131, this SAE has 0 .. 130" k.jsonl '{"index": "131", "tokens": ["x"], "values": [1]}\n{"index": 1}\n'
bad "line 1: key 'index' is no whole number" l.jsonl '{"index": "-1", "description": "x"}\n'
bad "line 1: key 'Name' is 'resid_3/x', which has no whole number" m.jsonl '{"Name": "resid_3/x", "Annotation": "x"}\n'
bad "line 1: key 'Annotation' is no text" n.jsonl '{"Name": "resid_3/1", "Annotation": 3}\n'
bad "line 1: there is no feature 131" o.jsonl '{"Name": "resid_3/131", "Annotation": "x"}\n'
bad "line 1, entry 0: key 'feature_index' is missing" p.json '{"sae_set": "x", "features": [{"frac_nonzero": 0}]}'
bad "line 1, entry 0: it is no JSON object" q.json '{"sae_set": "x", "features": [3]}'
bad "line 1: key 'layer' is no whole number" r.json '{"sae_set": "x", "layer": [], "features": [{"feature_index": 1}]}'
bad "line 1, entry 0: key 'activations.values' is no list" s.json \
    '{"sae_set": "x", "features": [{"feature_index": 1, "activations": [{"tokens": ["x"]}]}]}'
bad "line 1, entry 0: key 'x' of 'feature_data_dict' is no whole number" t.json '{"feature_data_dict": {"x": {}}}'
bad "line 1: there is no feature 131" layers.1_latent131.txt '"a label"'
bad "line 1, entry 0: key 'activations' is no list" layers.1_latent1.txt '[{"activating": true, "str_tokens": ["x"]}]'
bad "line 1: column" layers.1_latent2.txt 'a label without quotes'
head -c 300 packed/features/batch-0.jsonl.gz >in/short.jsonl.gz
refuses 1 "in/short.jsonl.gz: cannot read: the compressed file ends too early" catalog import in/short.jsonl.gz out/cat --sae "$model"
py "a wrong byte" '
raw = bytearray(open(a[0], "rb").read())
raw[-7] ^= 1
open("in/flip.jsonl.gz", "wb").write(raw)' packed/features/batch-0.jsonl.gz
refuses 1 "in/flip.jsonl.gz: cannot read: the compressed file is damaged" catalog import in/flip.jsonl.gz out/cat --sae "$model"
cp -r np before
"$SAE" catalog export np >before.jsonl
printf '{"index": 0, "description": "lost"}\n{"index": 500}\n' >in/late.jsonl
refuses 1 "in/late.jsonl: line 2: there is no feature 500" catalog import "$from/neuronpedia-explanations.json" in/late.jsonl np
ok "nothing of either file is written" cmp before.jsonl <("$SAE" catalog export np)
mkdir empty other
refuses 1 "empty: the folder holds no .jsonl, .json and _latentN.txt" catalog import empty out/cat --sae "$model"
echo '{}' >other/cfg.json
refuses 1 "other/cfg.json: none of the folder's 1 files fits a format" catalog import other out/cat --sae "$model"
refuses 1 "in/a.jsonl: line 1: key 'index' is missing" catalog import in/a.jsonl out/cat --sae "$model" --format neuronpedia
refuses 1 "there is no key 'feature_data_dict'" catalog import in/a.jsonl out/cat --sae "$model" --format sae-dashboard
refuses 1 "does not end with _latentN.txt" catalog import in/a.txt out/cat --sae "$model" --format delphi
refuses 2 "--format is neuronpedia, feature-circuits, sae-dashboard or delphi, not 'x'" catalog import in/a.txt out/cat --format x
refuses 2 "--examples wants a number in 1 .. 100" catalog import in/a.txt out/cat --examples 0
refuses 2 "--sae PATH is wanted" catalog import "$from/neuronpedia" out/cat

# ---- the real annotations, whole ----

data=${SAE_TEST_DATA:-}/explanations/feature-circuits
if [ -e "$data/pythia-70m-deduped.jsonl" ]; then
    py "labels of each SAE" '
import collections, subprocess
for name in "gemma-2-2b", "pythia-70m-deduped":
    want = collections.defaultdict(dict)
    for line in map(json.loads, open(f"{a[1]}/{name}.jsonl", encoding="utf-8")):
        source, _, number = line["Name"].rpartition("/")
        if source and line.get("Annotation"):
            want[source][int(number)] = line["Annotation"]
    assert len(want) > 15
    for source in want:
        catalog = f"{name}-{source}"
        subprocess.run([a[0], "catalog", "import", f"{a[1]}/{name}.jsonl", catalog, "--sae", "wide", "--source", source], check=True)
        lines = subprocess.run([a[0], "catalog", "export", catalog], check=True, capture_output=True, text=True).stdout.splitlines()
        assert {g["index"]: g["description"] for g in map(json.loads, lines)} == want[source], source' "$SAE" "$data"
else
    echo 'skip: the annotations of the optional data folder'
fi

finish
