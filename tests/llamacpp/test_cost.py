"""The cost of watching and clamping stays small: what cost.py measures, on a few tokens, with bounds that a busy machine keeps too."""

from __future__ import annotations

import ctypes
from pathlib import Path

import cost
from conftest import WORLD


def test_cost_on_small_tokens(library: ctypes.CDLL, world: Path) -> None:
    base, more = cost.measure(library, world, WORLD / "sae", 2, 200, 4)
    print(cost.said(base, more))
    assert max(more) < 8


def test_cost_on_a_model_of_a_hundred_megabytes(library: ctypes.CDLL, tmp_path: Path) -> None:
    gguf = cost.write_model(tmp_path / "m.gguf", cost.convert.Shape(768, 2048, 4, 12, 6, 6692, 256))
    assert gguf.stat().st_size >= 100_000_000
    base, more = cost.measure(library, gguf, cost.write_sae(tmp_path / "sae", 768, 2048), 2, 100, 1)
    print(cost.said(base, more))
    assert max(more) < 3
