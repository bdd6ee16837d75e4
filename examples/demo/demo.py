"""What libsae does inside a language model, on one page: `make demo`. Needs Python 3.9 and nothing else.

Reads the small world of examples/world/files, lets build/engine and build/sae compute, prints the main results and writes a page that
shows all of them. Exit status: 0 done, 1 failed (one sentence on standard error says why), 2 wrong command line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from collect import collect
from terminal import Terminal
from tools import DemoError, Tools, read_json

HERE = Path(__file__).resolve().parent
SLOT = "/*DATA*/"


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DemoError(f"{path} cannot be made ({e.strerror})") from e


def write_page(path: Path, data: dict[str, object]) -> None:
    """The template with the data in its place. `<` is escaped, so that no text of the data ends the block."""
    template = (HERE / "page.html").read_text(encoding="utf-8")
    block = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    try:
        path.write_text(template.replace(SLOT, block), encoding="utf-8")
    except OSError as e:
        raise DemoError(f"{path} cannot be written ({e.strerror})") from e


def arguments() -> argparse.Namespace:
    root = HERE.parents[1]
    p = argparse.ArgumentParser(description="Shows what libsae does inside a language model, and writes a page that shows it.")
    p.add_argument("--world", type=Path, default=root / "examples/world/files", help="the folder with the model, SAE and catalog")
    p.add_argument("--build", type=Path, default=root / "build", help="the folder with the programs `engine` and `sae`")
    p.add_argument("--output", "-o", type=Path, help="the page (default: demo.html in the build)")
    p.add_argument("--json", action="store_true", help="print everything that the page shows as one JSON object")
    return p.parse_args()


def main() -> int:
    args = arguments()
    page = args.output or args.build / "demo.html"
    began = time.monotonic()
    try:
        make_folder(page.parent)
        data = collect(Tools(args.build, args.world), read_json(HERE / "texts.json"))
        write_page(page, data)
    except DemoError as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(data, ensure_ascii=False))
    else:
        Terminal(sys.stdout).show(data)
        print(f"\nAll of it, for every concept and dose: {page}  ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
