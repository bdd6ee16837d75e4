"""Tokens against Hugging Face's `tokenizers` (kept in tests/golden/engine), the world's tokenizer, and llama2.c's rule written out."""

from __future__ import annotations

import json
import os
import random
import re
import struct
from collections import Counter
from pathlib import Path

import bpe
import pytest
import toy
from families import GOLDEN, NAMES
from test_engine import Build, engine, refused, result
from tokenizer import Tokenizer

WORDS = re.findall(
    r"\S+", "the cat sat on the mat. the bridge, a bridge: 오늘 미나는 불길에서 살아남는다. la comida está en el plato, niño"
)
TEXTS = [
    "the cat sat",
    "the bridge.",
    "오늘 미나는",
    "el niño está, la comida: plato",
    "x",
    "🐈 xyz <s> <0x41>",
    "  two  blanks ",
    "a" * 300,
]


def tokens(build: Build, folder: Path, tokenizer: Path, texts: list[str]) -> list[list[int]]:
    model = toy.write_bin(toy.random(), folder / "m.bin")
    out = []
    for at in range(0, len(texts), 50):
        out += result(
            build, "tokenize", "--model", model, "--tokenizer", tokenizer, *(a for t in texts[at : at + 50] for a in ("--prompt", t))
        )["tokens"]
    return out


@pytest.mark.parametrize("name", NAMES)
def test_json_equals_tokenizers(build: Build, tmp_path: Path, name: str) -> None:
    cases = json.loads((GOLDEN / f"{name}.cases.json").read_text())
    got = tokens(build, tmp_path, GOLDEN / f"{name}.tokenizer.json", [c["text"] for c in cases])
    for c, ids in zip(cases, got):
        assert ids == c["ids"], c["text"]


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_back(build: Build, tmp_path: Path, name: str) -> None:
    """The bytes of a text's tokens are the text, behind the blank that some families put in front; special tokens add none."""
    texts = ["the cat sat 12"] if name == "pieces_unknown" else ["the cat sat, 12", "오늘 🐈 está", "a  b\n", "the<s>cat"]
    m = toy.write_bin(toy.random(), tmp_path / "m.bin")
    prompts = (a for t in texts for a in ("--prompt", t))
    got = result(build, "tokenize", "--model", m, "--tokenizer", GOLDEN / f"{name}.tokenizer.json", *prompts)["texts"]
    blank = "" if name in ("bytes_gpt2", "bytes_llama3", "bytes_digits") else " "
    inner = " " if name in ("bytes_prefix", "pieces_llama2") else ""
    assert got == [blank + t.replace("<s>", inner) for t in texts]


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_bin_equals_the_world(build: Build, tmp_path: Path) -> None:
    """A tokenizer that the world's BPE trains, saved and read by the engine, which puts a blank in front of a text as llama2.c does."""
    t = bpe.train(Counter(f" {w}" for w in WORDS * 20), 300)
    t.save(tmp_path / "t.bin")
    assert [len(i) for i in map(t.encode, TEXTS)] != [len(x.encode()) for x in TEXTS]
    assert tokens(build, tmp_path, tmp_path / "t.bin", TEXTS) == [[1, *t.encode(" " + x)] for x in TEXTS]


def greedy(pieces: list[bytes], scores: list[float], text: str) -> list[int]:
    """llama2.c's encode(): characters, or bytes where unknown; then the best pair merges until none does."""
    ids = {p: i for i, p in reversed(list(enumerate(pieces)))}
    out: list[int] = []
    for ch in " " + text:
        known = ids.get(ch.encode())
        out += [known] if known is not None else [b + 3 for b in ch.encode()]
    while True:
        pairs = [(ids.get(pieces[a] + pieces[b]), i) for i, (a, b) in enumerate(zip(out, out[1:]))]
        best = max(((scores[j], -i, j) for j, i in pairs if j is not None), default=None)
        if best is None:
            return [1, *out]
        out[-best[1] : -best[1] + 2] = [best[2]]


def test_bin_equals_llama2c(build: Build, tmp_path: Path) -> None:
    data = os.environ.get("SAE_TEST_DATA")
    if not data:
        pytest.skip("SAE_TEST_DATA is not set")
    path = Path(data) / "models" / "stories260K" / "tok512.bin"
    raw, at, pieces, scores = path.read_bytes(), 4, [], []
    while at < len(raw):
        score, n = struct.unpack_from("<fi", raw, at)
        pieces.append(raw[at + 8 : at + 8 + n])
        scores.append(score)
        at += 8 + n
    texts = (Path(data) / "text" / "tinystories_1000.txt").read_text()[:30000].split("<|endoftext|>")[:20] + TEXTS
    texts = [t.strip("\n") for t in texts]
    model = Path(data) / "models" / "stories260K" / "stories260K.bin"
    got = result(build, "tokenize", "--model", model, "--tokenizer", path, *(a for t in texts for a in ("--prompt", t)))["tokens"]
    assert got == [greedy(pieces, scores, t) for t in texts]


def test_the_left_one_of_equals(build: Build, tmp_path: Path) -> None:
    """ "aaa" holds the pair "aa" twice; the left one merges."""
    toy.write_tokenizer(tmp_path / "t.bin", extra=("aa",))
    t = Tokenizer.load(tmp_path / "t.bin", 300)
    texts = ["b" + "a" * n for n in range(1, 8)]
    assert tokens(build, tmp_path, tmp_path / "t.bin", texts) == [[1, *t.encode(" " + x)] for x in texts]


BEHIND = [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}]


