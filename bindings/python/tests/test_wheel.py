"""`pip install ./bindings/python` gives a package that stands alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE, compile_c

import libsae

LIBC = ("libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "ld-linux", "linux-vdso", "libc.musl", "ld-musl")
SONAME = f"libsae.so.{libsae.__version__.split('.')[0]}"


def install(folder: Path, **more: str) -> Path:
    """Installs it there, with the setuptools of this Python: no network is needed."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LIBSAE", "LD_", "MAKE", "MFLAGS"))}
    run = subprocess.run([*pip, "--target", str(folder), str(PACKAGE)], env={**env, **more}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


def outside(site: Path, code: str) -> str:
    """Runs Python that sees the installed package and nothing of this tree."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LIBSAE", "LD_"))}
    env["PYTHONPATH"] = str(site)
    run = subprocess.run([sys.executable, "-c", code], cwd="/", env=env, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def test_tag_and_metadata(site: Path) -> None:
    (info,) = site.glob("libsae-*.dist-info")
    assert info.name == f"libsae-{libsae.__version__}.dist-info"
    tag = re.findall(r"^Tag: (.*)$", (info / "WHEEL").read_text(), re.MULTILINE)
    assert len(tag) == 1
    assert re.fullmatch(r"py3-none-linux_\w+", tag[0])
    metadata = (info / "METADATA").read_text()
    assert re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE) == ["numpy", 'huggingface_hub>=0.30; extra == "hub"']
    assert "Requires-Python: >=3.9" in metadata
    assert (site / "libsae" / "py.typed").exists()
    assert {p.name for p in (site / "libsae").glob("*.py")} == {p.name for p in (PACKAGE / "libsae").glob("*.py")}


def needed(file: Path) -> list[str]:
    """Libraries that a file names, apart from those of libc."""
    dynamic = subprocess.run(["readelf", "-d", str(file)], check=True, capture_output=True, text=True).stdout
    return [name for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic) if not name.startswith(LIBC)]


def check_closed(folder: Path) -> set[str]:
    """Everything that the library and its companions need lies beside it, and the loader takes it from there."""
    lib = folder / "libsae" / SONAME
    dynamic = subprocess.run(["readelf", "-d", str(lib)], check=True, capture_output=True, text=True).stdout
    assert re.search(r"\(RPATH\).*\[\$ORIGIN\]", dynamic), dynamic
    assert re.search(rf"\(SONAME\).*\[{re.escape(SONAME)}\]", dynamic), dynamic
    names = {name for file in lib.parent.glob("*.so*") for name in needed(file)}
    resolved = subprocess.run(["ldd", str(lib)], check=True, capture_output=True, text=True).stdout
    assert "not found" not in resolved
    where = dict(re.findall(r"(\S+) => (/\S+)", resolved))
    for name in names:
        assert Path(where[name]).parent.resolve() == lib.parent.resolve(), f"{name} comes from {where[name]}"
    assert {name for name in where if not name.startswith(LIBC)} == names
    return names


def test_it_carries_every_library_that_is_not_of_libc(site: Path) -> None:
    carried = {p.name for p in (site / "libsae").glob("*.so*")}
    assert carried == check_closed(site) | {SONAME}


def test_a_library_more_is_carried_too(site: Path, tmp_path: Path) -> None:
    """Whoever links the C library with something else, here by LDFLAGS, gets a wheel that carries that."""
    more = compile_c("int more = 3;\n", tmp_path / "libmore.so", "-shared", "-fPIC", "-Wl,-soname,libmore.so.3")
    (tmp_path / "libmore.so.3").symlink_to(more)
    flags = f"-L{tmp_path} -Wl,--no-as-needed -lmore"
    bigger = install(tmp_path / "site", LDFLAGS=flags, LD_LIBRARY_PATH=str(tmp_path))
    assert check_closed(bigger) - check_closed(site) == {"libmore.so.3"}
    assert not (bigger / "libsae" / "libmore.so.3").is_symlink()
    outside(bigger, "import libsae")


def test_it_works_outside_of_the_tree(site: Path, golden: Path) -> None:
    code = f"import libsae; print(libsae.library); print(libsae.open({str(golden / 'saelens' / 'topk')!r}).info['architecture'])"
    where, architecture = outside(site, code).splitlines()
    assert Path(where) == site / "libsae" / SONAME
    assert architecture == "topk"
