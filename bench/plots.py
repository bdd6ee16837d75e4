"""Draws the plots of README.md and docs from a bench.json: what encoding a row takes against the batch, one SVG for each shape, into
docs/images. The same numbers give the same bytes. Colours follow the reader's light or dark scheme."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import report
from report import Row

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 204, 64, 48  # margins; names of the lines stand in the right one
NAME_GAP = 17.0  # between the names of two lines

# Name of the line, its CSS class and colours in the light and the dark scheme.
COLOURS = {
    "libsae": ("a", "#2a78d6", "#3987e5"),
    "libsae-dense": ("b", "#1baf7a", "#199e70"),
    "best fp32 peer": ("c", "#eb6834", "#d95926"),
    "torch bf16 (not exact)": ("d", "#4a3aa7", "#9085e9"),
    "SAELens": ("e", "#e34948", "#e66767"),
    "roof of one byte a weight": ("f", "#52514e", "#c3c2b7"),
}
PAPER = {"paper": ("#fcfcfb", "#1a1a19"), "ink": ("#0b0b0b", "#ffffff"), "soft": ("#52514e", "#c3c2b7"), "grid": ("#e1e0d9", "#2c2c2a")}


@dataclass
class Line:
    name: str
    points: list[tuple[int, float, str]]  # batch, ms of a row, who and what


def lines(rows: list[Row], d_in: int, d_sae: int) -> list[Line]:
    """What there is of the lines of COLOURS, in that order."""
    out = {name: Line(name, []) for name in COLOURS}
    for batch in sorted({r["batch"] for r in report.select(rows, case="encode", d_in=d_in, d_sae=d_sae)}):
        at = report.select(rows, case=report.PRODUCT, d_in=d_in, d_sae=d_sae, batch=batch, threads=1, variant="")
        ours = report.fastest(report.select(at, impl="libsae"))
        dense = report.fastest(report.select(at, impl="libsae-dense"))
        peer = report.fastest_peer(at, ours) if ours else None
        found = (ours, dense, peer, report.fastest(report.bf16_encodes(at)), report.fastest(report.select(at, impl="saelens")))
        for name, row in zip(COLOURS, found):
            if row:
                out[name].points.append((batch, row["ms_min"] / batch, report.label(row)))
        if ours and ours["roof_fraction"]:
            out["roof of one byte a weight"].points.append((batch, ours["ms_min"] * ours["roof_fraction"] / batch, "roof"))
    return [line for line in out.values() if line.points]


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten, from the last one below to the first one above."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [float(f"{m}e{p}") for p in powers for m in (1, 2, 5)]
    first = max(s for s in steps if s <= low)
    last = min(s for s in steps if s >= high)
    return [s for s in steps if first <= s <= last]


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places as near to the wanted ones (ascending) as a gap between neighbours allows, within low .. high."""
    out: list[float] = []
    for y in wanted:
        out.append(max(y, out[-1] + gap if out else low))
    for i in range(len(out) - 1, -1, -1):
        out[i] = min(out[i], out[i + 1] - gap if i + 1 < len(out) else high)
    return out


def style() -> str:
    def rules(scheme: int) -> str:
        paper = {name: colours[scheme] for name, colours in PAPER.items()}
        out = [f".paper{{fill:{paper['paper']}}}.ink{{fill:{paper['ink']}}}.soft{{fill:{paper['soft']}}}.grid{{stroke:{paper['grid']}}}"]
        for name, *colours in COLOURS.values():
            out.append(f".{name}{{stroke:{colours[scheme]}}}.dot.{name}{{fill:{colours[scheme]};stroke:{paper['paper']}}}")
        return "".join(out)

    fixed = "text{font:13px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.line{fill:none;stroke-width:2}"
    fixed += ".line.a{stroke-width:3}.line.f{stroke-dasharray:5 4}.dot{stroke-width:1.5}.lead{stroke-width:1;fill:none;opacity:.6}"
    return f"<style>{fixed}{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}</style>"


def text(x: float, y: float, said: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def number(value: float) -> str:
    return f"{value:g}"


class Plot:
    """Logarithmic both ways: batches at even distances, milliseconds by powers of ten."""

    def __init__(self, drawn: list[Line]) -> None:
        self.drawn = drawn
        values = [ms for line in drawn for _, ms, _ in line.points]
        self.ticks = ticks(min(values), max(values))
        self.batches = sorted({b for line in drawn for b, _, _ in line.points})

    def x(self, batch: int) -> float:
        low, high = math.log2(self.batches[0]), math.log2(self.batches[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * ((math.log2(batch) - low) / (high - low) if high > low else 0.5)

    def y(self, ms: float) -> float:
        low, high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log10(ms) - low) / (high - low)

    def axes(self) -> list[str]:
        out = []
        for value in self.ticks:
            y = self.y(value)
            out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            out.append(text(LEFT - 8, y + 4, number(value), "soft", "end"))
        out += [text(self.x(b), HEIGHT - BOTTOM + 20, str(b), "soft", "middle") for b in self.batches]
        return [*out, text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "rows in a call", "soft", "middle")]

    def curves(self) -> list[str]:
        out = []
        for line in self.drawn:
            kind = COLOURS[line.name][0]
            at = [(self.x(b), self.y(ms), b, ms, who) for b, ms, who in line.points]
            out.append(f'<path class="line {kind}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y, *_ in at) + '"/>')
            for x, y, b, ms, who in at if line.name != "roof of one byte a weight" else ():
                said = f"{line.name}, batch {b}: {report.ms(ms)} a row, {who}"
                out.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>')
        return out

    def names(self) -> list[str]:
        """Beside the ends of the lines, moved apart where these are close, with a stroke to the end."""
        ends = sorted((self.y(line.points[-1][1]), line.name, self.x(line.points[-1][0])) for line in self.drawn)
        places = spread([y for y, _, _ in ends], NAME_GAP, TOP, HEIGHT - BOTTOM)
        out = []
        for (y, name, x), place in zip(ends, places):
            out.append(f'<path class="lead {COLOURS[name][0]}" d="M{x + 6:.1f} {y:.1f}L{x + 16:.1f} {place:.1f}"/>')
            out.append(text(x + 20, place + 4, name, "ink"))
        return out


def svg(result: report.Result, d_in: int, d_sae: int) -> str | None:
    """The plot of one shape, None where the run did not measure it."""
    drawn = lines(result["rows"], d_in, d_sae)
    if not drawn:
        return None
    plot = Plot(drawn)
    machine = result["machine"]
    title = f"Encode {d_in}×{d_sae}, one thread: milliseconds a row"
    where = f"{machine.get('model_name', machine['architecture'])}, {machine['date']}; both axes logarithmic"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
    body = [head, f"<title>{escape(title)}</title>", style(), f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>']
    body += [text(LEFT - 40, 26, title, "ink title"), text(LEFT - 40, 46, where, "soft")]
    return "\n".join([*body, *plot.axes(), *plot.curves(), *plot.names(), "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", default=ROOT / "build" / "bench.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the plots (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a plot is another")
    args = parser.parse_args()
    result = json.loads(args.json.read_text())
    wrong = 0
    for d_in, d_sae in report.SHAPES:
        path = args.out / report.plot_name(d_in, d_sae)
        drawn = svg(result, d_in, d_sae)
        if drawn is None:
            print(f"{args.json} has no encodes of {d_in}x{d_sae}: {path.name} stays as it is", file=sys.stderr)
        elif args.check:
            wrong += not path.exists() or path.read_text(encoding="utf-8") != drawn
        else:
            path.write_text(drawn, encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
