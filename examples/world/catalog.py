"""The world's truth table, and its catalog of features: statistics and examples from held-out texts, labels from what the grammar
planted."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import libsae
import numpy as np
from figures import Study
from grammar import LANGS

Table = dict[str, Any]
_ALMOST_ALL = 0.8  # of a feature's activation: what a label may claim
EXAMPLES, AROUND = 4, 8  # of each feature; tokens on each side


def truth_table(st: Study, recognition: Table) -> Table:
    """For each concept: its words, its feature, all features of its own, and how well the one feature knows it."""
    concepts = []
    for c, concept in enumerate(st.world.concepts):
        concepts.append(
            {
                "name": concept.name,
                "family": concept.family,
                "nouns": {lang: concept.phrases[lang].nouns for lang in LANGS},
                "feature": st.features[c],
                "max_activation": round(float(st.max_act[st.features[c]]), 4),
                "features": st.sets[c],
                "auroc": dict(zip(LANGS, (round(x, 4) for x in recognition["by_concept"][c]))),
            }
        )
    info = st.s.sae.info
    return {"model": info["model_name"], "hook_name": info["hook_name"], "concepts": concepts}


def labels(st: Study) -> dict[int, str]:
    """A label for every feature that is active: its concept, or what the tokens it is active on have in common."""
    out = {f: name for f in range(st.s.d_sae) if (name := _common(st, f))}
    for c, concept in reversed(list(enumerate(st.world.concepts))):
        words = " · ".join(", ".join(concept.nouns(lang)) for lang in LANGS)
        for f in st.sets[c]:
            out[f] = f"{concept.name}, in part ({concept.family}): {words}"
    for c, concept in enumerate(st.world.concepts):
        words = " · ".join(", ".join(concept.nouns(lang)) for lang in LANGS)
        out[st.features[c]] = f"{concept.name} ({concept.family}): {words}"
    return out


def _common(st: Study, feature: int) -> str:
    """What the grammar says of the tokens that a feature is active on, most telling first."""
    s = st.select
    a = s.codes[:, feature]
    total = a.sum()
    if not total:
        return ""
    by_token = np.bincount(s.ids, a) / total
    strongest = [st.s.tok.pieces[i].strip() for i in np.argsort(-by_token)[:3] if by_token[i] > 0.05]
    if by_token.max() > _ALMOST_ALL:
        return f"the token “{strongest[0]}”"
    parts = []
    families = sorted({c.family for c in st.world.concepts})
    family = np.array([families.index(c.family) for c in st.world.concepts] + [-1])[s.topic]
    for i, name in enumerate(families):
        if a[family == i].sum() > _ALMOST_ALL * total:
            parts.append(f"texts on {name}")
    for k, name in enumerate(("English", "Korean", "Spanish")):
        if a[s.lang == k].sum() > _ALMOST_ALL * total:
            parts.append(name)
    if a[s.filler].sum() > _ALMOST_ALL * total:
        parts.append("sentences without a topic")
    if strongest:
        parts.append("at " + ", ".join(f"“{w}”" for w in strongest))
    return "; ".join(parts) or "many tokens"


def build_catalog(st: Study, tools: Path, folder: Path) -> None:
    """Exports the test texts' activations with the engine, lets `sae catalog build` read them, and adds the labels."""
    path = folder / "features.catalog"
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as work:
        texts = Path(work) / "texts"
        texts.write_text("".join(st.s.tok.decode(list(d.ids[1:])).strip() + "\n" for d in st.test_tokens), encoding="utf-8")
        model = ["--model", folder / "world.bin", "--tokenizer", folder / "tokenizer.bin", "--model-name", st.s.sae.info["model_name"]]
        hook = st.s.sae.info["hook_name"]
        _run(tools / "engine", "export", *model, "--texts", texts, "--hook", hook, "-o", Path(work) / "shards")
        few = ["--examples", EXAMPLES, "--context", AROUND, "--tokens", "8"]
        _run(tools / "sae", "catalog", "build", "--sae", folder / "sae", Path(work) / "shards", "-o", path, *few)
    known = labels(st)
    with libsae.Catalog(path, sae=st.s.sae, write=True) as catalog, catalog.transaction():
        for feature in catalog.get(list(range(st.s.d_sae))):
            catalog.put(feature._replace(label=known.get(feature.id, "never active on the test texts")))


def _run(*command: Any) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


def write(st: Study, recognition: Table, tools: Path, folder: Path) -> None:
    """truth.json and features.catalog."""
    table = truth_table(st, recognition)
    text = json.dumps(table, ensure_ascii=False, indent=1) + "\n"
    (folder / "truth.json").write_text(text, encoding="utf-8")
    build_catalog(st, tools, folder)
