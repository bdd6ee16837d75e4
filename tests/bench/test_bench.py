"""The bench on a tiny SAE: its workers answer, agree, and are found out when they do not; its tables say what bench.json says."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import compiled  # noqa: E402
import formats  # noqa: E402
import lanes  # noqa: E402
import opening  # noqa: E402
import planted  # noqa: E402
import readme_table  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
from cases import NAMES, Group, groups  # noqa: E402

BUILD = Path(os.environ.get("B", "build")).resolve()
ECOSYSTEM = BUILD / "venv-ecosystem" / "bin" / "python"  # not on every machine: torch files are made where it is
D_IN, D_SAE = 96, 1024
KEYS = "case d_in d_sae batch threads impl isa prepared ms_min ms_median roof_fraction rss_mib".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def first_code() -> str:
    return str(compiled.compile_all(BUILD)[0]["first_code"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[run.Bench]:
    """The lanes that every machine has: libsae, and NumPy of this environment."""
    made, _ = compiled.compile_all(BUILD)
    root = tmp_path_factory.mktemp("bench")
    (root / "sae").symlink_to(BUILD / "sae")
    bench = run.Bench(argparse.Namespace(build=root, out=None, quick=True, cases=list(NAMES), ecosystem=ECOSYSTEM))
    bench.ceiling = lanes.Worker(lanes.Lane("ceiling", (str(made["ceiling_worker"]),)))
    numpy = lanes.Lane("numpy", (sys.executable, str(ROOT / "bench" / "peer_worker.py"), "numpy"))
    for lane in [*lanes.libsae_lanes(made["sae_worker"], lanes.best_isa()), numpy]:
        bench.workers.append(lanes.Worker(lane))
        bench.workers[-1].hello()
    yield bench
    bench.stop()


@pytest.mark.parametrize("case", ["encode", "decode", "probe", "steer", "neighbors", "linear"])
def test_every_case_gives_rows(bench: run.Bench, case: str) -> None:
    bench.rows.clear()
    bench.run_group(Group((case, "gemm") if case == "encode" else (case,), D_IN, D_SAE, 3, 1, features=4, rounds=2, turn_ms=0.1))
    assert bench.faults == []
    assert {"libsae", "numpy"} <= {r["impl"] for r in bench.rows}
    for row in bench.rows:
        assert all(k in row for k in KEYS)
        assert 0 < row["ms_min"] <= row["ms_median"]
        assert (row["roof_fraction"] is not None) == (row["case"] in ("encode", "gemm", "neighbors", "linear"))
    assert json.loads(json.dumps(bench.rows)) == bench.rows


def test_a_peer_that_computes_something_else_is_a_fault(bench: run.Bench) -> None:
    group = Group(("encode",), D_IN, D_SAE, 3, 1)
    bench.folder = str(planted.make(bench.build / "bench-data", D_IN, D_SAE))
    entries = bench.entries(group)
    bench.check(group, entries)
    assert bench.faults == []
    assert entries[0].count > 3 * 32
    entries[0].count *= 1.5
    entries[0].bits = "dead"
    bench.check(group, entries)
    assert any("finds" in f for f in bench.faults)
    assert any("different bits" in f for f in bench.faults)
    bench.faults.clear()


def test_refusals_and_deaths_have_reasons(bench: run.Bench) -> None:
    worker = lanes.Worker(bench.workers[0].lane)
    for request, why in (
        ("case 0 knit batch=1", "no case knit"),
        ("turn 3 1", "not set up"),
        ("open /nowhere", "sae_model_open"),
        ("sing", "unknown request: sing"),
    ):
        with pytest.raises(lanes.Refused, match=why):
            worker.ask(request)
    worker.close()
    dead = lanes.Worker(lanes.Lane("dead", (sys.executable, "-c", "raise SystemExit('no luck')")))
    with pytest.raises(lanes.Refused, match="ended with status 1 at 'hello': no luck"):
        dead.hello()
    dead.close()


def test_planted_features_fire(tmp_path: Path) -> None:
    weights, rows = planted.plant(D_IN, D_SAE, seed=1)
    fires = rows @ weights["W_enc"] + weights["b_enc"] > weights["threshold"]
    assert abs(fires.sum(axis=1).mean() - planted.ACTIVE) < 0.1
    again, _ = planted.plant(D_IN, D_SAE, seed=1)
    assert all((again[name] == w).all() for name, w in weights.items())
    sparse = planted.make(tmp_path, 64, 4096, sparse=True) / "sae_weights.safetensors"
    assert sparse.stat().st_blocks * 512 < sparse.stat().st_size / 4


@pytest.mark.parametrize("fmt", formats.ALL, ids=lambda f: f.name)
def test_every_format_gives_the_first_code(bench: run.Bench, first_code: str, fmt: formats.Format) -> None:
    src = planted.make(bench.build / "bench-data", D_IN, D_SAE)
    tools = formats.Tools(bench.build / "sae", bench.ecosystem)
    try:
        folder = formats.make(fmt, src, tools)
    except formats.Missing as e:
        assert "torch" in str(e) and not bench.ecosystem
        pytest.skip(str(e))
    argv = (first_code, str(folder / fmt.file), str(src / "rows.f32"))
    start = opening.Start("libsae", fmt.name, argv, formats.first_of(folder))
    assert start.first[1] > 0
    assert opening.take_turn(bench, start), bench.faults
    assert start.times[0] > 0
    assert start.mib > 0.5


def test_opening_gives_rows(bench: run.Bench, first_code: str) -> None:
    bench.rows.clear()
    opening.run(bench, Path(first_code), D_IN, D_SAE)
    opening.run_huge(bench, Path(first_code), 64, 4096)
    assert bench.faults == []
    ours = {r["variant"]: r for r in bench.rows if r["impl"] == "libsae"}
    torch = {"dictionary_learning", "dictionary_learning-legacy"} if not bench.ecosystem else set()
    assert set(ours) == {"", "probe", "probe-cold", *(f.name for f in formats.ALL if not f.slow)} - torch
    assert [r["variant"] for r in bench.rows if r["impl"] == "numpy"] == [""]
    for r in bench.rows:
        assert all(k in r for k in KEYS)
        assert r["case"] == "open"
        assert 0 < r["ms_min"] <= r["ms_median"]
        assert (r["features"] == 1) == r["variant"].startswith("probe")
    assert ours["probe"]["rss_mib"] < 64
    made = [t for t in report.targets(bench.rows) if t.got != "not measured"]
    assert any("whatever format" in t.what for t in made)
    assert sum("one feature" in t.what for t in made) == 2
    assert "one feature of 64x4096, in the page cache" in report.full(result(bench.rows))


@pytest.mark.parametrize(
    ("line", "why"), [("", "no code"), ("7", "no code"), ("8 64", "finds feature 8 first, not 7"), ("7 63.9", "gives 63.9, not 64")]
)
def test_a_wrong_first_code_is_a_fault(bench: run.Bench, line: str, why: str) -> None:
    start = opening.Start("libsae", "probe", (sys.executable, "-c", f"print({line!r}); print(0)"), (7, 64))
    assert not opening.take_turn(bench, start)
    assert why in bench.faults.pop()
    assert bench.faults == []


def test_bf16_is_rounded_to_even() -> None:
    import numpy as np

    a = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.5], np.float32)  # two ties, one above a tie, exact
    assert formats.from_bf16(formats.to_bf16(a)).tolist() == [1, 1 + 2**-6, 1 + 2**-7, -2.5]


def row(impl: str, case: str = "encode", ms: float = 1.0, **other: Any) -> dict[str, Any]:
    made = dict.fromkeys(KEYS) | {"features": None, "variant": "", "fp32": True, "version": "1", "runs": 1}
    made |= {"case": case, "impl": impl, "d_in": 2304, "d_sae": 16384, "batch": 1, "threads": 1, "isa": "x", "rss_mib": 1.0}
    made |= {"prepared": "panels" if impl == "libsae" else "none", "ms_min": ms, "ms_median": ms, "roof_fraction": 0.9}
    return made | other


def result(rows: list[dict[str, Any]], **machine: Any) -> dict[str, Any]:
    facts = {"architecture": "abacus", "cores_used": 1, "caches": {}, "system": "Linux", "kernel": "1", "date": "1970-01-01"}
    return {"machine": facts | {"quick": False, "faults": [], "skipped": []} | machine, "ceilings": [], "rows": rows}


def verdict(rows: list[dict[str, Any]]) -> bool | None:
    return next(t for t in report.targets(rows) if t.what == "encode 2304x16384, batch 1, one thread").met


def test_targets_compare_with_the_fastest_fp32_peer() -> None:
    assert verdict([row("libsae")]) is None
    assert verdict([row("libsae"), row("numpy", ms=1.1), row("torch-bf16", ms=0.1, fp32=False)]) is True
    assert verdict([row("libsae"), row("numpy", ms=1.1), row("blis@forced", "gemm", ms=0.9)]) is False
    assert verdict([row("libsae"), row("numpy", ms=1.1), row("blis", "gemm", ms=0.9, threads=2)]) is True
    assert verdict([row("libsae", roof_fraction=0.8), row("numpy", ms=1.1)]) is False


def test_tables() -> None:
    rows = [row("libsae", ms=2), row("libsae", ms=3, prepared="none"), row("saelens", ms=9), row("openblas@forced", "gemm", ms=4)]
    text = report.full(result(rows, faults=["numpy counts wrong"]))
    assert "| libsae (x, panels) | **2 ms, 2.00x, 90%** |" in text
    assert "**Fault:** numpy counts wrong." in text
    assert "| encode 2304x16384, batch 1 | 2 ms | 9 ms | 4 ms (openblas) |" in report.readme(result(rows))


def test_marks_are_replaced_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n")
    assert not readme_table.put(page, "new", check=True)
    assert not readme_table.put(page, "new", check=False)
    assert readme_table.put(page, "new", check=True)
    assert page.read_text() == "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        readme_table.put(page, "new", check=False)


def test_groups_cover_what_was_asked() -> None:
    assert {c for g in groups(4, set(NAMES), False) for c in g.cases} == set(NAMES) - {"open"}
    assert [g.cases for g in groups(1, {"steer"}, True)] == [("steer",), ("steer",)]
    assert {g.threads for g in groups(4, {"encode"}, False)} == {1, 4}
