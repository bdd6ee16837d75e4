"""The generated declarations: up to date, refusing what they cannot express, and of the very layout that C has."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PACKAGE, ROOT, compile_c

from libsae import _abi

GEN = [sys.executable, str(PACKAGE / "gen.py")]


def run_gen(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GEN, *args], capture_output=True, text=True)


def test_committed_file_matches_the_headers() -> None:
    run = run_gen("--check")
    assert run.returncode == 0, run.stdout + run.stderr


def test_check_notices_a_change(tmp_path: Path) -> None:
    text = (PACKAGE / "libsae" / "_abi.py").read_text("utf-8")
    changed = tmp_path / "_abi.py"
    changed.write_text(text.replace("SAE_E_BUSY = -9", "SAE_E_BUSY = -8"), "utf-8")
    run = run_gen("--check", "--output", str(changed))
    assert run.returncode == 1
    assert "+SAE_E_BUSY = -9" in run.stdout
    assert "does not match the headers" in run.stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("typedef union sae_u { int32_t a; float b; } sae_u;", "no form"),
        ("typedef struct sae_s { int32_t a, b; } sae_s;", "a,"),
        ("typedef struct sae_s { int32_t a : 3; } sae_s;", "a :"),
        ("typedef struct sae_s { long a; } sae_s;", "'long' is not declared"),
        ("enum { SAE_A = 1 << 3 };", "SAE_A = 1 << 3"),
        ("enum { SAE_A };", "SAE_A"),
        ("int32_t sae_unexported(void);", "no form"),
        ('__attribute__((visibility("default"))) int32_t sae_f(int32_t);', "a type and a name"),
        ('__attribute__((visibility("default"))) int32_t sae_f(float **rows);', "2 stars"),
        ('__attribute__((visibility("default"))) int32_t sae_f(const char *format, ...);', "..."),
        ("static inline int32_t sae_f(void) { return 1; }", "does not end"),
        ("typedef struct sae_s { struct { int32_t a; } inner; } sae_s;", "sae_s"),
    ],
)
def test_grammar_stops_at_what_it_cannot_express(tmp_path: Path, text: str, why: str) -> None:
    header = tmp_path / "sae.h"
    header.write_text(f"#include <stdint.h>\n\n{text}\n", "utf-8")
    output = tmp_path / "out.py"
    run = run_gen("--header", str(header), "--output", str(output))
    assert run.returncode == 1
    assert "sae.h:3: cannot read" in run.stderr
    assert why in run.stderr
    assert not output.exists()


def structures() -> list[type[ctypes.Structure]]:
    classes = [c for c in vars(_abi).values() if isinstance(c, type) and issubclass(c, ctypes.Structure)]
    return [c for c in classes if c is not ctypes.Structure]


def test_layout_is_the_one_of_c(tmp_path: Path) -> None:
    lines = []
    for s in structures():
        lines.append(f'printf("{s.__name__} %zu\\n", sizeof({s.__name__}));')
        lines += [f'printf("{s.__name__}.{f[0]} %zu\\n", offsetof({s.__name__}, {f[0]}));' for f in s._fields_]
    names = [n for n, v in vars(_abi).items() if n.startswith("SAE_") and isinstance(v, int)]
    lines += [f'printf("{n} %lld\\n", (long long){n});' for n in names]
    source = "#include <sae.h>\n#include <stdio.h>\nint main(void)\n{\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    program = compile_c(source, tmp_path / "layout")
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    said = dict(line.split() for line in printed.splitlines())
    expected = {name: getattr(_abi, name) for name in names}
    for s in structures():
        expected[s.__name__] = ctypes.sizeof(s)
        expected.update({f"{s.__name__}.{f[0]}": getattr(s, f[0]).offset for f in s._fields_})
    assert len(structures()) >= 11
    assert len(names) >= 60
    assert {name: int(value) for name, value in said.items()} == expected


def test_every_function_of_the_symbol_map_is_declared() -> None:
    text = (ROOT / "lib" / "libsae.map").read_text("utf-8")
    mapped = {line.strip().rstrip(";") for line in text.splitlines() if line.strip().startswith("sae_")}
    assert set(_abi.FUNCTIONS) == mapped
