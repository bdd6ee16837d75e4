"""Somebody else's engine: llama.cpp with its own weights, watched and steered through sae/ggml.h. Judges are a NumPy forward pass, our
engine, llama.cpp without a callback, and its own control vectors. The model is the world's, as a GGUF file."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import convert
import numpy as np
import pytest
from conftest import ADD, ROOT, SET, WORLD, Array, Host, compile_against_llama
from llama import Llama

Maker = Callable[..., Host]


def in_double(m: Llama) -> Llama:
    """The same forward pass in float64."""
    shape = (m.dim, m.hidden, m.n_layers, m.n_heads, m.n_kv_heads, m.n_vocab, m.context)
    out = Llama(shape, {name: a.astype(np.float64) for name, a in m.t.items()})
    angle = np.outer(np.arange(m.context), 10000.0 ** -(np.arange(0, m.head, 2) / m.head))
    out._cos, out._sin = np.cos(angle), np.sin(angle)
    return out


MODEL = in_double(Llama.load_bin(WORLD / "world.bin"))
SAE = WORLD / "sae"
ENGINE = os.environ["ENGINE"]
TRUTH = json.loads((WORLD / "truth.json").read_text())["concepts"]
RNG = np.random.default_rng(7)
IDS = [1, *map(int, RNG.integers(259, MODEL.n_vocab, 59))]
DELTA = (RNG.standard_normal(MODEL.dim) * 2).astype(np.float32)
EXACT = 1e-4  # max |logit| here is near 26, and llama.cpp's own arithmetic 1e-5 off


def engine(*arguments: object) -> Any:
    files = ["--model", WORLD / "world.bin", "--tokenizer", WORLD / "tokenizer.bin", "--json"]
    said = subprocess.run([ENGINE, *map(str, [*arguments, *files])], check=True, capture_output=True, text=True).stdout
    return json.loads(said)


def judged(tokens: list[int], layer: int, delta: Array) -> Array:
    """Logits with `delta` [rows][dim] added to the residual after the layer."""
    x = MODEL.blocks(MODEL.embed(np.array([tokens])), 0, layer + 1) + delta
    return MODEL.logits(MODEL.blocks(x, layer + 1, MODEL.n_layers))[0]


def far(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())


def adding(h: Host, layer: int, vector: Array = DELTA, name: str = "l_out") -> Host:
    h.tap(name, layer)
    h.steer([{"op": ADD, "value": 1.0, "vector": vector}])
    return h


def test_file_is_the_same_twice(world: Path, tmp_path: Path) -> None:
    script = ROOT / "examples" / "llamacpp" / "convert.py"
    again = [sys.executable, str(script), str(WORLD / "world.bin"), str(WORLD / "tokenizer.bin"), str(tmp_path / "again.gguf")]
    subprocess.run(again, check=True)
    assert (tmp_path / "again.gguf").read_bytes() == world.read_bytes()


@pytest.mark.parametrize("broken", ["short", "shape", "tokenizer"])
def test_converter_refuses(tmp_path: Path, broken: str) -> None:
    data = (WORLD / "world.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes({"short": data[:-4], "shape": b"\xff" * 28, "tokenizer": data}[broken])
    words = (WORLD / "tokenizer.bin").read_bytes()
    (tmp_path / "t.bin").write_bytes(words[:-100] if broken == "tokenizer" else words)
    script = ROOT / "examples" / "llamacpp" / "convert.py"
    files = [str(tmp_path / name) for name in ("m.bin", "t.bin", "out.gguf")]
    run = subprocess.run([sys.executable, str(script), *files], capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr and files[broken == "tokenizer"] in run.stderr
    assert not Path(files[2]).exists()


def test_tokens_are_the_engine_s(host: Maker) -> None:
    h = host()
    for concept in TRUTH:
        for language in ("en", "ko", "es"):
            text = f"{concept['nouns'][language][0]}, {concept['nouns'][language][1]}."
            assert h.tokens(text) == engine("tokenize", "--prompt", text)["tokens"][0]


def test_unsteered_equals_numpy_and_the_engine(host: Maker) -> None:
    h = host(callback=False)
    assert far(h.logits(IDS), MODEL.forward(np.array([IDS]))[0]) < EXACT
    prompts = ["The harbour", "", "El puerto", "Avant"]
    said = engine("run", "--new", "120", *[a for p in prompts for a in ("--prompt", p)])["sequences"]
    assert max(len(s["tokens"]) for s in said) == 120
    for s in said:
        assert h.greedy(s["prompt_tokens"], len(s["tokens"])) == s["tokens"]


@pytest.mark.parametrize(
    "name", ["stories260K/stories260K.bin stories260K/tok512.bin", "babyllama_tok105/model5000.bin babyllama_tok105/tok105.model"]
)
def test_models_of_others(library: ctypes.CDLL, tmp_path: Path, name: str) -> None:
    """Converted, they give what the engine and NumPy give of the checkpoint; steered at each layer too."""
    data = os.environ.get("SAE_TEST_DATA")
    if not data:
        pytest.skip("SAE_TEST_DATA is not set")
    model, words = (Path(data) / "models" / part for part in name.split())
    gguf = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for out in gguf:
        convert.main([str(model), str(words), str(out)])
    assert gguf[0].read_bytes() == gguf[1].read_bytes()
    judge = in_double(Llama.load_bin(model))
    rng = np.random.default_rng(3)
    ids = [1, *map(int, rng.integers(3, judge.n_vocab, 39))]
    delta = rng.standard_normal(judge.dim).astype(np.float32)
    bare = Host(library, gguf[0], callback=False)
    assert far(bare.logits(ids), judge.forward(np.array([ids]))[0]) < EXACT
    tokens = bare.greedy([1], 120)
    assert list(judge.forward(np.array([[1, *tokens[:-1]]]))[0].argmax(-1)) == tokens
    bare.close()
    for layer in range(judge.n_layers):
        h = adding(Host(library, gguf[0], n_ubatch=16), layer, delta)
        x = judge.blocks(judge.embed(np.array([ids])), 0, layer + 1) + delta
        assert far(h.logits(ids), judge.logits(judge.blocks(x, layer + 1, judge.n_layers))[0]) < EXACT
        h.close()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n_ubatch", [7, 512])
def test_observing_changes_no_bit(host: Maker, n_ubatch: int, exact: bool) -> None:
    bare = host(callback=False, n_ubatch=n_ubatch, exact=exact).logits(IDS)
    watched = host(n_ubatch=n_ubatch, exact=exact)
    for layer in range(MODEL.n_layers):
        watched.tap("l_out", layer)
    codes = host(n_ubatch=n_ubatch, exact=exact)
    codes.tap("l_out", 2)
    codes.watch(SAE, [25, 87], len(IDS))
    for h in (watched, codes, host(n_ubatch=n_ubatch, exact=exact)):
        assert np.array_equal(h.logits(IDS), bare)
    count = watched.counts(1)
    assert count["hits"] == -(-len(IDS) // n_ubatch) and count["seen"] == len(IDS)
    assert count["edited"] == count["left"] == count["unannounced"] == 0


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("n_ubatch", [7, 16, 512])
@pytest.mark.parametrize("layer", range(MODEL.n_layers))
def test_edit_at_each_layer(host: Maker, layer: int, n_ubatch: int, copy: bool) -> None:
    h = adding(host(n_ubatch=n_ubatch, copy=copy), layer)
    got = h.logits(IDS)
    assert far(got, judged(IDS, layer, DELTA)) < EXACT
    assert far(got, MODEL.forward(np.array([IDS]))[0]) > 1
    assert h.counts()["edited"] == len(IDS)


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("n_ubatch", [7, 16, 512])
@pytest.mark.parametrize("layer", [1, MODEL.n_layers - 1])
def test_a_window_of_rows(host: Maker, layer: int, n_ubatch: int, copy: bool) -> None:
    slot = [0 if 30 <= r < 50 else -1 for r in range(len(IDS))]
    bare = host(callback=False, n_ubatch=n_ubatch).logits(IDS)
    h = adding(host(n_ubatch=n_ubatch, copy=copy), layer)
    got = h.logits(IDS, slot=slot)
    want = judged(IDS, layer, np.array(slot)[:, None].clip(-1, 0) * DELTA + DELTA)
    assert far(got, want) < EXACT
    assert np.array_equal(got[:30], bare[:30])
    assert h.counts()["edited"] == 20 and h.counts()["left"] == 40


@pytest.mark.parametrize("n_ubatch", [7, 16, 512])
@pytest.mark.parametrize("wanted", [[59], [3, 4, 20, 40, 41, 59], [0], []])
def test_last_layer_has_the_rows_with_outputs(host: Maker, wanted: list[int], n_ubatch: int) -> None:
    output = [int(r in wanted) for r in range(len(IDS))]
    slot = [r % 3 - 1 for r in range(len(IDS))]
    h = host(n_ubatch=n_ubatch)
    h.tap("l_out", MODEL.n_layers - 1)
    other = -DELTA
    h.steer([{"slot": 0, "op": ADD, "value": 1.0, "vector": DELTA}, {"slot": 1, "op": ADD, "value": 1.0, "vector": other}], n_slots=2)
    got = h.logits(IDS, output=output, slot=slot)
    delta = np.stack([(np.zeros_like(DELTA), DELTA, -DELTA)[s + 1] for s in slot])
    want = judged(IDS, MODEL.n_layers - 1, delta)[wanted]
    assert got.shape == want.shape and (not wanted or far(got, want) < EXACT)
    assert h.counts()["seen"] == len(wanted) and h.counts()["edited"] == sum(slot[r] >= 0 for r in wanted)


def test_steering_stays_in_keys_and_values(host: Maker) -> None:
    h = adding(host(), 2)
    slot = [0] * 20 + [-1] * 40
    got = h.logits(IDS[:20])
    for r in range(20, 60):
        status, row = h.decode([IDS[r]], pos=[r], slot=[-1])
        assert status == 0
        got = np.vstack([got, row])
    assert far(got, judged(IDS, 2, (np.array(slot)[:, None] + 1) * DELTA)) < EXACT
    assert far(got[20:], MODEL.forward(np.array([IDS]))[0][20:]) > 0.1


@pytest.mark.parametrize("n_ubatch", [7, 512])
def test_several_sequences_with_plans_of_their_own(host: Maker, n_ubatch: int) -> None:
    h = host(n_seq=3, unified=True, n_ubatch=n_ubatch)
    h.tap("l_out", 2)
    h.steer([{"slot": s, "op": ADD, "value": (1.0, -1.0)[s], "vector": DELTA} for s in range(2)], n_slots=2)
    rows = [(s, r) for r in range(10) for s in range(3)]
    got = h.logits([IDS[10 * s + r] for s, r in rows], pos=[r for _, r in rows], seq=[s for s, _ in rows], slot=[s - 1 for s, _ in rows])
    for s in range(3):
        want = judged(IDS[10 * s : 10 * s + 10], 2, (0, 1, -1)[s] * DELTA)
        assert far(got[[i for i, row in enumerate(rows) if row[0] == s]], want) < EXACT


def test_sequences_with_memory_of_their_own(host: Maker) -> None:
    """Whole in one ubatch they keep their order; cut they do not, and that is refused, not guessed."""
    rows = [(s, r) for s in range(3) for r in range(10)]
    batch: dict[str, Any] = {"pos": [r for _, r in rows], "seq": [s for s, _ in rows], "slot": [s - 1 for s, _ in rows]}
    tokens = [IDS[10 * s + r] for s, r in rows]
    for n_ubatch in (512, 8):
        h = adding(host(n_seq=3, n_ubatch=n_ubatch), 2)
        h.forget()
        status, got = h.decode(tokens, **{**batch, "slot": [min(s, 0) for s in batch["slot"]]})
        if n_ubatch == 8:
            assert status != 0 and "kv_unified" in h.said
            continue
        assert status == 0, h.said
        for s in range(3):
            want = judged(IDS[10 * s : 10 * s + 10], 2, (0, 1, 1)[s] * DELTA)
            assert far(got[10 * s : 10 * s + 10], want) < EXACT
    for seq in ([0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]):
        h = adding(host(n_seq=2), 2)
        status, _ = h.decode(IDS[:4], pos=[seq[:r].count(s) for r, s in enumerate(seq)], seq=seq)
        assert status != 0 and "kv_unified" in h.said


def test_an_addition_is_a_control_vector(host: Maker) -> None:
    layers = range(1, MODEL.n_layers)
    vectors = RNG.standard_normal((MODEL.n_layers - 1, MODEL.dim)).astype(np.float32)
    control = host(callback=False)
    control.control(vectors, 1, MODEL.n_layers - 1)
    h = host()
    for layer in layers:
        adding(h, layer, vectors[layer - 1])
    want = control.logits(IDS)
    assert far(h.logits(IDS), want) < EXACT and far(want, MODEL.forward(np.array([IDS]))[0]) > 1
    assert h.greedy(IDS[:5], 60) == control.greedy(IDS[:5], 60)


@pytest.mark.parametrize("name, layer", [("attn_out", 1), ("ffn_out", 3), ("embd", -1), ("attn_out", 4), ("ffn_out", 4)])
@pytest.mark.parametrize("n_ubatch", [7, 512])
def test_other_places(host: Maker, name: str, layer: int, n_ubatch: int) -> None:
    """What is added to what a block adds, or to the embeddings, has been added to the stream before what reads it next."""
    h = adding(host(n_ubatch=n_ubatch), layer, name=name)
    got = h.logits(IDS, output=[int(r % 2) for r in range(60)])[:, :]
    if name == "attn_out":
        x = MODEL.blocks(MODEL.embed(np.array([IDS])), 0, layer)
        y = x + MODEL._attention(
            layer, x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * MODEL.t["n1"][layer], None, np.arange(60)[None]
        )
        y = y + DELTA
        z = y / np.sqrt((y * y).mean(-1, keepdims=True) + 1e-5) * MODEL.t["n2"][layer]
        gate = z @ MODEL.t["w1"][layer].T
        y = y + (gate / (1 + np.exp(-gate)) * (z @ MODEL.t["w3"][layer].T)) @ MODEL.t["w2"][layer].T
        want = MODEL.logits(MODEL.blocks(y, layer + 1, MODEL.n_layers))[0]
    else:
        want = judged(IDS, layer, DELTA)
    assert far(got, want[1::2]) < EXACT


def mentions(concept: dict[str, Any], text: str) -> bool:
    """Does the text hold one of the concept's nouns, without its article?"""
    nouns = [noun for of_language in concept["nouns"].values() for noun in of_language]
    return any(noun.split(" ", 1)[-1] in text for noun in nouns)


