"""The model card's figures, in the card's order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import libsae
import numpy as np
from grammar import LANGS, World
from measure import (
    DOSES,
    SELECT_SEED,
    TEST_SEED,
    Context,
    Judge,
    Sample,
    Steering,
    Subject,
    ablation_plan,
    by_language,
    choose,
    clamp_plan,
    generate,
    neutral_contexts,
    neutral_texts,
    noun_tokens,
    own_features,
    permuted_labels,
    perplexity,
    random_dictionary,
    reaches,
    split_sentences,
    topic_contexts,
)
from report import Progress
from tokenizer import BOS
from tokens import label

Array = np.ndarray
Figures = dict[str, Any]
SHOWN_DOSE = 1.0  # multiples of the feature's largest activation: what the demo shows
TEXT_DOSES = (0.5, SHOWN_DOSE, 1.5, 2.0)
OPENERS = {"en": ["", " Today,"], "ko": ["", " 오늘"], "es": ["", " Hoy,"]}


class Study:
    """What the figures share: the subject, the two samples, and each concept's feature."""

    def __init__(self, folder: Path, world: World, select: int = 1500, test: int = 3000) -> None:
        self.world = world
        self.n = len(world.concepts)
        self.s = Subject(folder)
        self.test_tokens = [label(d, self.s.tok) for d in world.evaluation(TEST_SEED, test)]
        self.select = Sample.take(self.s, [label(d, self.s.tok) for d in world.evaluation(SELECT_SEED, select)])
        self.test = Sample.take(self.s, self.test_tokens)
        self.features = choose(self.select, self.n)
        self.max_act = self.select.codes.max(0)
        self.judge = Judge(world)
        self.sets = [sorted({f, *own}) for f, own in zip(self.features, own_features(self.select, self.n))]


def recognition(st: Study) -> Figures:
    """One feature a concept, in all three languages."""
    t = st.test
    rows = [by_language(t.codes[:, f], t, c) for c, f in enumerate(st.features)]
    new = [by_language(t.codes[:, f], t, c, also=t.held_out) for c, f in enumerate(st.features)]
    permuted = permuted_labels(st.select, t, st.n)
    at_random = random_dictionary(st.select, t, st.n)
    fires = t.codes > 0
    on = [fires[t.positive(c), f].mean() for c, f in enumerate(st.features)]
    off = [fires[t.negative(c), f].mean() for c, f in enumerate(st.features)]
    return {
        "share_095": reaches(rows),
        "median_worst_language": float(np.median([min(r) for r in rows])),
        "share_095_held_out_expressions": reaches(new),
        "permuted_mean": float(np.mean(permuted)),
        "permuted_max_worst_language": float(np.max([min(r) for r in permuted])),
        "random_dictionary_share_095": reaches(at_random),
        "random_dictionary_mean": float(np.mean(at_random)),
        "fires_on_topic": float(np.median(on)),
        "fires_elsewhere": float(np.median(off)),
        "distinct_features": len(set(st.features)),
        "by_concept": rows,
        "random_by_concept": at_random,
        "on": [float(x) for x in on],
        "off": [float(x) for x in off],
    }


def dictionary(st: Study) -> Figures:
    """FVU, L0, dead features on the test texts; and how many of a concept's own features there are."""
    t = st.test
    back = st.s.sae.decode(st.s.sae.encode(t.x))
    return {
        "fvu": float(((t.x - back) ** 2).sum() / ((t.x - t.x.mean(0)) ** 2).sum()),
        "l0": float((t.codes > 0).sum(1).mean()),
        "dead": float(1 - (t.codes > 0).any(0).mean()),
        "own_features": float(np.mean([len(s) for s in st.sets])),
        "topic_share": topic_share(t),
    }


def topic_share(t: Sample) -> float:
    """Share of the residual's variance between the topics' means."""
    on = t.known & (t.topic >= 0)
    x, topic = t.x[on] - t.x[on].mean(0), t.topic[on]
    means = np.stack([x[topic == c].mean(0) for c in range(topic.max() + 1)])
    return float((means[topic] ** 2).sum() / (x**2).sum())


def neighbours(st: Study) -> Figures:
    """Of a concept's feature, among the features of all concepts, the nearest decoder rows: are they of its family?"""
    rows = np.asarray(st.s.sae.W_dec_rows(st.features))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cos = rows @ rows.T
    np.fill_diagonal(cos, -2)
    family = np.array([c.family for c in st.world.concepts])
    near = np.argsort(-cos, 1)[:, :3]
    own = [float((family[near[i]] == family[i]).mean()) for i in range(st.n)]
    chance = float(np.mean([(family == f).sum() - 1 for f in family]) / (st.n - 1))
    return {"precision_at_3": float(np.mean(own)), "chance": chance, "near": near.tolist()}


