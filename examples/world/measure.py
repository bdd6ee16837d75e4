"""Every figure of the model card, from the committed files alone: NumPy runs the language model, libsae reads the SAE and steers.

All texts are drawn from the grammar with seeds of their own, are in one language each, and half of their expressions were held
out from training. Features are chosen on the texts of one seed and measured on those of another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import libsae
import numpy as np
from grammar import LANGS, World
from llama import Cache, Llama, log_softmax, pad
from tokenizer import BOS, Tokenizer
from tokens import Tokens

Array = np.ndarray
DOSES = (-10.0, -5.0, -3.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SELECT_SEED, TEST_SEED, CONTROL_SEED = 201, 202, 7  # 101 and 102 served to choose the recipe


class Subject:
    """What is measured: the language model, its tokenizer and the SAE at one hook point."""

    def __init__(self, folder: Path) -> None:
        self.lm = Llama.load_bin(folder / "world.bin")
        self.tok = Tokenizer.load(folder / "tokenizer.bin", self.lm.n_vocab)
        self.sae = libsae.open(folder / "sae")
        self.layer = int(self.sae.info["hook_name"].split(".")[1]) + 1  # blocks in front of the hook
        self.d_sae = self.sae.info["d_sae"]

    def residuals(self, docs: list[Tokens]) -> Array:
        """The hook's rows [n_tokens][d_in], BOS left out, documents in order."""
        out = []
        for start in range(0, len(docs), 64):
            ids, length = pad([list(d.ids) for d in docs[start : start + 64]])
            x = self.lm.blocks(self.lm.embed(ids), 0, self.layer)
            real = np.arange(ids.shape[1]) < length[:, None]
            real[:, 0] = False
            out.append(x[real])
        return np.concatenate(out)

    def codes(self, x: Array) -> Array:
        return self.sae.encode(np.ascontiguousarray(x)).dense()


@dataclass
class Sample:
    """The tokens of a set of documents, BOS left out."""

    doc: Array
    ids: Array
    topic: Array
    lang: Array
    filler: Array
    known: Array
    held_out: Array
    codes: Array
    x: Array

    @classmethod
    def take(cls, s: Subject, docs: list[Tokens]) -> Sample:
        x = s.residuals(docs)
        columns = {n: np.concatenate([getattr(d, n)[1:] for d in docs]) for n in ("ids", "topic", "lang", "filler", "known", "held_out")}
        doc = np.repeat(np.arange(len(docs)), [len(d.ids) - 1 for d in docs])
        return cls(doc=doc, codes=s.codes(x), x=x, **columns)

    def positive(self, concept: int) -> Array:
        """Tokens of sentences about the concept from its first mention on."""
        return (self.topic == concept) & ~self.filler & self.known

    def negative(self, concept: int) -> Array:
        """Every token of texts on other topics."""
        return self.topic != concept


# ---- which feature is the concept? ----


def auroc(positive: Array, negative: Array) -> float:
    """Probability that a positive is above a negative, ties counted half (Mann-Whitney)."""
    if not len(positive) or not len(negative):
        return float("nan")
    below = np.sort(negative)
    return float((np.searchsorted(below, positive, "left") + np.searchsorted(below, positive, "right")).mean() / 2 / len(below))


def by_language(a: Array, s: Sample, concept: int, thin: int = 1, also: Array | None = None) -> list[float]:
    """AUROC of a feature's activations `a` [n_tokens] for a concept, in each language. `also` narrows the positives."""
    p, n = s.positive(concept), s.negative(concept)
    if also is not None:
        p = p & also
    return [auroc(a[p & (s.lang == k)], a[n & (s.lang == k)][::thin]) for k in range(len(LANGS))]


def choose(s: Sample, n_concepts: int, candidates: int = 12) -> list[int]:
    """For each concept the feature with the best AUROC in its worst language; of features that differ by less than 0.005 in this, the one
    with the largest share of its activation in texts on the concept."""
    fires = s.codes > 0
    total = s.codes.sum(0) + 1e-9
    out = []
    for c in range(n_concepts):
        p, n = s.positive(c), s.negative(c)
        gap = np.min([fires[p & (s.lang == k)].mean(0) - fires[n & (s.lang == k)][::7].mean(0) for k in range(len(LANGS))], axis=0)
        score = {int(f): min(by_language(s.codes[:, f], s, c, thin=5)) for f in np.argsort(-gap)[:candidates]}
        share = s.codes[s.topic == c].sum(0) / total
        out.append(max((f for f in score if score[f] > max(score.values()) - 0.005), key=lambda f: share[f]))
    return out


def reaches(rows: list[list[float]], bar: float = 0.95) -> float:
    """Share of concepts whose worst language reaches the bar."""
    return float(np.mean([min(r) >= bar for r in rows]))


