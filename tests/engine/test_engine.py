"""The engine against a NumPy pass, against itself in other batches, and against files that want it no good."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import ROOT
from llama import log_softmax

Build = dict[str, Path]
IDS = [1, 7, 260, 11, 299, 42, 7, 7, 120, 33, 2, 259, 90]
HOOK = "blocks.1.hook_resid_post"


def engine(build: Build, *args: object, kind: str = "plain") -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(build[kind]), *map(str, args)], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)


def done(build: Build, *args: object) -> str:
    r = engine(build, *args)
    assert r.returncode == 0 and not r.stderr, r.stderr
    return r.stdout


def result(build: Build, *args: object) -> dict:
    return json.loads(done(build, *args, "--json"))


def refused(build: Build, sentence: str, command: str, *args: object, status: int = 1) -> None:
    """One sentence on standard error, nothing else, under the sanitizers."""
    r = engine(build, command, *args, kind="sanitized")
    assert r.returncode == status and not r.stdout, r
    assert r.stderr.startswith("engine") and r.stderr.count("\n") == 1 and sentence in r.stderr, r.stderr


def logits(build: Build, model: Path, out: Path, *args: object, ids: list[int] = IDS) -> np.ndarray:
    done(build, "logprobs", "--model", model, "--tokens", ",".join(map(str, ids)), "--logits", out, "--json", *args)
    return np.load(out)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a model, a tokenizer and an SAE that fit each other."""
    toy.write_bin(toy.random(), tmp_path / "m.bin")
    toy.write_tokenizer(tmp_path / "t.bin")
    toy.write_sae(tmp_path / "sae")
    return tmp_path


# ---- numbers ----


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_bin_equals_numpy(build: Build, tmp_path: Path, kv_heads: int, tied: bool) -> None:
    m = toy.random(kv_heads, tied)
    got = logits(build, toy.write_bin(m, tmp_path / "m.bin"), tmp_path / "l.npy")
    assert got.dtype == np.float32 and got.shape == (len(IDS), 300)
    assert np.abs(got - m.run(IDS)).max() <= 1e-4


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False), (1, True)])
def test_hf_equals_numpy(build: Build, tmp_path: Path, kv_heads: int, tied: bool, dtype: str) -> None:
    m = toy.random(kv_heads, tied, dtype, theta=500.0)
    m.eps = 1e-3
    got = logits(build, toy.write_hf(m, tmp_path / "m", dtype, 500.0), tmp_path / "l.npy")
    assert np.abs(got - m.run(IDS)).max() <= 1e-4


def test_hf_says_less(build: Build, tmp_path: Path) -> None:
    """rope_parameters as transformers 5 writes them, and tie_word_embeddings left to the tensors."""
    m = toy.random(2, False, theta=500.0)
    folder = toy.write_hf(m, tmp_path / "m")
    c = json.loads((folder / "config.json").read_text())
    del c["tie_word_embeddings"], c["rope_theta"]
    c["rope_parameters"] = {"rope_type": "default", "rope_theta": 500.0}
    (folder / "config.json").write_text(json.dumps(c))
    assert np.abs(logits(build, folder, tmp_path / "l.npy") - m.run(IDS)).max() <= 1e-4


def test_llama3_rope(build: Build, tmp_path: Path) -> None:
    """The three pairs of a head fall into the three cases: slowed, in part, as before."""
    m = toy.random(theta=100.0)
    m.scale_rope(100.0, 8.0, 1.0, 4.0, 40)
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    }
    got = logits(build, toy.write_hf(m, tmp_path / "m", theta=100.0, rope_scaling=scaling), tmp_path / "l.npy")
    assert np.abs(got - m.run(IDS)).max() <= 1e-4 < np.abs(got - toy.random(theta=100.0).run(IDS)).max()


def test_logprobs(build: Build, tmp_path: Path) -> None:
    m = toy.random()
    path = toy.write_bin(m, tmp_path / "m.bin")
    (s,) = result(build, "logprobs", "--model", path, "--tokens", ",".join(map(str, IDS)))["sequences"]
    want = log_softmax(m.run(IDS))[np.arange(len(IDS) - 1), IDS[1:]]
    assert s["tokens"] == IDS and s["logprobs"][0] is None
    assert np.abs(np.array(s["logprobs"][1:]) - want).max() <= 1e-4