def clamp_up(st: Study, per_language: int = 6) -> Figures:
    """Probability of the concept's nouns after texts without a topic, over the whole dose curve, beside a random feature."""
    contexts, words, owner = [], [], []
    for ids, k, article in neutral_contexts(st.world, st.s.tok, per_language, 11):
        for c in range(st.n):
            w = noun_tokens(st.world, st.s.tok, c, LANGS[k], article)
            if w:
                contexts.append(Context(ids, k))
                words.append(w)
                owner.append(c)
    steering = Steering(st.s, contexts, words, np.array(owner))
    base = steering.probabilities(None)
    neutral = base < 0.05
    owners, langs = np.array(owner), np.array([c.lang for c in contexts])
    features, top = st.features, st.max_act
    others = random_features(st)

    def mean(p: Array) -> Array:
        """[concept]: mean over languages of the mean over contexts."""
        by = [[p[neutral & (owners == c) & (langs == k)] for k in range(len(LANGS))] for c in range(st.n)]
        return np.array([np.mean([x.mean() for x in row if len(x)]) for row in by])

    before = mean(base)
    curve: Figures = {}
    for dose in DOSES:
        p = mean(steering.probabilities(clamp_plan(st.s, features, [dose * float(top[f]) for f in features])))
        q = mean(steering.probabilities(clamp_plan(st.s, others, [dose * float(top[f]) for f in others])))
        curve[str(dose)] = {
            "share_10x": float((p >= 10 * before).mean()),
            "mean": float(p.mean()),
            "median_ratio": float(np.median(p / before)),
            "random_share_10x": float((q >= 10 * before).mean()),
            "random_mean": float(q.mean()),
            "by_concept": p.tolist(),
        }
    return {"contexts_below_005": float(neutral.mean()), "base_mean": float(before.mean()), "base": before.tolist(), "doses": curve}


def random_features(st: Study) -> list[int]:
    """For each concept a live feature that is no concept's own."""
    taken = {f for fs in st.sets for f in fs}
    rate = (st.select.codes > 0).mean(0)
    live = [f for f in range(st.s.d_sae) if rate[f] > 1e-3 and f not in taken] or [f for f in range(st.s.d_sae) if rate[f] > 1e-3]
    return [int(f) for f in np.random.default_rng(5).choice(live, st.n)]


def remove(st: Study, per_language: int = 8) -> Figures:
    """Probability of the concept's nouns in texts on it, without and with its features ablated everywhere."""
    where = topic_contexts(st.test_tokens, st.n)
    rng = np.random.default_rng(3)
    contexts, words, owner = [], [], []
    for c in range(st.n):
        for k, lang in enumerate(LANGS):
            nouns = [st.s.tok.encode(" " + n) for n in st.world.concepts[c].nouns(lang)]
            some = where[c][k]
            for i in rng.permutation(len(some))[:per_language]:
                contexts.append(Context(some[i][0], k))
                words.append(nouns)
                owner.append(c)
    steering = Steering(st.s, contexts, words, np.array(owner))
    owners = np.array(owner)

    def mean(p: Array) -> Array:
        return np.array([p[owners == c].mean() for c in range(st.n)])

    before = mean(steering.probabilities(None))
    live = np.flatnonzero((st.select.codes > 0).mean(0) > 1e-3)
    out: Figures = {"base_mean": float(before.mean()), "set_size": float(np.mean([len(s) for s in st.sets]))}
    plans = {
        "one_feature": [[f] for f in st.features],
        "set": st.sets,
        "random_set": [[int(f) for f in rng.choice(np.setdiff1d(live, s), len(s), False)] for s in st.sets],
    }
    for name, sets in plans.items():
        after = mean(steering.probabilities(ablation_plan(st.s, sets)))
        ratio = before / after
        out[name] = {
            "share_3x": float((ratio >= 3).mean()),
            "median_ratio": float(np.median(ratio)),
            "mean": float(after.mean()),
            "by_concept": ratio.tolist(),
        }
    return out


def unsteered_text(st: Study, n: int = 40, per_language: int = 4, temperature: float = 0.7) -> Figures:
    """Sampled continuations of two sentences on a concept: what the language model writes by itself."""
    prompts, langs, topics = [], [], []
    rng = random.Random(31)
    for lang in LANGS:
        for c, concept in enumerate(st.world.concepts):
            for _ in range(per_language):
                text = "".join(" " + st.world.sentence(rng, lang, concept).plain for _ in range(2))
                prompts.append([BOS, *st.s.tok.encode(text)])
                langs.append(lang)
                topics.append(c)
    rows = generate(st.s, prompts, n, temperature, 2, None, topics)
    scores = read_texts(st, rows, prompts, langs, topics)
    return {"grammatical": float(scores[:, 1].sum() / scores[:, 0].sum()), "about": float(scores[:, 2].sum() / scores[:, 0].sum())}


