"""What the tests share: the compiler, the fixtures of tests/golden, and SAEs with a float64 evaluation beside them."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "bindings" / "python"
GOLDEN = ROOT / "tests" / "golden"


def compile_c(source: str, output: Path, *flags: str) -> Path:
    """Compiles a C text of a test."""
    file = output.with_suffix(".c")
    file.write_text(source, "utf-8")
    cc = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*cc, "-std=c11", f"-I{ROOT / 'include'}", *flags, "-o", str(output), str(file)], check=True)
    return output


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN
