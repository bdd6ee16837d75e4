"""The engine, built as a stranger would: libsae installed under a prefix of its own, flags from pkg-config, sources out of the tree."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "world"))

FLAGS = "-std=c11 -O2 -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror"
SANITIZE = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"


def _said(*command: str, env: dict[str, str] | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=env).stdout


class Builds(dict[str, Path]):
    """Programs by name, each built when it is first asked for: the engine as it is, one with sanitizers for hostile files, and embed.c,
    with sanitizers too."""

    def __init__(self, folder: Path, flags: list[str]) -> None:
        super().__init__()
        self._folder, self._flags = folder, flags

    def __missing__(self, name: str) -> Path:
        sources = sorted(str(p) for p in (self._folder / "src").glob("*.c") if name != "embed" or p.name != "main.c")
        if name == "embed":
            sources += [str(ROOT / "tests" / "engine" / "embed.c"), f"-I{self._folder / 'src'}"]
        cc = shlex.split(os.environ.get("CC", "cc"))
        more = [] if name == "plain" else shlex.split(SANITIZE)
        subprocess.run([*cc, *shlex.split(FLAGS), *more, "-o", str(self._folder / name), *sources, *self._flags], check=True)
        self[name] = self._folder / name
        return self[name]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    folder = tmp_path_factory.mktemp("engine")
    prefix = folder / "usr"
    _said(os.environ.get("MAKE", "make"), "-s", "install", f"B={os.environ.get('B', 'build')}", f"prefix={prefix}", "DESTDIR=")
    env = {**os.environ, "PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig:{os.environ.get('PKG_CONFIG_PATH', '')}"}
    pkg = os.environ.get("PKG_CONFIG", "pkg-config")
    flags = _said(pkg, "--cflags", "--libs", "sae", "jansson", env=env).split()
    libdir = _said(pkg, "--variable=libdir", "sae", env=env).strip()
    shutil.copytree(ROOT / "examples" / "engine", folder / "src")
    return Builds(folder, [*flags, "-lm", f"-Wl,-rpath,{libdir}"])
