"""Grow the world: corpus, tokenizer, language model, SAE, figures, truth table, catalog.

`python make_world.py DIR` writes them there; `--card README.md` puts the figures into the model card.

Every setting has the value the committed files were made with; `--set lm.lr=0.003` tries another. The seeds are fixed; the corpus
and the tokenizer are the same everywhere, the weights only where torch's products are the same to the last bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import bpe
import card
import catalog
import figures
import lm
import numpy as np
import sae
import torch
from grammar import World
from tokenizer import Tokenizer
from tokens import Tokens, label

MODEL_NAME = "libsae-world"


@dataclass
class Corpus:
    documents: int = 60_000
    multilingual: float = 0.4  # share of documents that change language
    n_vocab: int = 8192  # at most; every word of the corpus becomes one token
    sae_documents: int = 24_000  # of those, for the SAE's activations
    seed: int = 1


@dataclass
class Recipe:
    corpus: Corpus = field(default_factory=Corpus)
    shape: lm.Shape = field(default_factory=lm.Shape)
    lm: lm.Training = field(default_factory=lm.Training)
    sae: sae.Training = field(default_factory=sae.Training)

    def set(self, assignment: str) -> None:
        """`part.name=value`"""
        where, _, value = assignment.partition("=")
        part, _, name = where.partition(".")
        target = getattr(self, part, None)
        if part not in {f.name for f in fields(self)} or name not in {f.name for f in fields(target)}:
            raise SystemExit(f"make_world: {part} has no '{name}'; parts are {', '.join(f.name for f in fields(self))}")
        try:
            setattr(target, name, type(getattr(target, name))(value))
        except ValueError:
            raise SystemExit(f"make_world: {where} wants a number, not '{value}'") from None


def prepare(c: Corpus) -> tuple[World, Tokenizer, list[Tokens]]:
    """The grammar, the tokenizer of its training documents, and these as tokens."""
    world = World()
    documents = world.training(c.seed, c.documents, c.multilingual)
    tok = bpe.train(bpe.count_words((d.text(marks=True) for d in documents), world), c.n_vocab)
    return world, tok, [label(d, tok) for d in documents]


def grow(recipe: Recipe, out: Path) -> None:
    """Each stage is left out when its result is there."""
    out.mkdir(parents=True, exist_ok=True)
    c = recipe.corpus
    world, tok, tokens = prepare(c)
    tok.save(out / "tokenizer.bin")
    say(f"corpus: {len(tokens)} documents, {sum(len(t.ids) for t in tokens)} tokens, vocabulary {len(tok)}")
    if not (out / "world.bin").exists():
        model = lm.train(tokens, len(tok), len(world.concepts), recipe.shape, recipe.lm)
        lm.save(model, out / "world.bin")
    model = lm.load(out / "world.bin")
    held_out = [label(d, tok) for d in world.training(c.seed + 1, 2000, c.multilingual)]
    say(f"language model: {lm.held_out_loss(model, held_out):.3f} nats a token on new documents")
    if not (out / "sae").exists():
        x = np.ascontiguousarray(lm.activations(model, tokens[: c.sae_documents], recipe.sae.layer))
        say(f"activations: {x.shape[0]} rows")
        sae.train(x, recipe.sae, MODEL_NAME, out / "sae")


def describe(tools: Path, out: Path, model_card: Path | None) -> None:
    """Figures, truth table and catalog of what `grow` made, and the figures in its card."""
    study = figures.Study(out, World())
    found = figures.rounded(figures.measure(study))
    (out / "figures.json").write_text(json.dumps(found, ensure_ascii=False, indent=None) + "\n", encoding="utf-8")
    catalog.write(study, found["recognition"], tools, out)
    say("figures, truth table, catalog")
    print(card.table(found))
    print(card.dose_table(found))
    if model_card:
        card.write(found, model_card)


_BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - _BEGAN:6.0f} s  {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=Path)
    ap.add_argument("--set", action="append", default=[], metavar="PART.NAME=VALUE", help="parts: corpus, shape, lm, sae")
    ap.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    ap.add_argument("--tools", type=Path, default=Path("build"), help="where engine and sae are (default build)")
    ap.add_argument("--card", type=Path, help="the model card to update")
    a: Any = ap.parse_args(argv)
    recipe = Recipe()
    for assignment in a.set:
        recipe.set(assignment)
    torch.set_num_threads(a.threads)
    grow(recipe, a.folder)
    describe(a.tools, a.folder, a.card)


if __name__ == "__main__":
    main()
