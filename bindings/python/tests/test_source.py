"""The package's own text: lint clean, with the syntax of Python 3.9."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import PACKAGE

import libsae


def test_ruff() -> None:
    pytest.importorskip("ruff")
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(PACKAGE)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_everything_public_has_a_docstring() -> None:
    for name in libsae.__all__:
        thing = getattr(libsae, name)
        if isinstance(thing, str):
            continue
        assert thing.__doc__, name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                assert value.__doc__ or name == "Codes", f"{name}.{member}"