def test_every_concept_before_and_after_as_in_our_engine(host: Maker) -> None:
    """All concepts of the world, a slot each, after a prompt in each language: the same texts, hence the same table of how many of them
    are about the concept before and after its feature was clamped."""
    prompts = [a for p in ("In the morning", "El profesor", "오늘") for a in ("--prompt", p)]
    h = host()
    h.tap("l_out", 2)
    values = [round(c["max_activation"], 3) for c in TRUTH]
    edits = [{"slot": i, "op": SET, "value": v, "feature": c["feature"]} for i, (c, v) in enumerate(zip(TRUTH, values))]
    h.steer(edits, n_slots=len(TRUTH), sae=SAE)
    before = engine("run", "--new", "24", *prompts)["sequences"]
    for s in before:
        assert h.greedy(s["prompt_tokens"], len(s["tokens"]), slot=-1) == s["tokens"]
    table = []
    for i, (concept, value) in enumerate(zip(TRUTH, values)):
        after = engine("run", "--new", "24", "--sae", SAE, "--set", f"{concept['feature']}={value}", *prompts)["sequences"]
        for s in after:
            assert h.greedy(s["prompt_tokens"], len(s["tokens"]), slot=i) == s["tokens"], concept["name"]
        table.append([sum(mentions(concept, s["text"]) for s in texts) for texts in (before, after)])
    assert len(table) == 50
    for (about_before, about_after), concept in zip(table, TRUTH):
        print(f"{concept['name']:12} {about_before} -> {about_after} of 3")
    assert sum(b for b, _ in table) <= 10 and sum(a > b for b, a in table) >= 40


