"""Measures every figure of the model card again, from the files alone, and fails when one does not hold. `python check_world.py FOLDER`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import card
import figures
from grammar import World

SLACK = 0.05  # a share may differ from the card's by this: sampled texts depend on the last bits of NumPy's products


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parent / "files")
    ap.add_argument("--json", action="store_true", help="print all figures as JSON")
    a = ap.parse_args()
    stated = json.loads((a.folder / "figures.json").read_text(encoding="utf-8"))
    found = figures.rounded(figures.measure(figures.Study(a.folder, World())))
    wrong = 0
    for line in card.LINES:
        same = abs(line.value(found) - line.value(stated)) <= SLACK * (1 if line.percent else max(1.0, abs(line.value(stated))))
        held = line.holds(found)
        wrong += not (same and held)
        verdict = "ok" if same and held else "BELOW THE BAR" if same else f"THE CARD SAYS {line.shown(stated)}"
        if not a.json:
            print(f"{line.what:86} {line.shown(found):>8}  {line.bar:14} {verdict}")
    if a.json:
        json.dump(found, sys.stdout, ensure_ascii=False)
    print(f"{len(card.LINES) - wrong} passed, {wrong} failed", file=sys.stderr if a.json else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
