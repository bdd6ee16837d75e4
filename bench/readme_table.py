"""Writes the measured tables of README.md and docs/performance.md, between their <!-- bench --> marks, from a bench.json. The table
between <!-- opening --> marks may come from another run: `--opening` writes it alone, from one of the case open. The plots that the tables
link to are drawn by plots.py."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parent.parent


def put(path: Path, text: str, check: bool, mark: str = "bench") -> bool:
    """Replaces what stands between the marks; returns whether the file already said so."""
    old = path.read_text()
    marks = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    new, n = marks.subn(lambda m: f"{m[1]}{text}\n{m[2]}", old)
    if n != 1:
        sys.exit(f"{path.relative_to(ROOT)} has {n} pairs of <!-- {mark} --> marks, not one")
    if not check and new != old:
        path.write_text(new)
    return new == old


def performance(result: report.Result) -> str:
    rows, machine = result["rows"], result["machine"]
    out = [f"Measured on {report.machine_line(machine)}. {report.versions_line(rows)}.", "### Targets", report.targets_table(rows)]
    out += report.plot_links(rows, "images")
    out += report.encode_tables(rows, "###") + report.screen_tables(rows, "###")
    for case in ("decode", "probe", "steer", "neighbors"):
        if report.select(rows, case=case):
            out += [f"### {case.capitalize()}", report.other_table(rows, case)]
    out += report.grid_tables(rows, "###")
    out += ["### Ceilings", report.ceilings_table(result["ceilings"])]
    return "\n\n".join(out)


def opening(result: report.Result) -> str:
    rows = report.select(result["rows"], case="open")
    return f"Measured on {report.machine_line(result['machine'])}. {report.versions_line(rows)}.\n\n{report.opening_table(rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="?", default=ROOT / "build" / "bench.json")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file says something else")
    parser.add_argument("--opening", action="store_true", help="only the table of the case open")
    args = parser.parse_args()
    result = json.loads(args.json.read_text())
    if result["machine"]["quick"] or result["machine"]["faults"]:
        sys.exit(f"{args.json} is of a quick or a faulty run: no figures to publish")
    page = ROOT / "docs" / "performance.md"
    same = [put(page, opening(result), args.check, "opening")]
    if not args.opening:
        same += [put(ROOT / "README.md", report.readme(result), args.check), put(page, performance(result), args.check)]
    return 1 if args.check and not all(same) else 0


if __name__ == "__main__":
    sys.exit(main())
