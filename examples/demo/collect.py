"""Everything that the demo shows, as one dictionary. It computes nothing itself: `engine` and `sae` do."""

from __future__ import annotations

import math
import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tools import DemoError, Tools, read_int32, read_json

Json = dict[str, Any]
LANGS = ("en", "ko", "es")
SEED = 7
NEW_TOKENS = 24
TEMPERATURE = 0.7
TOP = 5  # features shown of a token


def collect(tools: Tools, texts: Json) -> Json:
    catalog = tools.features()
    named = {c["name"]: c for c in tools.truth["concepts"]}
    missing = [name for name in texts["concepts"] if name not in named]
    if missing:
        raise DemoError(f"the world has no concept {missing[0]}: its truth.json does not fit the demo's texts.json")
    concepts = [named[name] for name in texts["concepts"]]
    return {
        "world": {"model": tools.truth["model"], "hook": tools.truth["hook_name"], "features": len(catalog), "concepts": len(named)},
        "machine": machine(),
        "languages": {k: texts["languages"][k]["name"] for k in LANGS},
        "features": [[f["index"], f["description"], f["frac_nonzero"], f["maxActApprox"]] for f in catalog],
        "owners": {f: c["family"] for c in tools.truth["concepts"] for f in [*c["features"], c["feature"]]},
        "reading": dict(zip(LANGS, tokens_with_top(tools, [texts["languages"][k]["reading"] for k in LANGS]))),
        "concepts": watched(tools, texts, concepts, {f["index"]: f for f in catalog}),
        "steering": steered(tools, texts, concepts),
        "queries": texts["queries"],
        "found": {q: tools.sae("search", str(tools.catalog), q, "-n", "3")["features"] for q in texts["queries"]},
        "bench": tools.engine("bench", "--sae", str(tools.dictionary), "--new", "64", "--repeats", "3", tokenizer=False),
    }


def machine() -> str:
    """The processor's name and how many there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} processors, {platform.system()}"


def tokens_with_top(tools: Tools, documents: list[str]) -> list[list[Json]]:
    """The tokens of each text, as what they add to it, with their strongest features."""
    with tempfile.TemporaryDirectory() as folder:
        file, acts = Path(folder) / "texts.txt", Path(folder) / "acts"
        file.write_text("\n".join(documents) + "\n", encoding="utf-8")
        tools.engine("export", "--texts", str(file), "--hook", tools.truth["hook_name"], "-o", str(acts))
        sources = ("--sae", str(tools.dictionary), "--catalog", str(tools.catalog))
        top = tools.sae("top", str(acts / "activations-00000.npy"), *sources, "-n", str(TOP))["top"]
        vocab, rows = read_json(acts / "vocab.json"), read_int32(acts / "tokens-00000.npy", 3)
    out: list[list[Json]] = [[] for _ in documents]
    for (token, document, _), found in zip(rows, top):
        out[document].append({"text": vocab[token], "top": [[f["feature"], round(f["value"], 2)] for f in found]})
    return out


# ---- one feature at a time ----


def watched(tools: Tools, texts: Json, concepts: list[Json], catalog: dict[int, Json]) -> list[Json]:
    """Where each concept's feature fires (in a text on it, at the nouns of all concepts, in the catalog's examples) and what is near it."""
    features = [c["feature"] for c in concepts]
    about = [texts["concepts"][c["name"]][k] for c in concepts for k in LANGS]
    nouns = [(c["name"], k, noun) for c in tools.truth["concepts"] for k in LANGS for noun in c["nouns"][k]]
    prompts = (*about, *(noun[0].upper() + noun[1:] for _, _, noun in nouns))
    options = ("--sae", str(tools.dictionary), "--watch", ",".join(map(str, dict.fromkeys(features))))
    seen = tools.logprobs(*options, prompts=prompts)
    pieces = [[t["text"] for t in tokens] for tokens in tokens_with_top(tools, about)]
    out = []
    for i, c in enumerate(concepts):
        column = seen[0]["seen"]["features"].index(c["feature"])
        values = [[round(row[column], 2) for row in s["seen"]["values"][1:]] for s in seen]  # without the token that begins a text
        at_nouns: dict[str, Json] = {}
        for (name, lang, _), v in zip(nouns, values[len(about) :]):
            entry = at_nouns.setdefault(name, dict.fromkeys(LANGS, 0.0))
            entry[lang] = max(entry[lang], *v)
        texts_of = {k: {"tokens": pieces[3 * i + j], "values": values[3 * i + j]} for j, k in enumerate(LANGS)}
        out.append(
            {
                **{key: c[key] for key in ("name", "family", "feature", "max_activation")},
                "nouns": {k: [split_article(n, texts["languages"][k]["articles"])[1] for n in c["nouns"][k]] for k in LANGS},
                "about": texts_of,
                "at_nouns": sorted(at_nouns.items(), key=lambda item: -sum(item[1].values())),
                "examples": [{"tokens": e["tokens"], "values": e["values"]} for e in catalog[c["feature"]]["activations"][:4]],
                "promotes": catalog[c["feature"]]["pos_str"][:8],
                "neighbors": tools.sae("neighbors", str(tools.dictionary), "--feature", str(c["feature"]), "-k", "6")["neighbors"],
            }
        )
    return out


# ---- steering ----


def split_article(noun: str, articles: list[str]) -> tuple[str, str]:
    first, _, rest = noun.partition(" ")
    return (first, rest) if first in articles else ("", noun)


def noun_prompts(texts: Json, concept: Json) -> list[tuple[str, str, str]]:
    """(language, prompt, prompt with a noun): a neutral text, and in languages with articles the noun's article, before each noun."""
    out = []
    for k in LANGS:
        language = texts["languages"][k]
        for noun in concept["nouns"][k]:
            article, word = split_article(noun, language["articles"])
            prompt = f"{language['neutral']} {article.capitalize()}".rstrip()
            out.append((k, prompt, f"{prompt} {word}"))
    return out