@pytest.mark.parametrize("name", ["stories260K/stories260K.bin", "babyllama_tok105/model5000.bin"])
def test_trained_models(build: Build, tmp_path: Path, name: str) -> None:
    data = os.environ.get("SAE_TEST_DATA")
    if not data:
        pytest.skip("SAE_TEST_DATA is not set")
    m = toy.Oracle.load_bin(Path(data) / "models" / name)
    ids = [1, *np.random.default_rng(0).integers(3, 105, 99).tolist()]
    got = logits(build, Path(data) / "models" / name, tmp_path / "l.npy", ids=ids)
    assert np.abs(got - m.run(ids)).max() <= 1e-4


# ---- batches ----


def test_batches_and_threads_do_not_show(build: Build, world: Path) -> None:
    want = logits(build, world / "m.bin", world / "l.npy").tobytes()
    for args in (["--batch", 1], ["--batch", 5], ["--threads", 3], ["--batch", 4, "--threads", 2]):
        assert logits(build, world / "m.bin", world / "l.npy", *args).tobytes() == want, args


def test_sequences_do_not_show(build: Build, world: Path) -> None:
    """Prompts of different lengths together give each what it gets alone: tokens drawn, and codes at a late hook to the last digit."""
    toy.write_sae(world / "late", hook="blocks.2.hook_resid_post")
    prompts = ["abc ab", "a", "cé abc abc bca"]
    fixed = ["run", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "--sae", world / "late", "--watch", "0,1,2,3,4,5,6,7"]
    fixed += ["--temperature", 1, "-n", 12]
    for batch in (64, 3):
        together = result(build, *fixed, "--batch", batch, "--seed", 9, *(x for p in prompts for x in ("--prompt", p)))["sequences"]
        for i, p in enumerate(prompts):
            assert result(build, *fixed, "--seed", 9 + i, "--prompt", p)["sequences"] == [together[i]]
    assert len({tuple(s["tokens"]) for s in together}) == 3


def test_common_beginnings_do_not_show(build: Build, world: Path) -> None:
    """Prompts that begin alike are computed once up to where they part, and watched codes are there for all of them."""
    common = "abc ab cab bca cc aab bb ac ca"
    prompts = [f"{common}{end}" for end in ("", " a", " b", "c")]
    fixed = ["run", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "--sae", world / "sae", "--watch", "0,1,2,3"]
    fixed += ["--temperature", 1, "-n", 6, "--add", "3=2"]
    for batch in (64, 5):
        together = result(build, *fixed, "--batch", batch, "--seed", 9, *(x for p in prompts for x in ("--prompt", p)))["sequences"]
        assert len(together[0]["prompt_tokens"]) > 17
        for i, p in enumerate(prompts):
            assert result(build, *fixed, "--seed", 9 + i, "--prompt", p)["sequences"] == [together[i]]


# ---- weights ----


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_stored_weights_give_the_bits_of_f32(build: Build, tmp_path: Path, dtype: str) -> None:
    folder = toy.write_hf(toy.random(2, False, dtype), tmp_path / "m", dtype)
    want = logits(build, folder, tmp_path / "l.npy").tobytes()
    for args in (
        ["--weights", "stored"],
        ["--weights", "f32"],
        ["--weights", "stored", "--batch", 3],
        ["--weights", "f32", "--threads", 2],
    ):
        assert logits(build, folder, tmp_path / "l.npy", *args).tobytes() == want, args


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_int8_weights(build: Build, tmp_path: Path, dtype: str) -> None:
    """Matrices that are multiplied are rounded by blocks of 32, and the embedding is not."""
    m = toy.random(2, False, dtype)
    folder = toy.write_hf(m, tmp_path / "m", dtype)
    exact = m.run(IDS)
    for k in ("q", "k", "v", "o", "w1", "w2", "w3", "head"):
        w = m.t[k]
        for at in range(0, w.shape[-1], 32):
            part = w[..., at : at + 32]
            scale = np.abs(part).max(-1, keepdims=True) / np.float32(127)
            w[..., at : at + 32] = np.rint(part / scale) * scale
    got = logits(build, folder, tmp_path / "l.npy", "--weights", "int8")
    assert np.abs(got - m.run(IDS)).max() <= 1e-4 < np.abs(got - exact).max()
    assert logits(build, folder, tmp_path / "l.npy", "--weights", "int8", "--batch", 1).tobytes() == got.tobytes()