def random_dictionary(select: Sample, test: Sample, n_concepts: int) -> list[list[float]]:
    """The control: random unit directions whose thresholds give each the firing rate of one SAE feature, chosen and measured alike."""
    rng = np.random.default_rng(CONTROL_SEED)
    d_sae = select.codes.shape[1]
    directions = rng.standard_normal((select.x.shape[1], d_sae)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    mean = select.x.mean(0)
    rate = (select.codes > 0).mean(0)
    h, h_test = (select.x - mean) @ directions, (test.x - mean) @ directions
    threshold = np.array([np.quantile(h[:, f], 1 - rate[f]) if rate[f] else np.inf for f in range(d_sae)], np.float32)
    features = choose(replace(select, codes=np.where(h > threshold, np.maximum(h, 0), 0)), n_concepts)
    codes = np.where(h_test > threshold, np.maximum(h_test, 0), 0)
    return [by_language(codes[:, f], test, c) for c, f in enumerate(features)]


def permuted_labels(select: Sample, test: Sample, n_concepts: int) -> list[list[float]]:
    """The control: the documents' topics permuted within a language, features chosen and measured alike."""

    def shuffled(s: Sample, seed: int) -> Sample:
        rng = np.random.default_rng(seed)
        first = np.searchsorted(s.doc, np.arange(s.doc[-1] + 1))
        topic, lang = s.topic[first], s.lang[first]
        for k in range(len(LANGS)):
            topic[lang == k] = rng.permutation(topic[lang == k])
        return replace(s, topic=topic[s.doc])

    a, b = shuffled(select, CONTROL_SEED), shuffled(test, CONTROL_SEED + 1)
    return [by_language(b.codes[:, f], b, c) for c, f in enumerate(choose(a, n_concepts))]


def own_features(s: Sample, n_concepts: int, share: float = 0.3, at_most: int = 16) -> list[list[int]]:
    """The concept's feature set: those with `share` of their activation mass in texts on the concept, strongest first."""
    total = s.codes.sum(0) + 1e-9
    out = []
    for c in range(n_concepts):
        mass = s.codes[s.topic == c].sum(0)
        mine = np.flatnonzero((mass / total >= share) & (mass > 0.01 * mass.max()))
        out.append([int(f) for f in mine[np.argsort(-mass[mine])][:at_most]])
    return out


# ---- steering ----


@dataclass
class Context:
    """A text cut where a noun may follow."""

    ids: list[int]
    lang: int


@dataclass
class Steering:
    """Whole-noun probabilities under a plan: rows of all contexts go through the first blocks once."""

    s: Subject
    contexts: list[Context]
    words: list[list[list[int]]]  # for each context: token lists whose probabilities are summed
    owner: Array  # slot of each context
    _resid: list[tuple[Array, Array, list[tuple[int, int, int]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = [(i, c.ids + w) for i, c in enumerate(self.contexts) for w in self.words[i]]
        order = sorted(rows, key=lambda r: len(r[1]))
        for start in range(0, len(order), 128):
            part = order[start : start + 128]
            ids, _ = pad([r[1] for r in part])
            x = self.s.lm.blocks(self.s.lm.embed(ids), 0, self.s.layer)
            self._resid.append((ids, x, [(i, len(self.contexts[i].ids), len(r)) for i, r in part]))

    def probabilities(self, plan: libsae.Plan | None) -> Array:
        """For each context the sum over its words of their probability, all positions steered."""
        out = np.zeros(len(self.contexts))
        for ids, x, spans in self._resid:
            y = x
            if plan is not None:
                slots = np.repeat(np.array([self.owner[i] for i, _, _ in spans], np.int32), x.shape[1])
                y = plan.apply(x.reshape(-1, x.shape[2]).copy(), slots=slots).reshape(x.shape)
            y = self.s.lm.blocks(y, self.s.layer, self.s.lm.n_layers)
            for r, (i, begin, end) in enumerate(spans):
                logp = log_softmax(self.s.lm.logits(y[r, begin - 1 : end - 1]))
                out[i] += np.exp(logp[np.arange(end - begin), ids[r, begin:end]].sum())
        return out


def clamp_plan(s: Subject, features: list[int], values: list[float]) -> libsae.Plan:
    """One slot a concept: its feature set to a value."""
    edits = [libsae.Edit.set(v, sae=s.sae, feature=f, slot=c) for c, (f, v) in enumerate(zip(features, values))]
    return libsae.Plan(edits, n_slots=len(features))


def ablation_plan(s: Subject, sets: list[list[int]]) -> libsae.Plan:
    """One slot a concept: its features ablated."""
    edits = [libsae.Edit.ablate(sae=s.sae, feature=f, slot=c) for c, fs in enumerate(sets) for f in fs]
    return libsae.Plan(edits, d=s.lm.dim, n_slots=len(sets))


# ---- contexts ----

ARTICLES = {"en": ["the"], "ko": [""], "es": ["el", "la"]}


def neutral_texts(world: World, lang: str, n: int, seed: int) -> list[str]:
    """`n` texts of fillers, different ones first."""
    rng = np.random.default_rng(seed)
    draw = _random(rng)
    return [" ".join(world.sentence(draw, lang, None).plain for _ in range(int(rng.integers(1, 4)))) for _ in range(n)]


def noun_tokens(world: World, tok: Tokenizer, concept: int, lang: str, article: str) -> list[list[int]]:
    """The concept's nouns as they follow a sentence start with this article ("" in Korean, where a noun opens the sentence)."""
    out = []
    for noun in world.concepts[concept].phrases[lang].nouns:
        words = noun.split(" ", 1)
        if article and words[0] == article:
            out.append(tok.encode(" " + words[1]))
        elif not article:
            out.append(tok.encode(" " + noun))
    return out


def neutral_contexts(world: World, tok: Tokenizer, per_language: int, seed: int) -> list[tuple[list[int], int, str]]:
    """Texts without a topic, cut where a noun may follow: ids, language, the article they end in."""
    out = []
    for k, lang in enumerate(LANGS):
        for i, text in enumerate(neutral_texts(world, lang, per_language, seed + k)):
            article = ARTICLES[lang][i % len(ARTICLES[lang])]
            tail = " " + article.capitalize() if article else ""
            out.append(([BOS, *tok.encode(" " + text + tail)], k, article))
    return out


def topic_contexts(labels: list[Tokens], n_concepts: int) -> list[list[list[tuple[list[int], int]]]]:
    """For each concept and language: evaluation texts on it, cut before a noun that comes after the first mention, in a sentence
    that so far fits the whole family."""
    out: list[list[list[tuple[list[int], int]]]] = [[[] for _ in LANGS] for _ in range(n_concepts)]
    for t in labels:
        for i in range(12, len(t.ids)):
            if t.noun[i] and not t.noun[i - 1] and t.known[i - 1] and t.open[i]:
                c, k = int(t.topic[i]), int(t.lang[i])
                out[c][k].append(([int(j) for j in t.ids[:i]], k))
    return out


def _random(rng: np.random.Generator) -> random.Random:
    return random.Random(int(rng.integers(1 << 31)))


# ---- sampled texts ----


def generate(
    s: Subject, prompts: list[list[int]], n: int, temperature: float, seed: int, plan: libsae.Plan | None, slots: list[int]
) -> list[list[int]]:
    """Continues every prompt by `n` tokens; row r gets slot slots[r] of the plan at every position."""
    ids, length = pad(prompts)
    cache = Cache(s.lm, len(prompts))
    rng = np.random.default_rng(seed)
    slot = np.array(slots, np.int32)

    def run(tokens: Array, position: Array) -> Array:
        x = s.lm.blocks(s.lm.embed(tokens), 0, s.layer, cache, position)
        if plan is not None:
            flat = np.ascontiguousarray(x.reshape(-1, x.shape[2]))
            x = plan.apply(flat, slots=np.repeat(slot, tokens.shape[1])).reshape(x.shape)
        return s.lm.blocks(x, s.layer, s.lm.n_layers, cache, position)

    x = run(ids, np.zeros(len(prompts), np.int64))[np.arange(len(prompts)), length - 1]
    out = [list(p) for p in prompts]
    for step in range(n):
        logits = s.lm.logits(x) / temperature
        logits[:, :3] = -np.inf  # unknown, begin, end
        choice = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        for row, token in zip(out, choice):
            row.append(int(token))
        if step + 1 < n:
            x = run(choice[:, None], length + step)[:, 0]
    return out


def perplexity(s: Subject, texts: list[list[int]], prompt_length: list[int]) -> Array:
    """Of each continuation under the unsteered model."""
    ids, length = pad(texts)
    logp = log_softmax(s.lm.forward(ids)[:, :-1])
    nll = -np.take_along_axis(logp, ids[:, 1:, None], 2)[..., 0]
    at = np.arange(1, ids.shape[1])
    real = (at >= np.array(prompt_length)[:, None]) & (at < length[:, None])
    return np.exp((nll * real).sum(1) / real.sum(1))


class Judge:
    """The grammar reads sentences: which language, which concept, or none of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.grammatical = {lang: world.sentences(lang) for lang in LANGS}
        self.dialogue = {lang: world.dialogue_sentences(lang) for lang in LANGS}
        self.about = {lang: [world.sentences_about(c, lang) for c in world.concepts] for lang in LANGS}

    def is_grammatical(self, sentence: str, lang: str) -> bool:
        return self.world.core(sentence, lang) in self.grammatical[lang] or sentence in self.dialogue[lang]

    def is_about(self, sentence: str, lang: str, concept: int) -> bool:
        return self.world.core(sentence, lang) in self.about[lang][concept]


def split_sentences(text: str) -> list[str]:
    """The whole sentences of a text; a last one without its full stop is dropped."""
    return [p.strip() + "." for p in text.split(".")[:-1]]