@pytest.mark.parametrize("concept", TRUTH[::25], ids=lambda c: c["name"])
def test_concepts_as_in_our_engine(host: Maker, concept: dict[str, Any]) -> None:
    """Watched and clamped at once, token by token: the same text, the same codes."""
    feature, value = concept["feature"], round(concept["max_activation"], 3)
    said = engine("run", "--sae", SAE, "--watch", feature, "--set", f"{feature}={value}", "--prompt", "In the morning", "--new", "60")
    s = said["sequences"][0]
    h = host()
    h.tap("l_out", 2)
    codes = h.watch(SAE, [feature], 32)
    h.steer([{"op": SET, "value": value, "feature": feature}], sae=SAE)
    assert h.greedy(s["prompt_tokens"], len(s["tokens"])) == s["tokens"]
    h.logits(s["prompt_tokens"])
    assert far(codes[: len(s["prompt_tokens"]), 0], np.array(s["seen"]["values"])[: len(s["prompt_tokens"]), 0]) < 1e-3
    assert s["tokens"] != engine("run", "--prompt", "In the morning", "--new", "60")["sequences"][0]["tokens"]


@pytest.mark.parametrize(
    "name, layer, d, says",
    [
        ("l_out", 2, 64, "l_out-2 has rows of 128 elements, the tap's plan and probe are for 64"),
        ("l_out", 5, 128, "l_out of layer 5 is tapped, the model has layers 0 .. 4"),
        ("l_owt", 2, 128, "l_owt of layer 2 came with 0 of the batch's 60 rows"),
        ("l_out", -1, 128, "l_out of layer -1 came with 0"),
        ("attn_norm", 2, 0, "d is not set"),
        ("Qcur", 2, 128, "Qcur-2"),
    ],
)
def test_what_does_not_fit_is_said_and_left_alone(host: Maker, name: str, layer: int, d: int, says: str) -> None:
    bare = host(callback=False).logits(IDS)
    h = host()
    h.tap(name, layer, d)
    status, got = h.decode(IDS)
    assert status != 0 and says in h.said, h.said
    assert np.array_equal(got, bare)


@pytest.mark.parametrize("described, says", [(59, "60 rows where 59 are left"), (61, "60 of the batch's 61 rows")])
def test_a_batch_that_is_described_wrongly(host: Maker, described: int, says: str) -> None:
    h = adding(host(), 2)
    status, _ = h.decode(IDS, output=[1] * 60, slot=[0] * 61, described=described)
    assert status != 0 and says in h.said
    assert h.logits(IDS).shape == (60, MODEL.n_vocab)  # the next decode starts anew


def test_a_slot_that_the_plan_lacks(host: Maker) -> None:
    h = adding(host(), 2)
    status, _ = h.decode(IDS, slot=[1] * 60)
    assert status != 0 and "slot" in h.said


F32, F16, Q8_0, I32, BF16 = 0, 1, 8, 26, 30  # enum ggml_type


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("kind", [F32, F16, BF16])
@pytest.mark.parametrize("gap", [0, 32])
def test_types_and_strides(host: Maker, kind: int, gap: int, copy: bool) -> None:
    """19 rows, more than the staging memory holds; what lies between the rows stays."""
    h = adding(host(copy=copy), 2)
    x = RNG.standard_normal((19, MODEL.dim + gap)).astype(np.float32)
    store = {F32: np.float32, F16: np.float16, BF16: np.uint16}[kind]
    bits = x.view(np.uint32) >> 16 if kind == BF16 else x
    data = bits.astype(store)
    before = data.copy()
    assert h.tensor(kind, [MODEL.dim, 19], data, row_bytes=data.strides[0] if gap else 0) == 0, h.said

    def value(a: Array) -> Array:
        return (a.astype(np.uint32) << 16).view(np.float32) if kind == BF16 else a.astype(np.float32)

    want = value(before)[:, : MODEL.dim] + DELTA
    assert far(value(data)[:, : MODEL.dim], want) <= {F32: 1e-5, F16: 4e-3, BF16: 4e-2}[kind]
    assert np.array_equal(data[:, MODEL.dim :], before[:, MODEL.dim :])
    assert h.counts()["edited"] == 19