def test_mixed_types(build: Build, tmp_path: Path) -> None:
    """Every tensor may have a type of its own, but a gate and what it multiplies are packed together."""
    m = toy.random()
    folder = toy.write_hf(m, tmp_path / "m")
    tensors = {k: v.astype(np.float16 if "q_proj" in k or "norm" in k else np.float32) for k, v in toy.hf_tensors(m).items()}
    toy.save_file(tensors, folder / "model.safetensors")
    for k in ("q", "n1", "n2", "norm"):
        m.t[k] = m.t[k].astype(np.float16).astype(np.float32)
    assert np.abs(logits(build, folder, tmp_path / "l.npy") - m.run(IDS)).max() <= 1e-4
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float16)
    toy.save_file(tensors, folder / "model.safetensors")
    refused(build, "of type f32 and what it multiplies of f16", "logprobs", "--model", folder, "--tokens", "1,2")


def test_embedded(build: Build, world: Path) -> None:
    """What a server does with engine.h: embed.c tells."""
    r = subprocess.run([build["embed"], world / "m.bin", world / "sae"], capture_output=True, text=True)
    assert r.returncode == 0 and " passed, 0 failed" in r.stdout, r.stdout + r.stderr


# ---- sampling ----


def test_sampling(build: Build, world: Path) -> None:
    m = toy.random()
    run = ["run", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "--prompt", "abc"]
    greedy = result(build, *run, "-n", 10)["sequences"][0]
    ids = greedy["prompt_tokens"] + greedy["tokens"]
    assert [int(i) for i in m.run(ids[:-1]).argmax(1)[len(greedy["prompt_tokens"]) - 1 :]] == greedy["tokens"]
    hot = [*run, "-n", 10, "--temperature", 2]
    assert result(build, *hot, "--seed", 1) == result(build, *hot, "--seed", 1) != result(build, *hot, "--seed", 2)
    assert result(build, *hot, "--top-k", 1)["sequences"][0] == greedy


@pytest.mark.parametrize("temperature", [0.3, 3])
def test_draws_follow_the_distribution(build: Build, world: Path, temperature: float) -> None:
    """1000 first tokens among the 40 best, against their probabilities."""
    m = toy.random()
    run = ["run", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "-n", 1, "--temperature", temperature, "--top-k", 40]
    drawn = []
    for seed in range(0, 1000, 50):
        drawn += [s["tokens"][0] for s in result(build, *run, "--seed", seed, *["--prompt", "abc"] * 50)["sequences"]]
    z = m.run(result(build, *run, "--prompt", "abc")["sequences"][0]["prompt_tokens"])[-1]
    best = np.argsort(-z)[:40]
    p = np.exp((z[best] - z.max()) / temperature)
    p /= p.sum()
    assert set(drawn) <= set(best.tolist())
    share = np.array([drawn.count(int(b)) / len(drawn) for b in best])
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(drawn)) + 2e-3).all()


# ---- hooks ----


@pytest.mark.parametrize("name", ["resid_post", "attn_out", "mlp_out"])
@pytest.mark.parametrize("layer", [0, 2])
def test_edit_at_every_position(build: Build, world: Path, layer: int, name: str) -> None:
    hook = f"blocks.{layer}.hook_{name}"
    t = toy.write_sae(world / "sae", hook=hook)
    m = toy.random()
    z = toy.codes(t, m.seen(IDS, hook))[:, 4:5]
    want = m.run(IDS, {hook: lambda x: (x + (5 - z) * t["W_dec"][4]).astype(np.float32)})
    for batch in (64, 1, 5):
        got = logits(build, world / "m.bin", world / "l.npy", "--sae", world / "sae", "--set", "4=5", "--batch", batch)
        assert np.abs(got - want).max() <= 2e-4
    assert np.abs(want - m.run(IDS)).max(1).min() > 0.1


def test_set_scale_ablate(build: Build, world: Path) -> None:
    t = toy.write_sae(world / "sae")
    m = toy.random()
    f = int(toy.codes(t, m.seen(IDS, HOOK)).mean(0).argmax())
    for option, new in ((f"--set {f}=2", lambda z: 2), (f"--scale {f}=0.5", lambda z: z / 2), (f"--ablate {f}", lambda z: 0)):

        def edit(x: np.ndarray, new: object = new) -> np.ndarray:
            z = toy.codes(t, x)[..., f : f + 1]
            return (x + (new(z) - z) * t["W_dec"][f]).astype(np.float32)  # type: ignore[operator]

        got = logits(build, world / "m.bin", world / "l.npy", "--sae", world / "sae", *option.split())
        assert np.abs(got - m.run(IDS, {HOOK: edit})).max() <= 2e-4


def test_edit_while_generating(build: Build, world: Path) -> None:
    """What is generated one by one under an edit is what the edited pass over the whole text would choose, and for some feature not what a
    prompt edited alone would give."""
    fixed = ["--model", world / "m.bin", "--tokenizer", world / "t.bin", "--prompt", "abc ab", "-n", 16]
    t, m, differ = toy.write_sae(world / "sae"), toy.random(), 0
    for feature in range(12):
        s = result(build, "run", *fixed, "--sae", world / "sae", "--add", f"{feature}=3")["sequences"][0]
        ids, n = s["prompt_tokens"] + s["tokens"][:-1], len(s["prompt_tokens"])
        delta = np.float32(3) * t["W_dec"][feature]
        assert m.run(ids, {HOOK: lambda x, d=delta: x + d}).argmax(1)[n - 1 :].tolist() == s["tokens"]
        on_prompt = (np.arange(len(ids)) < n)[:, None]
        differ += m.run(ids, {HOOK: lambda x, d=delta, p=on_prompt: x + p * d}).argmax(1)[n - 1 :].tolist() != s["tokens"]
    assert differ > 0


def test_watching(build: Build, world: Path) -> None:
    """Codes are NumPy's, and looking changes nothing."""
    t = toy.write_sae(world / "sae")
    want = logits(build, world / "m.bin", world / "l.npy").tobytes()
    watch = ["--sae", world / "sae", "--watch", "3,0,31"]
    assert logits(build, world / "m.bin", world / "l.npy", *watch).tobytes() == want
    (s,) = result(build, "logprobs", "--model", world / "m.bin", "--tokens", ",".join(map(str, IDS)), *watch)["sequences"]
    codes = toy.codes(t, toy.random().seen(IDS, HOOK))[:, [3, 0, 31]]
    assert s["seen"]["hook_name"] == HOOK and s["seen"]["features"] == [3, 0, 31]
    assert np.abs(np.array(s["seen"]["values"]) - codes).max() <= 1e-4 and (codes > 0).any()


@pytest.mark.parametrize("name", ["attn_out", "mlp_out"])
def test_watching_what_is_added(build: Build, world: Path, name: str) -> None:
    """Without a hook a product is added as it is made, with one after the hook has seen it: the same bits."""
    toy.write_sae(world / "sae", hook=f"blocks.1.hook_{name}")
    want = logits(build, world / "m.bin", world / "l.npy").tobytes()
    assert logits(build, world / "m.bin", world / "l.npy", "--sae", world / "sae", "--watch", "3").tobytes() == want


def test_watching_sees_the_row_before_the_edit(build: Build, world: Path) -> None:
    fixed = ["logprobs", "--model", world / "m.bin", "--tokens", "1,7,9", "--sae", world / "sae", "--watch", "1,2,3,4"]
    before, after = result(build, *fixed), result(build, *fixed, "--set", "4=9")
    assert before["sequences"][0]["seen"] == after["sequences"][0]["seen"] and before != after


