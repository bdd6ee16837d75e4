"""Which library is loaded, and that one of another version is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import PACKAGE, compile_c

import libsae
from libsae import _abi

STUB = "#include <stdint.h>\nuint32_t sae_version(void);\nuint32_t sae_version(void) {{ return {}u << 16 | {}u << 8 | {}u; }}\n"
MAJOR, MINOR, PATCH = _abi.SAE_VERSION_MAJOR, _abi.SAE_VERSION_MINOR, _abi.SAE_VERSION_PATCH


def stub(folder: Path, major: int, minor: int, patch: int) -> Path:
    return compile_c(STUB.format(major, minor, patch), folder / "libstub.so", "-shared", "-fPIC")


def import_with(library: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LIBSAE_LIBRARY": str(library), "PYTHONPATH": str(PACKAGE)}
    code = "import libsae; print(libsae.library)"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_this_one_is_the_one_asked_for() -> None:
    assert libsae.__version__ == f"{MAJOR}.{MINOR}.{PATCH}"
    run = import_with(libsae.library)
    assert run.stdout.strip() == libsae.library, run.stderr


def test_other_versions_are_refused_with_both_named(tmp_path: Path) -> None:
    for major, minor in ((MAJOR, MINOR + 1), (MAJOR + 1, MINOR)):
        run = import_with(stub(tmp_path, major, minor, 7))
        assert run.returncode == 1
        assert "ImportError" in run.stderr
        assert f"is of version {libsae.__version__}" in run.stderr
        assert f"libstub.so (named by the environment variable LIBSAE_LIBRARY) is libsae {major}.{minor}.7" in run.stderr
        assert "reinstall" in run.stderr


def test_another_patch_is_welcome_but_must_be_whole(tmp_path: Path) -> None:
    run = import_with(stub(tmp_path, MAJOR, MINOR, PATCH + 9))
    assert run.returncode == 1
    assert f"lacks {next(n for n in _abi.FUNCTIONS if n != 'sae_version')}" in run.stderr


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "libsae.so.0"
    text.write_text("not a library")
    other = compile_c("int sae_nothing; ", tmp_path / "libother.so", "-shared", "-fPIC")
    for library, words in ((text, "was not found"), (tmp_path / "gone.so", "was not found"), (other, "has no sae_version")):
        run = import_with(library)
        assert run.returncode == 1
        assert "ImportError" in run.stderr
        assert words in run.stderr
        assert library.name in run.stderr


def test_import_starts_no_threads_and_needs_no_torch() -> None:
    env = {**os.environ, "LIBSAE_LIBRARY": libsae.library, "PYTHONPATH": str(PACKAGE)}
    code = "import os, sys, numpy; n = len(os.listdir('/proc/self/task')); import libsae; "
    code += "assert len(os.listdir('/proc/self/task')) == n; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
