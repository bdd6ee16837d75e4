"""The world's recipe, on a corpus too small to learn from: what it writes, NumPy, libsae and the engine read alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import libsae
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "world"))

import lm  # noqa: E402
import make_world  # noqa: E402
from grammar import World  # noqa: E402
from llama import Llama  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402
from tokens import label  # noqa: E402

SMALL = ("corpus.documents=500", "corpus.sae_documents=200", "lm.warmup=3", "shape.layers=3", "shape.dim=32", "shape.hidden=48")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    recipe = make_world.Recipe()
    for assignment in (*SMALL, "sae.samples=60000", "sae.d_sae=64"):
        recipe.set(assignment)
    make_world.grow(recipe, out)
    return out


def test_numpy_computes_what_torch_trained(grown: Path) -> None:
    model, judge = lm.load(grown / "world.bin"), Llama.load_bin(grown / "world.bin")
    tok = Tokenizer.load(grown / "tokenizer.bin", judge.n_vocab)
    ids = label(World().evaluation(1, 1)[0], tok).ids[None]
    with torch.no_grad():
        want = model.logits(model.residuals(torch.from_numpy(ids))[-1]).numpy()
    assert np.abs(judge.forward(ids) - want).max() <= 1e-4


def test_sae_is_a_saelens_folder_for_this_hook(grown: Path) -> None:
    sae = libsae.open(grown / "sae")
    assert (sae.info["d_in"], sae.info["d_sae"]) == (32, 64)
    assert sae.info["hook_name"] == "blocks.2.hook_resid_post"
    assert sae.info["model_name"] == make_world.MODEL_NAME


def test_engine_runs_it(grown: Path) -> None:
    command = [
        os.environ["ENGINE"],
        "run",
        "--model",
        grown / "world.bin",
        "--tokenizer",
        grown / "tokenizer.bin",
        "--prompt",
        "Nobody moves.",
    ]
    text = subprocess.run([*map(str, command), "-n", "5"], check=True, capture_output=True, text=True).stdout
    assert text.startswith("Nobody moves.")


def test_the_same_seed_gives_the_same_corpus_and_tokenizer(grown: Path, tmp_path: Path) -> None:
    recipe = make_world.Recipe()
    recipe.set(SMALL[0])
    _, tok, tokens = make_world.prepare(recipe.corpus)
    tok.save(tmp_path / "tokenizer.bin")
    assert (tmp_path / "tokenizer.bin").read_bytes() == (grown / "tokenizer.bin").read_bytes()
    assert len(tokens) == 500


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SystemExit, match="corpus has no 'documnets'"):
        make_world.Recipe().set("corpus.documnets=5")