class Nouns:
    """The probability that one of a concept's nouns comes next; where a language has nouns of several articles, the mean over these."""

    def __init__(self, tools: Tools, texts: Json, concept: Json) -> None:
        self._tools = tools
        rows = noun_prompts(texts, concept)
        tokens = tools.engine("tokenize", prompts=tuple(text for _, *pair in rows for text in pair))["tokens"]
        self._lengths: dict[tuple[str, str], int] = {}
        self._whole: list[tuple[str, str, str]] = []
        ids = {row: (tokens[2 * i], tokens[2 * i + 1]) for i, row in enumerate(rows)}
        for row, (prompt, whole) in ids.items():
            if whole[: len(prompt)] != prompt:
                raise DemoError(
                    f"the tokens of “{row[2]}” do not begin with those of “{row[1]}”: the demo's texts do not fit the tokenizer"
                )
            # A noun that goes on from another ("등대탑" from "등대") is counted with it.
            if not any(other is not whole and whole[: len(other)] == other for _, other in ids.values()):
                self._whole.append(row)
                self._lengths[row[:2]] = len(prompt)

    def probability(self, edit: tuple[str, ...]) -> dict[str, float]:
        said = self._tools.logprobs(*edit, prompts=tuple(whole for *_, whole in self._whole))
        of_prompt = dict.fromkeys(self._lengths, 0.0)
        for (lang, prompt, _), s in zip(self._whole, said):
            of_prompt[lang, prompt] += math.exp(sum(s["logprobs"][self._lengths[lang, prompt] :]))
        out = {}
        for k in LANGS:
            values = [p for (lang, _), p in of_prompt.items() if lang == k]
            out[k] = float(f"{sum(values) / len(values):.3g}")
        return out


def sentences(text: str) -> str:
    """The text up to its last whole sentence, or all of it and that it goes on."""
    whole, dot, _ = text.strip().rpartition(".")
    return whole + dot if dot else text.strip() + " …"


def steered(tools: Tools, texts: Json, concepts: list[Json]) -> Json:
    """Texts that go on from neutral prompts, and the probability of the concept's nouns: without an edit, and at every dose."""
    prompts = tuple(texts["languages"][k]["neutral"] for k in LANGS)
    options = ("-n", str(NEW_TOKENS), "--temperature", str(TEMPERATURE), "--seed", str(SEED))

    def generate(edit: tuple[str, ...]) -> dict[str, str]:
        said = tools.engine("run", *options, *edit, prompts=prompts)["sequences"]
        return {k: sentences(s["text"]) for k, s in zip(LANGS, said)}

    def at(job: tuple[Json, Nouns, float]) -> Json:
        concept, nouns, dose = job
        edit = ("--sae", str(tools.dictionary), "--set", f"{concept['feature']}={dose * concept['max_activation']:.6g}")
        return {"dose": dose, "texts": generate(edit), "probability": nouns.probability(edit)}

    nouns = [Nouns(tools, texts, c) for c in concepts]
    jobs = [(c, n, dose) for c, n in zip(concepts, nouns) for dose in texts["doses"]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(at, jobs))
    each = len(texts["doses"])
    return {
        "prompts": dict(zip(LANGS, prompts)),
        "temperature": TEMPERATURE,
        "seed": SEED,
        "doses": texts["doses"],
        "off": generate(()),
        "concepts": [
            {"name": c["name"], "off": n.probability(()), "at": done[i * each : (i + 1) * each]}
            for i, (c, n) in enumerate(zip(concepts, nouns))
        ],
    }