class Prompts:
    """Texts without a topic, once for each concept, which is also the slot of a plan."""

    def __init__(self, st: Study, per_language: int) -> None:
        self.ids: list[list[int]] = []
        self.langs: list[str] = []
        self.slots: list[int] = []
        for k, lang in enumerate(LANGS):
            for i, text in enumerate(neutral_texts(st.world, lang, per_language, 23 + k)):
                ids = [BOS, *st.s.tok.encode(" " + text + OPENERS[lang][i % len(OPENERS[lang])])]
                for c in range(st.n):
                    self.ids.append(ids)
                    self.langs.append(lang)
                    self.slots.append(c)


def steered_text(st: Study, n: int = 40, per_language: int = 3, temperature: float = 0.7) -> Figures:
    """Sampled continuations of neutral prompts, without and with the clamp, read by the grammar."""
    prompts = Prompts(st, per_language)
    plain, plain_nats = sampled(st, prompts, None, n, temperature)
    out: Figures = {"plain": plain}
    for dose in TEXT_DOSES:
        plan = clamp_plan(st.s, st.features, [dose * float(st.max_act[f]) for f in st.features])
        text, nats = sampled(st, prompts, plan, n, temperature)
        ratio = np.exp(nats - plain_nats)
        reads = (ratio <= 4) & (np.array(text["grammatical_by_concept"]) >= 0.8) & (np.array(text["about_by_concept"]) >= 0.5)
        text |= {
            "perplexity_ratio": ratio.tolist(),
            "share_perplexity_4x": float((ratio <= 4).mean()),
            "share_reads_well": float(reads.mean()),
        }
        out[str(dose)] = text
    return out


def sampled(st: Study, prompts: Prompts, plan: libsae.Plan | None, n: int, temperature: float) -> tuple[Figures, Array]:
    """What the texts are like; and by concept the mean log perplexity under the unsteered model."""
    rows = generate(st.s, prompts.ids, n, temperature, 1, plan, prompts.slots)
    nats = np.log(perplexity(st.s, rows, [len(p) for p in prompts.ids]))
    scores = read_texts(st, rows, prompts.ids, prompts.langs, prompts.slots)
    slot = np.array(prompts.slots)
    per = np.array([scores[slot == c].sum(0) for c in range(st.n)])
    text = {
        "grammatical": float(per[:, 1].sum() / per[:, 0].sum()),
        "about": float(per[:, 2].sum() / per[:, 0].sum()),
        "perplexity": float(np.exp(nats.mean())),
        "grammatical_by_concept": (per[:, 1] / np.maximum(per[:, 0], 1)).tolist(),
        "about_by_concept": (per[:, 2] / np.maximum(per[:, 0], 1)).tolist(),
        "samples": [st.s.tok.decode(rows[i][1:]).strip() for i in range(0, len(rows), 61)],
    }
    return text, np.array([nats[slot == c].mean() for c in range(st.n)])


def read_texts(st: Study, rows: list[list[int]], prompts: list[list[int]], langs: list[str], concepts: list[int]) -> Array:
    """[text][3]: see read_text."""
    decode = st.s.tok.decode
    return np.array([read_text(st.judge, decode(r[1:]), decode(p[1:]), lang, c) for r, p, lang, c in zip(rows, prompts, langs, concepts)])


def read_text(judge: Judge, text: str, prompt: str, lang: str, concept: int) -> tuple[int, int, int]:
    """Whole sentences that are not the prompt's: how many, how many the language's grammar has, how many are about the concept."""
    sentences = split_sentences(text)[prompt.count(".") :]
    right = [s for s in sentences if judge.is_grammatical(s, lang)]
    return len(sentences), len(right), sum(judge.is_about(s, lang, concept) for s in right)


def measure(st: Study) -> Figures:
    """Every figure of the card."""
    out: Figures = {"concepts": [c.name for c in st.world.concepts], "features": st.features, "feature_sets": st.sets}
    out["max_activation"] = [float(st.max_act[f]) for f in st.features]
    parts = {
        "dictionary": dictionary,
        "recognition": recognition,
        "neighbours": neighbours,
        "unsteered": unsteered_text,
        "clamp": clamp_up,
        "removal": remove,
        "text": steered_text,
    }
    progress = Progress("figures", len(parts))
    for name, figure in parts.items():
        out[name] = figure(st)
        progress.step()
    progress.end()
    return out


def rounded(x: Any) -> Any:
    """Floats to five digits, for files."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x
