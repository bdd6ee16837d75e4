"""Builds the wheel: the Python package, the C library, and every library it was linked with that does not belong to libc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HEADER = ROOT / "include" / "sae.h"
LIBC = re.compile(r"(libc|libm|libpthread|libdl|librt|ld-linux.*|linux-vdso|libc\.musl-.*|ld-musl-.*)\.so")


def version() -> list[str]:
    """Major, minor, patch, as the header has them."""
    if not HEADER.exists():
        raise SystemExit(f"{HEADER} is missing: libsae is built from its source tree, pip install ./bindings/python")
    text = HEADER.read_text("utf-8")
    return [re.findall(rf"#define SAE_VERSION_{part} (\d+)", text)[0] for part in ("MAJOR", "MINOR", "PATCH")]


def needed(library: Path) -> dict[str, Path]:
    """Libraries that the loader brings along, apart from those of libc: name and file."""
    out = subprocess.run(["ldd", str(library)], check=True, capture_output=True, text=True).stdout
    missing = re.findall(r"(\S+) => not found", out)
    if missing:
        raise SystemExit(f"{library} needs {', '.join(missing)}, which the loader does not find")
    found = re.findall(r"(\S+) => (/\S+)", out)
    return {name: Path(file) for name, file in found if not LIBC.match(name)}


class BuildLibrary(build_py):
    """The package's files, and libsae.so beside them. It looks for its companions where it lies itself ($ORIGIN)."""

    def run(self) -> None:
        target = HERE / "libsae" if self.editable_mode else Path(self.build_lib) / "libsae"
        for old in target.glob("*"):  # nothing of an earlier build gets in
            if not self.editable_mode or ".so" in old.name:
                old.unlink()
        super().run()
        soname = f"libsae.so.{version()[0]}"
        build = (HERE / self.get_finalized_command("build").build_temp).resolve()
        flags = f"{os.environ.get('LDFLAGS', '')} -Wl,--disable-new-dtags -Wl,-rpath,'$$ORIGIN'"
        command = ["make", "-C", str(ROOT), f"-j{os.cpu_count() or 1}", f"B={build}", f"{build}/{soname}"]
        command += [f"LDFLAGS={flags}", f"CFLAGS={os.environ.get('CFLAGS', '-O2')}"]
        (build / soname).unlink(missing_ok=True)  # make does not know with which flags it was linked
        subprocess.run(command, check=True)
        shutil.copyfile(build / soname, target / soname)
        for name, file in needed(build / soname).items():
            shutil.copyfile(file, target / name)


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: nothing in it depends on the version of Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    version=".".join(version()),
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildLibrary, "bdist_wheel": PlatformWheel},
)
