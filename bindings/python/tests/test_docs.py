"""The Python of the documentation runs as it stands, and everything public says what it is."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

import libsae


@pytest.mark.parametrize("page", ["python.md", "quickstart.md"])
def test_blocks_run_one_after_the_other(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_everything_public_has_a_docstring() -> None:
    for name in libsae.__all__:
        thing = getattr(libsae, name)
        if isinstance(thing, str):
            continue
        assert thing.__doc__, name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                assert value.__doc__, f"{name}.{member}"
