"""torch is for libsae.saelens alone, which says so where it is not there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_without_torch_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "libsae.saelens", raising=False)
    with pytest.raises(ImportError, match=r"^libsae\.saelens needs torch, .*pip install torch"):
        importlib.import_module("libsae.saelens")


def test_the_package_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run([sys.executable, "-c", "import libsae"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