def test_text_output(build: Build, world: Path) -> None:
    run = ["run", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "--prompt", "abc", "-n", 5]
    text = result(build, *run)["sequences"][0]["text"]
    raw = subprocess.run([str(build["plain"]), *map(str, run)], capture_output=True, check=True).stdout
    assert raw.startswith(b"abc") and raw.endswith(b"\n") and raw[3:-1].decode("utf-8", "replace") == text
    assert "f3" in done(build, *run, "--prompt", "ab", "--sae", world / "sae", "--watch", "3")
    assert done(build, "logprobs", *run[1:7]).splitlines()[0].startswith("1\t-\t<s>")
    assert "watch_8" in done(build, "bench", "--model", world / "m.bin", "--sae", world / "sae", "--repeats", 1)


# ---- activations ----


def test_export(build: Build, world: Path) -> None:
    documents = ["abc ab\ncab", "é a", "b" * 60]
    (world / "texts").write_text("\n<|endoftext|>\n".join(documents) + "\n<|endoftext|>\n")
    fixed = ["export", "--model", world / "m.bin", "--tokenizer", world / "t.bin", "--texts", world / "texts", "--model-name", "toy"]
    told = result(build, *fixed, "--hook", "blocks.1.hook_mlp_out", "-o", world / "out", "--shard-rows", 20)
    index = json.loads((world / "out" / "shards.json").read_text())
    assert {k: index[k] for k in ("format", "version", "model", "hook_name", "d_in")} == {
        "format": "libsae activations",
        "version": 1,
        "model": "toy",
        "hook_name": "blocks.1.hook_mlp_out",
        "d_in": 24,
    }
    x = [np.load(world / "out" / s["activations"]) for s in index["shards"]]
    tokens = [np.load(world / "out" / s["tokens"]) for s in index["shards"]]
    assert [len(a) for a in x] == [s["rows"] for s in index["shards"]] == [len(a) for a in tokens]
    assert all(len(a) == 20 for a in x[:-1]) and x[0].dtype == np.float32 and tokens[0].dtype == np.int32
    rows, where, m = np.concatenate(x), np.concatenate(tokens), toy.random()
    ids = result(build, "tokenize", *fixed[1:5], *(a for d in documents for a in ("--prompt", d)))["tokens"]
    at = 0
    for d, all_ids in enumerate(ids):
        cut = all_ids[:48]
        n = len(cut) - 1
        assert where[at : at + n].tolist() == [[t, d, p] for p, t in enumerate(cut)][1:]
        assert np.abs(rows[at : at + n] - m.seen(cut, "blocks.1.hook_mlp_out")[1:]).max() <= 1e-4
        at += n
    assert at == len(rows) == told["rows"] and told["documents"] == 3 and told["cut"] == 1
    vocab = json.loads((world / "out" / index["vocab"]).read_text())
    assert len(vocab) == 300 and vocab[:4] == ["<unk>", "<s>", "</s>", "<0x00>"] and vocab[263] == "é" and vocab[3 + 0x41] == "A"
    assert np.abs(np.load(world / "out" / index["unembed"]) - m.unembedding).max() <= 1e-6
    assert not list((world / "out").glob("*.part"))
    refused(build, "--force", *fixed, "--hook", HOOK, "-o", world / "out")
    assert "documents" in done(build, *fixed, "--hook", HOOK, "-o", world / "out", "--force")


def test_export_of_lines(build: Build, world: Path) -> None:
    (world / "texts").write_text("abc\n\nab\r\na")
    r = result(
        build,
        "export",
        "--model",
        world / "m.bin",
        "--tokenizer",
        world / "t.bin",
        "--texts",
        world / "texts",
        "--hook",
        HOOK,
        "-o",
        world / "o",
    )
    assert r["documents"] == 3
    assert np.load(world / "o" / "tokens-00000.npy")[:, 1].tolist() == sorted(np.load(world / "o" / "tokens-00000.npy")[:, 1].tolist())


# ---- what is refused ----


