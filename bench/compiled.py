"""The bench's C workers, compiled when they are older than their sources."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wvla", "-Wundef"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", *WARNINGS]
# BLIS has no .pc file; Fedora keeps its header in a folder of its own.
BLIS = [["-DBENCH_BLIS", "-isystem", where, "-lblis", "-lm", "-lpthread"] for where in ("/usr/include", "/usr/include/blis")]


class BuildFailed(Exception):
    pass


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def compile_one(build: Path, name: str, flags: list[str], libraries: list[str]) -> Path:
    out = build / "bench" / name
    sources = [HERE / f"{name}.c", HERE / "worker.c", HERE / "worker.h"]
    newest = max(p.stat().st_mtime for p in [*sources, Path(__file__), *HERE.parent.glob("include/**/*.h")])
    if out.exists() and out.stat().st_mtime > newest:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    argv = [*compiler(), *FLAGS, *flags, *(str(s) for s in sources if s.suffix == ".c"), "-o", str(out), *libraries]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{name}: {done.stderr.strip()}")
    return out


def has_blis_header(flags: list[str]) -> bool:
    argv = [*compiler(), *flags[:3], "-E", "-x", "c", "-"]
    return subprocess.run(argv, input="#include <blis.h>\n", capture_output=True, text=True, check=False).returncode == 0


def compile_all(build: Path) -> tuple[dict[str, Path], bool]:
    """Paths by name, and whether blas_worker has BLIS in it."""
    link = [f"-L{build}", "-lsae", f"-Wl,-rpath,{build}"]
    include = [f"-I{HERE.parent / 'include'}"]
    blis = next((flags for flags in BLIS if has_blis_header(flags)), None)
    made = {
        "sae_worker": compile_one(build, "sae_worker", include, link),
        "first_code": compile_one(build, "first_code", include, link),
        "ceiling_worker": compile_one(build, "ceiling_worker", ["-ffp-contract=fast"], ["-lpthread"]),
        "blas_worker": compile_one(build, "blas_worker", (blis or [])[:3], [*(blis or [])[3:], "-ldl"]),
    }
    return made, blis is not None
