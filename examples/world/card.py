"""The model card: which figures it states, their bars, and the table in README.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
_BETWEEN = re.compile(r"(<!-- figures -->\n).*(<!-- /figures -->)", re.DOTALL)


@dataclass
class Line:
    """One figure, and its bar: it holds when the figure is at least, or at most, this. Without a bar it is reported only."""

    what: str
    path: str  # in the figures
    least: float | None = None
    most: float | None = None
    percent: bool = True

    def value(self, f: Figures) -> float:
        for name in self.path.split("/"):
            f = f[name]
        return float(f)  # type: ignore[arg-type]

    def holds(self, f: Figures) -> bool:
        x = self.value(f)
        return (self.least is None or x >= self.least) and (self.most is None or x <= self.most)

    def shown(self, f: Figures) -> str:
        return self._number(self.value(f))

    @property
    def bar(self) -> str:
        return (
            f"≥ {self._number(self.least)}" if self.least is not None else f"≤ {self._number(self.most)}" if self.most is not None else ""
        )

    def _number(self, x: float) -> str:
        return f"{100 * x:.0f} %" if self.percent else f"{x:.3g}"


def _number(what: str, path: str, least: float | None = None, most: float | None = None) -> Line:
    return Line(what, path, least, most, percent=False)


LINES = [
    Line("concepts with one feature of token AUROC ≥ 0.95 in each language", "recognition/share_095", 0.8),
    Line("the same, on held-out expressions alone", "recognition/share_095_held_out_expressions", 0.8),
    _number("median AUROC of the worst language", "recognition/median_worst_language"),
    _number("control: mean AUROC, topics of the texts permuted", "recognition/permuted_mean", most=0.65),
    Line("control: random dictionary of the same firing rates, concepts ≥ 0.95", "recognition/random_dictionary_share_095", most=0.1),
    Line("the concept's feature fires on its tokens (median)", "recognition/fires_on_topic"),
    Line("and on tokens of other texts (median)", "recognition/fires_elsewhere"),
    _number("different features for the 50 concepts", "recognition/distinct_features"),
    Line("of a concept's nearest 3 among the concepts' features, of its family", "neighbours/precision_at_3", 0.25),
    Line("by chance", "neighbours/chance"),
    Line("clamped at 1x: concepts whose nouns become ≥ 10x likelier", "clamp/doses/1.0/share_10x"),
    Line("clamped at 3x", "clamp/doses/3.0/share_10x", 0.8),
    Line("clamped at 5x", "clamp/doses/5.0/share_10x", 0.8),
    Line("control: a random feature at 3x", "clamp/doses/3.0/random_share_10x", most=0.05),
    _number("probability of a concept's nouns in neutral texts", "clamp/base_mean"),
    _number("clamped at 1x", "clamp/doses/1.0/mean"),
    Line("text clamped at 1x: concepts that read well", "text/1.0/share_reads_well", 0.8),
    Line("concepts whose text has ≤ 4x the perplexity of unsteered text", "text/1.0/share_perplexity_4x", 0.8),
    Line("sentences that are grammatical in the prompt's language", "text/1.0/grammatical"),
    Line("without the clamp", "text/plain/grammatical", 0.95),
    Line("sentences on the concept", "text/1.0/about"),
    Line("without the clamp", "text/plain/about"),
    _number("perplexity under the unsteered model, clamped", "text/1.0/perplexity"),
    _number("without the clamp", "text/plain/perplexity"),
    Line("a concept's features ablated: concepts whose nouns become ≥ 3x less likely", "removal/set/share_3x", 0.6),
    _number("features of a concept's set (mean)", "removal/set_size"),
    Line("its one feature ablated", "removal/one_feature/share_3x"),
    Line("control: as many random features ablated", "removal/random_set/share_3x", most=0.05),
    Line("the model's own text on a concept: grammatical sentences", "unsteered/grammatical", 0.95),
    Line("and on the concept it began with", "unsteered/about", 0.6),
    Line("share of the residual's variance between topics", "dictionary/topic_share"),
    _number("SAE: FVU", "dictionary/fvu"),
    _number("SAE: L0", "dictionary/l0"),
    Line("SAE: features that never fire", "dictionary/dead"),
]


def table(f: Figures) -> str:
    rows = [f"| {line.what} | {line.shown(f)} | {line.bar} |" for line in LINES]
    return "\n".join(["| figure | reached | bar |", "| --- | ---: | --- |", *rows]) + "\n"


def dose_table(f: Figures) -> str:
    head = "| dose | concepts ≥ 10x | mean probability | random feature | | text: grammatical | on the concept | perplexity |"
    rows = [head, "| ---: " * 8 + "|"]
    for dose, d in f["clamp"]["doses"].items():
        t = f["text"].get(dose)
        text = f"{100 * t['grammatical']:.0f} % | {100 * t['about']:.0f} % | {t['perplexity']:.3g}" if t else "| |"
        rows.append(f"| {float(dose):g}x | {100 * d['share_10x']:.0f} % | {d['mean']:.3g} | {d['random_mean']:.3g} | | {text} |")
    return "\n".join(rows) + "\n"


def write(f: Figures, path: Path) -> None:
    """Puts the tables in place of those in the card."""
    text = path.read_text(encoding="utf-8")
    tables = table(f) + "\n" + dose_table(f)
    path.write_text(_BETWEEN.sub(lambda m: m[1] + tables + m[2], text), encoding="utf-8")