def test_bad_checkpoints(build: Build, world: Path) -> None:
    m = toy.random()
    good = (world / "m.bin").read_bytes()
    path = world / "bad.bin"
    run = ["logprobs", "--model", path, "--json", "--tokens", "1"]

    def change(sentence: str, data: bytes) -> None:
        path.write_bytes(data)
        refused(build, sentence, *run)

    change("is empty", b"")
    change("begins with 28", good[:20])
    change("asks for", good[:-4])
    change("asks for", good + b"\0\0\0\0")
    change("version 1", struct.pack("<7i", 0x616B3432, 1, 0, 0, 0, 0, 0) + good)
    for i, name in enumerate(("dim", "hidden", "n_layers", "n_heads", "n_kv_heads", "n_vocab", "context")):
        for value in (0, -1, -(2**31), 2**31 - 1) if name != "n_vocab" else (0, -(2**31), 2**31 - 1):
            h = toy.header(m)
            h[i] = value
            change(f"{name} is " if i < 6 or value > 0 else "context is", struct.pack("<7i", *h) + good[28:])
    for h in ([24, 40, 3, 5, 5, 300, 48], [25, 40, 3, 5, 5, 300, 48], [24, 40, 3, 4, 3, 300, 48]):
        change("divide" if h[3] == 5 and h[0] == 24 else "pairs" if h[0] == 25 else "share", struct.pack("<7i", *h) + good[28:])
    for value in (np.nan, np.inf):
        broken = bytearray(good)
        broken[28 + 4 * (300 * 24 + 72 + 5) : 28 + 4 * (300 * 24 + 72 + 6)] = struct.pack("<f", value)
        change("layer 0: W_Q holds a value that is not finite in row 0, column 5", bytes(broken))
    refused(build, "No such file", "logprobs", "--model", world / "none.bin", "--json", "--tokens", "1")


