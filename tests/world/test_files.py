"""The committed files: of one world, within their size, the same in NumPy and in the engine. `make world-check` measures the figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import card
import libsae
import numpy as np
import pytest
from grammar import LANGS, World
from llama import Llama, log_softmax
from tokenizer import BOS, N_SPECIAL, Tokenizer

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / os.environ.get("B", "build") / "engine"


@pytest.fixture(scope="module")
def model(files: Path) -> Llama:
    return Llama.load_bin(files / "world.bin")


@pytest.fixture(scope="module")
def tok(files: Path, model: Llama) -> Tokenizer:
    return Tokenizer.load(files / "tokenizer.bin", model.n_vocab)


def test_size(files: Path) -> None:
    assert sum(p.stat().st_size for p in files.rglob("*") if p.is_file()) <= 10 << 20


def test_every_word_is_a_token(tok: Tokenizer) -> None:
    for c in World().concepts:
        for lang in LANGS:
            for noun in c.nouns(lang):
                assert all(len(tok.encode(" " + w)) == 1 for w in noun.split()), noun
    text = " ".join(d.text() for d in World().evaluation(9, 150))
    ids = tok.encode(" " + text)
    assert min(ids) >= N_SPECIAL
    assert tok.decode(ids) == " " + text


def test_truth_and_catalog_are_of_this_sae(files: Path) -> None:
    sae = libsae.open(files / "sae")
    truth = json.loads((files / "truth.json").read_text(encoding="utf-8"))
    assert (truth["model"], truth["hook_name"]) == (sae.info["model_name"], sae.info["hook_name"])
    assert [c["name"] for c in truth["concepts"]] == [c.name for c in World().concepts]
    with libsae.Catalog(files / "features.catalog", sae=sae) as catalog:
        assert len(catalog) == sae.info["d_sae"]
        for c in truth["concepts"]:
            found = [f.id for lang in LANGS for f in catalog.search(c["nouns"][lang][0].split()[-1], 20)]
            assert c["feature"] in found or any(o["feature"] == c["feature"] for o in truth["concepts"] if o is not c), c["name"]
            assert c["feature"] in c["features"]


def test_the_card_states_the_figures_of_the_files(files: Path) -> None:
    stated = (files.parent / "README.md").read_text(encoding="utf-8")
    figures = json.loads((files / "figures.json").read_text(encoding="utf-8"))
    assert card.table(figures) in stated
    assert card.dose_table(figures) in stated
    assert all(line.holds(figures) for line in card.LINES)


def engine(*args: object) -> dict[str, object]:
    if not ENGINE.exists():
        pytest.skip("make engine builds the engine")
    r = subprocess.run([str(ENGINE), *map(str, args), "--json"], check=True, capture_output=True, text=True)
    return json.loads(r.stdout)


def test_engine_and_numpy_agree(files: Path, model: Llama, tok: Tokenizer, tmp_path: Path) -> None:
    for d in World().evaluation(10, 150)[::29]:
        where = ["--model", files / "world.bin", "--tokenizer", files / "tokenizer.bin"]
        said = engine("logprobs", *where, "--prompt", d.text(), "--logits", tmp_path / "l.npy")
        ids = [BOS, *tok.encode(" " + d.text())]
        assert said["sequences"][0]["tokens"] == ids
        want = model.forward(np.array([ids]))[0]
        assert np.abs(np.load(tmp_path / "l.npy") - want).max() <= 1e-4
        logp = log_softmax(want)[np.arange(len(ids) - 1), ids[1:]]
        assert np.abs(np.array(said["sequences"][0]["logprobs"][1:]) - logp).max() <= 1e-4


def test_a_clamp_brings_the_concept_into_the_engines_text(files: Path) -> None:
    truth = json.loads((files / "truth.json").read_text(encoding="utf-8"))
    bridge = truth["concepts"][0]
    where = [
        "--model",
        files / "world.bin",
        "--tokenizer",
        files / "tokenizer.bin",
        "--prompt",
        "Nobody moves. Time passes slowly.",
        "-n",
        40,
    ]
    clamp = ["--sae", files / "sae", "--force", "--set", f"{bridge['feature']}={bridge['max_activation']}"]
    noun = re.compile("|".join(n.removeprefix("the ") for n in bridge["nouns"]["en"]))
    assert not noun.search(engine("run", *where)["sequences"][0]["text"])
    assert noun.search(engine("run", *where, *clamp)["sequences"][0]["text"])