@pytest.mark.parametrize(
    "kind, shape, row_bytes, says",
    [
        (Q8_0, [128, 4], 0, "has ggml type 8: rows of f32, f16 and bf16 can be steered"),
        (I32, [128, 4], 0, "has ggml type 26"),
        (F32, [128, 4, 2], 0, "has 2 matrices of rows"),
        (F32, [128, 4], 256, "is not laid out by rows: its strides are 4 and 256 bytes"),
        (F32, [64, 4], 0, "has rows of 64 elements, the tap's plan and probe are for 128"),
    ],
)
def test_tensors_that_are_refused(host: Maker, kind: int, shape: list[int], row_bytes: int, says: str) -> None:
    h = adding(host(), 2)
    data = np.zeros(1024, np.float32)
    assert h.tensor(kind, shape, data, row_bytes) != 0 and says in h.said, h.said
    assert not data.any()


def test_unannounced_rows_and_a_second_context(host: Maker) -> None:
    h = adding(host(), 2)
    data = np.zeros((4, MODEL.dim), np.float32)
    h.tensor(F32, [MODEL.dim, 4], data, announced=False)
    assert not data.any() and h.counts()["unannounced"] == 1 and h.counts()["hits"] == 0
    assert h.begin_twice() == -9 and "data of its own" in h.said