def test_bad_hf_folders(build: Build, tmp_path: Path) -> None:
    m = toy.random(2, False)
    good = toy.write_hf(m, tmp_path / "good")
    bad = tmp_path / "bad"

    def change(sentence: str, config: dict | str | None = None, weights: bytes | None = None, drop: str = "") -> None:
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        if isinstance(config, str):
            (bad / "config.json").write_text(config)
        elif config is not None:
            (bad / "config.json").write_text(json.dumps({**toy.hf_config(m), **config}))
        if weights is not None:
            (bad / "model.safetensors").write_bytes(weights)
        if drop:
            (bad / drop).unlink()
        refused(build, sentence, "logprobs", "--model", bad, "--json", "--tokens", "1")

    change("config.json: No such file", drop="config.json")
    change("model.safetensors: No such file", drop="model.safetensors")
    change("line 1", "{")
    change("not a JSON object", "[]")
    change("line 1", "[" * 100000)
    change("'mistral'", {"model_type": "mistral"})
    change("'gelu'", {"hidden_act": "gelu"})
    change("attention_bias", {"attention_bias": True})
    change("makes no sense", {"rope_scaling": {"rope_type": "llama3", "factor": 8}})
    change("'yarn'", {"rope_scaling": {"rope_type": "yarn", "factor": 8}})
    change("'(none)'", {"rope_parameters": {"factor": 8}})
    change("hidden_size is missing", {"hidden_size": "24"})
    change("hidden_size is missing", {"hidden_size": -24})
    change("hidden is 99999999", {"intermediate_size": 99999999})
    change("too few", {"intermediate_size": 4000})
    change("rms_norm_eps is not a number", {"rms_norm_eps": "small"})
    change("theta", {"rope_theta": 0})
    change("does not have the shape", {"intermediate_size": 39})
    data = (good / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    change("too few for a safetensors", weights=b"\1")
    change("it is cut", weights=struct.pack("<Q", 2**63) + data[8:])
    change("not JSON", weights=struct.pack("<Q", length // 2) + data[8:])
    change("too few for the", weights=data[: len(data) // 3])

    def with_header(edit: dict, name: str = "lm_head.weight") -> bytes:
        h = json.loads(data[8 : 8 + length])
        h[name] = {**h[name], **edit}
        text = json.dumps(h).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    change("I8", weights=with_header({"dtype": "I8"}))
    change("does not have the shape [300][24]", weights=with_header({"shape": [24, 300]}))
    change("does not have the shape [24]", weights=with_header({"shape": [24, 1]}, "model.norm.weight"))
    for offsets in ([0, 4], [-4, 28796], [2**62, 2**62 + 28800], [28800, 0], ["0", 28800], []):
        change("the data of lm_head.weight", weights=with_header({"data_offsets": offsets}))
    h = json.loads(data[8 : 8 + length])
    del h["model.norm.weight"]
    text = json.dumps(h).encode()
    change("has no tensor model.norm.weight", weights=struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_bad_tokenizers(build: Build, world: Path) -> None:
    good = (world / "t.bin").read_bytes()
    path = world / "bad.bin"
    for sentence, data in {
        "is empty": b"",
        "has 0 tokens": good[:4],
        "is damaged: token 299": good[:-1],
        "is damaged: token 0, at byte 4": struct.pack("<ifi", 7, 0.0, -1) + good[12:],
        "is damaged: token 0": struct.pack("<ifi", 7, 0.0, 2**31 - 1) + good[12:],
        "score": struct.pack("<ifi", 7, float("nan"), 5) + good[12:],
    }.items():
        path.write_bytes(data)
        refused(build, sentence, "tokenize", "--model", world / "m.bin", "--tokenizer", path, "--prompt", "a")
    toy.write_tokenizer(path, 299)
    refused(
        build,
        "has 299 tokens, the model's vocabulary has 300",
        "tokenize",
        "--model",
        world / "m.bin",
        "--tokenizer",
        path,
        "--prompt",
        "a",
    )
    refused(build, "No such file", "tokenize", "--model", world / "m.bin", "--tokenizer", world / "none", "--prompt", "a")
    refused(build, "name one with --tokenizer", "tokenize", "--model", world / "m.bin", "--prompt", "a")


def test_bad_calls(build: Build, world: Path) -> None:
    model = ["--model", world / "m.bin", "--tokenizer", world / "t.bin"]
    toy.write_sae(world / "narrow", d_in=23)
    toy.write_sae(world / "named", model="other/name")
    refused(build, "prompt 0 has 50 tokens, the context is 48", "run", *model, "--prompt", "b" * 48)
    refused(build, "3 tokens, the context is 2", "logprobs", *model, "--tokens", "1,2,3", "--context", 2)
    assert len(result(build, "run", *model, "--tokens", "1,2,3", "--context", 5)["sequences"][0]["tokens"]) <= 2
    refused(build, "not valid UTF-8", "run", *model, "--prompt", b"a\xff".decode("utf-8", "surrogateescape"))
    for name in (
        "blocks.3.hook_resid_post",
        "blocks.1.hook_z",
        "blocks.-1.hook_mlp_out",
        "blocks.1hook_mlp_out",
        "layers.1",
        "blocks.1.",
        "blocks. 1.hook_mlp_out",
    ):
        refused(
            build,
            "it has blocks.N.hook_resid_post, blocks.N.hook_attn_out and blocks.N.hook_mlp_out, N = 0 .. 2",
            "run",
            *model,
            "--prompt",
            "a",
            "--sae",
            world / "sae",
            "--hook",
            name,
            "--force",
        )
    refused(
        build,
        "trained at blocks.1.hook_resid_post, not at blocks.1.hook_mlp_out",
        "run",
        *model,
        "--prompt",
        "a",
        "--sae",
        world / "sae",
        "--hook",
        "blocks.1.hook_mlp_out",
    )
    refused(
        build,
        "rows of 23 elements and writes 23, the model's have 24",
        "run",
        *model,
        "--prompt",
        "a",
        "--sae",
        world / "narrow",
        "--force",
    )
    refused(
        build,
        "trained on the model other/name, this one is x/toy",
        "run",
        *model,
        "--prompt",
        "a",
        "--sae",
        world / "named",
        "--model-name",
        "x/toy",
    )
    refused(build, "none", "run", *model, "--prompt", "a", "--sae", world / "none", "--watch", "1")
    refused(build, "32", "run", *model, "--prompt", "a", "--sae", world / "sae", "--watch", "32")
    huge = ["--sae", world / "sae", "--set", "1=3e38", "--add", "2=3e38"]
    refused(build, "no logit is finite", "run", *model, "--prompt", "a", "--json", *huge)
    refused(build, "not finite", "logprobs", *model, "--prompt", "a", *huge)
    refused(build, "context is 48", "logprobs", *model, "--tokens", ",".join(["1"] * 49))
    refused(build, "token in 0 .. 299", "logprobs", *model, "--tokens", "1,300")
    refused(build, "no text", "export", *model, "--texts", _file(world / "e", "\n\n"), "--hook", HOOK, "-o", world / "o")
    refused(
        build,
        "document 1: the text is not valid UTF-8",
        "export",
        *model,
        "--texts",
        _file(world / "f", b"a\n\xc3\n"),
        "--hook",
        HOOK,
        "-o",
        world / "o2",
    )
    refused(build, "zero byte", "export", *model, "--texts", _file(world / "g", b"a\0b\n"), "--hook", HOOK, "-o", world / "o3")
    assert not (world / "o2" / "shards.json").exists() and not list((world / "o2").glob("*.part"))
    refused(
        build, "cannot make the folder", "export", *model, "--texts", _file(world / "e", "a"), "--hook", HOOK, "-o", world / "m.bin" / "x"
    )
    refused(build, "cannot write", "logprobs", *model, "--tokens", "1", "--logits", world / "none" / "l.npy")
    # With --force, and with a name that matches in its last part, they run.
    for args in (
        ["--sae", world / "sae", "--hook", "blocks.1.hook_mlp_out", "--force"],
        ["--sae", world / "named", "--model-name", "this/Name"],
    ):
        done(build, "run", *model, "--prompt", "a", "-n", 1, *args)


def _file(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("sentence", "args"),
    [
        ("is no command", ["fly"]),
        ("--model is missing", ["run", "--prompt", "a"]),
        ("--prompt is missing", ["run", "--model", "m"]),
        ("unknown here", ["tokenize", "--model", "m", "--seed", "1"]),
        ("wants a value", ["run", "--model"]),
        ("one too many", ["run", "--model", "m", "--prompt", "a", "b"]),
        ("a feature, '=' and a number", ["run", "--model", "m", "--prompt", "a", "--set", "3"]),
        ("finite number", ["run", "--model", "m", "--prompt", "a", "--set", "3=nan"]),
        ("whole number in 0", ["run", "--model", "m", "--prompt", "a", "--watch", "1,x"]),
        ("0 or more", ["run", "--model", "m", "--prompt", "a", "--temperature", "-1"]),
        ("--sae is missing", ["run", "--model", "m", "--prompt", "a", "--watch", "1"]),
        ("exclude each other", ["run", "--model", "m", "--prompt", "a", "--tokens", "1"]),
        ("are needed", ["export", "--model", "m"]),
        ("--sae is missing", ["bench", "--model", "m"]),
        ("stored, f32 or int8, not 'int4'", ["logprobs", "--model", "m", "--tokens", "1", "--weights", "int4"]),
    ],
)
def test_wrong_command_lines(build: Build, sentence: str, args: list[str]) -> None:
    refused(build, sentence, *args, status=2)


def test_page(build: Build, world: Path) -> None:
    """Every command of docs/engine.md runs, and every option is on the page."""
    page = (ROOT / "docs" / "engine.md").read_text()
    (world / "m.bin").rename(world / "model.bin")
    (world / "t.bin").rename(world / "tokenizer.bin")
    (world / "texts.txt").write_text("abc ab\nab\n")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        name, *args = shlex.split(line)
        assert name == "engine"
        subprocess.run([str(build["plain"]), *args], cwd=world, check=True, capture_output=True)
    for command in ("run", "logprobs", "tokenize", "export", "bench"):
        assert f"### engine {command}\n" in page
        for option in re.findall(r"--[a-z-]+", done(build, command, "--help")):
            assert option == "--help" or f"`{option}" in page, option


def test_help(build: Build) -> None:
    said = done(build, "--help")
    for command in ("run", "logprobs", "tokenize", "export", "bench"):
        assert f"  {command} " in said and "--model M" in done(build, command, "--help")
