"""The world's own modules, and its committed files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "world"))


@pytest.fixture(scope="session")
def files() -> Path:
    return ROOT / "examples" / "world" / "files"