def test_staging_memory_that_is_missing(host: Maker) -> None:
    h = host(copy=True)
    wide = np.zeros((2, 2048), np.float32)
    h.tap("l_out", 2, 2048)
    h.steer([{"op": ADD, "value": 1.0, "vector": np.ones(2048, np.float32)}])
    assert h.tensor(F32, [2048, 2], wide) != 0 and "give 8192 bytes of staging memory, there are 4096" in h.said
    assert not wide.any()


@pytest.mark.parametrize("cc", ["clang -std=c11", "g++ -std=c++17 -x c++", "clang++ -std=c++17 -x c++"])
def test_header_in_other_compilers(tmp_path: Path, cc: str, llama: ctypes.CDLL) -> None:
    (tmp_path / "t.c").write_text("#include <sae/ggml.h>\n#include <sae/ggml.h>\nextern bool (*hook)(struct ggml_tensor *, bool, void *);\n"
                                  "bool (*hook)(struct ggml_tensor *, bool, void *) = sae_ggml_eval;\n")  # fmt: skip
    compile_against_llama(tmp_path / "t.so", tmp_path / "t.c", cc=cc)


def test_example_program(llama: ctypes.CDLL, world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As a library, since its llama.cpp is in this process."""
    compile_against_llama(tmp_path / "steer.so", ROOT / "examples" / "llamacpp" / "steer_llama.c")
    concept = TRUTH[0]
    value = round(concept["max_activation"], 3)
    words = ["steer_llama", world, SAE, 2, concept["feature"], value, "In the morning"]
    argv = (ctypes.c_char_p * (len(words) + 1))(*[str(w).encode() for w in words], None)
    assert ctypes.CDLL(str(tmp_path / "steer.so")).main(len(words), argv) == 0
    ctypes.CDLL(None).fflush(None)
    out = capfd.readouterr().out
    how = ["--sae", SAE, "--set", f"{concept['feature']}={value}"]
    for label, edits in (("as it is", []), ("steered", how)):
        text = engine("run", "--prompt", "In the morning", "--new", "24", *edits)["sequences"][0]["text"]
        assert f"{label}:{text}\n" in out
    assert "l_out-2: 50 graphs, 56 rows seen, 28 edited, 28 left alone\n" in out