@pytest.mark.parametrize(
    ("sentence", "edit"),
    [
        ("'WordPiece'", {"model": {"type": "WordPiece"}}),
        ("no model.vocab", {"model": {"vocab": []}}),
        ("tokens are listed", {"model": {"vocab": {"a": 5}}, "added_tokens": []}),
        ("the number of token 'a' is none", {"model": {"vocab": {"a": "x", "b": 0}}, "added_tokens": []}),
        ("is 'a' and 'b'", {"model": {"vocab": {"a": 0, "b": 0}}, "added_tokens": []}),
        ("has the number -1", {"model": {"vocab": {"a": 0, "b": -1}}, "added_tokens": []}),
        ("merge 0 is not a pair", {"model": {"merges": ["abc"]}}),
        ("merge 0 is not a pair", {"model": {"merges": [["a", 3]]}}),
        ("merge 0 joins or makes", {"model": {"merges": [["a", "\u0100"]]}}),
        ("list model.merges", {"model": {"merges": 3}}),
        ("unknown token 'who'", {"model": {"unk_token": "who"}}),
        ("suffixes", {"model": {"end_of_word_suffix": "</w>"}}),
        ("normalizer 'NFC'", {"normalizer": {"type": "NFC"}}),
        ("pre-tokenizer 'Whitespace'", {"pre_tokenizer": {"type": "Whitespace"}}),
        ("splits words, '\\w+'", {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated"}}),
        ("prepend_scheme 'often'", {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "often"}}),
        ("post-processor 'BertProcessing'", {"post_processor": {"type": "BertProcessing"}}),
        ("in front of a text", {"post_processor": {"type": "TemplateProcessing", "single": BEHIND}}),
        ("strips blanks", {"added_tokens": [{"id": 0, "content": "<unk>", "lstrip": True}]}),
        ("added token 0 has no number", {"added_tokens": [{"content": "x"}]}),
        ("has 301 tokens", {"added_tokens": [{"id": 300, "content": "x"}]}),
    ],
)  # fmt: skip
def test_bad_json(build: Build, tmp_path: Path, sentence: str, edit: dict) -> None:
    t = json.loads((GOLDEN / "bytes_gpt2.tokenizer.json").read_text())
    for key, value in edit.items():
        t[key] = {**t[key], **value} if key == "model" else value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(t))
    refused(build, sentence, "tokenize", "--model", toy.write_bin(toy.random(), tmp_path / "m.bin"), "--tokenizer", path, "--prompt", "a")


def test_json_that_is_none(build: Build, tmp_path: Path) -> None:
    model = toy.write_bin(toy.random(), tmp_path / "m.bin")
    for text in ("{", "[]", '"x"', '{"model": {}}', "[" * 50000, '{"a": 1, "a": 2}', "\xff"):
        path = _write(tmp_path / "tokenizer.json", text)
        refused(build, "tokenizer.json", "tokenize", "--model", model, "--tokenizer", path, "--prompt", "a")


def test_folder_brings_its_tokenizer(build: Build, tmp_path: Path) -> None:
    folder = toy.write_hf(toy.random(), tmp_path / "m")
    refused(build, "tokenizer.json: No such file", "tokenize", "--model", folder, "--prompt", "a")
    (folder / "tokenizer.json").write_text((GOLDEN / "pieces_llama2.tokenizer.json").read_text())
    case = json.loads((GOLDEN / "pieces_llama2.cases.json").read_text())[3]
    assert result(build, "tokenize", "--model", folder, "--prompt", case["text"])["tokens"] == [case["ids"]]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a stretch cut out or repeated, or the end cut off."""
    out = bytearray(data)
    at, size = rng.randrange(len(out)), rng.randrange(1, 40)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randrange(1, 4)):
            out[rng.randrange(min(len(out), rng.choice([40, 4000, len(out)])))] = rng.choice(
                [0, 1, 0x22, 0x2D, 0x39, 0x5B, 0x7F, 0x80, 0xFF]
            )
    elif kind == 1:
        del out[at : at + size]
    elif kind == 2:
        out[at:at] = out[at : at + size] * rng.randrange(1, 5)
    else:
        del out[at:]
    return bytes(out)


def test_damaged_files(build: Build, tmp_path: Path) -> None:
    """Whatever happens to a file, the sanitizers find nothing, and a refusal is one sentence."""
    rng = random.Random(1)
    model, folder = toy.write_bin(toy.random(), tmp_path / "m.bin"), toy.write_hf(toy.random(), tmp_path / "m")
    small, big = toy.write_tokenizer(tmp_path / "t.bin"), GOLDEN / "pieces_llama2.tokenizer.json"
    bad = tmp_path / "bad"
    cases = [
        (model, bad.with_suffix(".bin"), ["--model", bad.with_suffix(".bin"), "--tokenizer", small]),
        (small, bad.with_suffix(".tok"), ["--model", model, "--tokenizer", bad.with_suffix(".tok")]),
        (big, bad.with_suffix(".json"), ["--model", model, "--tokenizer", bad.with_suffix(".json")]),
        (folder / "config.json", folder / "config.json", ["--model", folder, "--tokenizer", small]),
        (folder / "model.safetensors", folder / "model.safetensors", ["--model", folder, "--tokenizer", small]),
    ]
    codes = set()
    for source, target, args in cases:
        good = source.read_bytes()
        for _ in range(int(os.environ.get("ENGINE_DAMAGES", "12"))):
            target.write_bytes(damaged(good, rng) or b"x")
            r = engine(build, "run", *args, "--prompt", "ab é", "-n", 2, "--json", kind="sanitized")
            kept = (target.name, rng.getstate()[1][0], r.stderr)
            assert r.returncode in (0, 1) and r.stderr.count("\n") == r.returncode and "Sanitizer" not in r.stderr, kept
            codes.add(r.returncode)
        target.write_bytes(good)
    assert codes == {0, 1}
