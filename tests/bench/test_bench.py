"""The bench on a tiny SAE: its workers answer, agree, and are found out when they do not; its tables say what bench.json says."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import cases  # noqa: E402
import compiled  # noqa: E402
import formats  # noqa: E402
import lanes  # noqa: E402
import opening  # noqa: E402
import planted  # noqa: E402
import plots  # noqa: E402
import readme_table  # noqa: E402
import real  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
from cases import NAMES, Group, groups  # noqa: E402

BUILD = Path(os.environ.get("B", "build")).resolve()
ECOSYSTEM = BUILD / "venv-ecosystem" / "bin" / "python"  # not on every machine: torch files are made where it is
D_IN, D_SAE = 96, 1024
KEYS = "case d_in d_sae batch threads impl isa prepared ms_min ms_median roof_fraction rss_mib active survivors dense_rows bits".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def first_code() -> str:
    return str(compiled.compile_all(BUILD)[0]["first_code"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[run.Bench]:
    """The lanes that every machine has: libsae, and NumPy of this environment."""
    made, _ = compiled.compile_all(BUILD)
    root = tmp_path_factory.mktemp("bench")
    (root / "sae").symlink_to(BUILD / "sae")
    bench = run.Bench(argparse.Namespace(build=root, out=None, quick=True, cases=list(NAMES), ecosystem=ECOSYSTEM, real=None))
    bench.ceiling = lanes.Worker(lanes.Lane("ceiling", (str(made["ceiling_worker"]),)))
    numpy = lanes.Lane("numpy", (sys.executable, str(ROOT / "bench" / "peer_worker.py"), "numpy"), cases=lanes.PYTHON_PEERS["numpy"][1])
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


def encode(bench: run.Bench, **other: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of one group by implementation and form."""
    bench.rows.clear()
    bench.run_group(Group(**{"cases": ("encode",), "batch": 3, "threads": 1, "rounds": 2, "turn_ms": 0.1} | other))
    assert bench.faults == []
    return {(r["impl"], r["prepared"]): r for r in bench.rows}


@pytest.mark.parametrize("variant", ["", *planted.VARIANTS])
def test_screened_and_dense_codes_have_the_same_bits(bench: run.Bench, variant: str) -> None:
    got = encode(bench, d_in=256, d_sae=4096, variant=variant)
    screened, dense = got["libsae", "screen"], got["libsae-dense", "panels"]
    assert screened["bits"] == dense["bits"] != None  # noqa: E711
    assert screened["active"] == dense["active"] > 30
    assert screened["dense_rows"] == 0 and dense["dense_rows"] == 1
    assert screened["active"] <= screened["survivors"] < 4096 / 2
    assert dense["survivors"] is None
    assert (screened["roof_fraction"] is None) == (bench.ceilings[-1]["dot8_gops"] is None)
    assert bench.ceilings[-1]["read8_gbs"] > 0
    assert {r["variant"] for r in bench.rows} == {variant}
    assert ("numpy", "none") in got or variant  # the peers of the other activations are those that have them


def test_a_screen_that_is_not_used_is_no_screened_encode(bench: run.Bench) -> None:
    got = encode(bench, d_in=D_IN, d_sae=D_SAE)  # below a million weights
    assert got["libsae", "screen"]["dense_rows"] == 1
    assert got["libsae", "screen"]["survivors"] is None


def test_screened_codes_that_differ_later_are_a_fault(bench: run.Bench) -> None:
    group = Group(("encode",), 256, 4096, 3, 1)
    bench.folder = str(planted.make(bench.build / "bench-data", 256, 4096))
    entries = bench.entries(group)
    for e in entries:
        bench.ask_after(e)
    bench.check(group, entries)
    assert bench.faults == []
    entries[0].counts["bits"] = "dead"
    bench.check(group, entries)
    assert "libsae gives different bits" in bench.faults.pop()


def test_real_rows_go_round(bench: run.Bench, tmp_path: Path) -> None:
    import numpy as np

    data = tmp_path / "data"
    (data / "one").mkdir(parents=True)
    src = planted.make(bench.build / "bench-data", 256, 4096)
    for name in ("cfg.json", "sae_weights.safetensors"):
        (data / "one" / name).symlink_to(src / name)
    rows = np.fromfile(src / "rows.f32", np.float32).reshape(-1, 256)
    np.save(data / "x.npy", np.concatenate([rows * (1 - i / 32) for i in range(4)]))
    one, world = real.find(data)
    assert (one.name, one.d_in, one.d_sae, world.name, world.d_in, world.d_sae) == ("one", 256, 4096, "world-batchtopk", 128, 512)
    for source, screened in ((one, 1), (world, 0)):
        for group in cases.real_groups([source], 1, 0.1):
            bench.rows.clear()
            bench.run_group(group)
            got = {r["impl"]: r for r in bench.rows}
            assert bench.faults == []
            assert set(got) == {"libsae", "libsae-dense", "libsae-always"}
            assert len({r["bits"] for r in bench.rows}) == 1
            assert got["libsae"]["dense_rows"] == 1 - screened
            assert got["libsae-always"]["survivors"] >= got["libsae"]["active"] > 3
        assert f"{source.name}, {source.d_in}x{source.d_sae}, batch 64" in report.real_table(bench.rows)
    with pytest.raises(ValueError, match=r"rows of shape \(7, 256\)"):
        real.make(tmp_path, real.source("short", data / "one", lambda: rows[:7]))


def test_rows_are_whole_blocks(bench: run.Bench) -> None:
    worker = bench.workers[0]
    worker.folder = ""
    worker.ask(f"open {planted.make(bench.build / 'bench-data', D_IN, D_SAE)}")
    with pytest.raises(lanes.Refused, match="100 rows are no whole number of blocks of 64"):
        worker.ask("case 0 encode batch=64 rows=100 prepared=screen")
    with pytest.raises(lanes.Refused, match="no form 'rows'"):
        worker.ask("case 0 encode batch=64 prepared=rows")


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
    made = [t for t in report.targets(bench.rows) if t.reached != "not measured"]
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
    made |= {"prepared": {"libsae": "screen", "libsae-dense": "panels"}.get(impl, "none"), "ms_min": ms, "ms_median": ms}
    made |= {"roof_fraction": 0.9, "active": 64.0, "bits": "b" if impl.startswith("libsae") else None}
    return made | other


def result(rows: list[dict[str, Any]], **machine: Any) -> dict[str, Any]:
    facts = {"architecture": "abacus", "cores_used": 1, "caches": {}, "system": "Linux", "kernel": "1", "date": "1970-01-01"}
    return {"machine": facts | {"quick": False, "faults": [], "skipped": []} | machine, "ceilings": [], "rows": rows}


def verdict(rows: list[dict[str, Any]], against: str, what: str = "exact encode 2304x16384, batch 1") -> bool | None:
    return next(t for t in report.targets(rows) if t.what == what and t.against == against).met


def test_targets_compare_with_the_fastest_fp32_peer() -> None:
    best, roof = report.BEST, "roof of one byte a weight"
    assert verdict([row("libsae")], best) is None
    assert verdict([row("libsae"), row("numpy", ms=2.7), row("torch-bf16", ms=0.1, fp32=False)], best) is True
    assert verdict([row("libsae"), row("numpy", ms=2.7), row("blis@forced", "gemm", ms=2.5)], best) is False
    assert verdict([row("libsae"), row("numpy", ms=2.7), row("blis", "gemm", ms=0.9, threads=2)], best) is True
    assert verdict([row("libsae"), row("numpy", ms=2.7), row("numpy", ms=0.9, variant="topk")], best) is True
    assert verdict([row("libsae", roof_fraction=0.59)], roof) is False
    assert verdict([row("libsae", roof_fraction=0.6)], roof) is True
    assert verdict([row("libsae", roof_fraction=None)], roof) is None


def test_targets_have_other_peers_too() -> None:
    assert verdict([row("libsae"), row("saelens", ms=3.4)], "SAELens") is False
    assert verdict([row("libsae"), row("saelens", ms=3.6)], "SAELens") is True
    bf16 = [row("libsae"), row("torch-bf16", ms=2.5, fp32=False), row("torch-bf16", "gemm", ms=1, fp32=False)]
    assert verdict(bf16, "torch bf16") is True  # a product alone has no codes
    assert verdict([row("libsae"), row("libsae", ms=1.4, batch=8)], "its own batch 1", "exact encode 2304x16384, batch 8") is True
    assert verdict([row("libsae"), row("libsae", ms=1.6, batch=8)], "its own batch 1", "exact encode 2304x16384, batch 8") is False
    dense = [row("libsae"), row("libsae-dense", ms=3), row("libsae-dense", ms=1, prepared="none"), row("numpy", ms=2.9)]
    assert verdict(dense, report.BEST, "dense encode 2304x16384, batch 1") is False
    two = [row("libsae", batch=64, ms=1.8), row("libsae", batch=64, ms=1, threads=2)]
    assert verdict(two, "1 thread", "exact encode 2304x16384, batch 64, 2 threads") is True
    bits = [row("libsae"), row("libsae-dense"), row("libsae", batch=8, bits="c")]
    assert verdict(bits, "each other, bit by bit", "codes of screened and dense encodes") is True
    bits.append(row("libsae-dense", batch=8))
    assert verdict(bits, "each other, bit by bit", "codes of screened and dense encodes") is False
    near = [
        row("libsae", "neighbors", features=10),
        row("faiss", "neighbors", ms=2.9, features=10),
        row("numpy", "neighbors", ms=9, features=10),
    ]
    assert verdict(near, "FAISS IndexFlatIP", "10 nearest rows of 2304x16384") is False
    layers = [row(i, "linear", ms=m, d_sae=d) for i, m, d in (("libsae", 1, 1), ("numpy", 2, 1), ("libsae", 1, 2), ("numpy", 1.1, 2))]
    assert verdict(layers, report.BEST, "linear layer in f32, batch 1, the hardest of 3 sizes") is False


def test_tables() -> None:
    rows = [
        row("libsae", ms=2, survivors=90.0),
        row("libsae-dense", ms=3, prepared="none"),
        row("saelens", ms=9),
        row("libsae-dense", ms=5),
    ]
    rows += [row("openblas@forced", "gemm", ms=4), row("libsae", ms=7, variant="topk", survivors=100.0)]
    rows += [row(i, "probe", ms=m * b, features=n, batch=b) for i, m in (("libsae", 1), ("numpy", 2)) for n, b in ((4, 64), (32, 512))]
    text = report.full(result(rows, faults=["numpy counts wrong"]))
    assert "| libsae (x, screened) | **2 ms, 2.00x, 90%** |" in text
    assert "| libsae-dense (x, straight from the file) | **3 ms, 1.33x, 90%** |" in text
    assert "## Encode topk 2304x16384, 1 thread" in text
    assert "**Fault:** numpy counts wrong." in text
    assert "| jumprelu, 2304x16384, batch 1 | 64.0 | 90 (0.5%) | 2 ms | 90% | 2.50x |" in text
    assert "| features | 64 rows | 512 rows |" in text
    assert "| 32 | – | 1 ms, 2.0x |" in text
    assert "batch 512, 32 features" not in text  # not everybody ran it
    assert "| encode 2304x16384, batch 1 | 2 ms | 9 ms, 4.5x | 4 ms (openblas), 2.0x | – |" in report.readme(result(rows))


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
    everything = groups(4, set(NAMES), False, real.find(None))
    assert {c for g in everything for c in g.cases} == set(NAMES) - {"open"}
    assert {g.cases for g in groups(1, {"steer"}, True, [])} == {("steer",)}
    encodes = groups(4, {"encode"}, False, [])
    assert {(g.threads, g.variant) for g in encodes} == {(1, ""), (4, ""), (1, "topk"), (1, "gated")}
    assert {(g.features, g.batch) for g in everything if g.cases == ("steer",)} == {
        (n, b) for n in cases.GRID_FEATURES for b in cases.GRID_BATCHES
    }
    assert len({(g.cases, g.d_in, g.d_sae, g.batch, g.threads, g.features, g.variant) for g in everything}) == len(everything)


def test_plots(tmp_path: Path) -> None:
    rows = [row(i, ms=m * b**0.7, batch=b) for i, m in (("libsae", 1), ("libsae-dense", 5), ("saelens", 7)) for b in (1, 8, 64, 512)]
    rows += [row("torch-bf16", ms=4 * b, batch=b, fp32=False) for b in (1, 8)] + [row("libsae", ms=99, batch=1, threads=2)]
    drawn = plots.svg(result(rows), 2304, 16384)
    assert drawn == plots.svg(result(rows), 2304, 16384)
    assert plots.svg(result(rows), 768, 24576) is None
    root = ElementTree.fromstring(drawn or "")
    names = [t.text for t in root.findall(".//{*}text") if t.get("class") == "ink"]
    assert sorted(names) == sorted(plots.COLOURS)  # SAELens is the best fp32 peer too
    places = sorted(float(t.get("y", "")) for t in root.findall(".//{*}text") if t.get("class") == "ink")
    assert all(b - a >= plots.NAME_GAP - 0.11 for a, b in zip(places, places[1:]))
    assert len(list(root.findall(".//{*}circle"))) == 4 * 4 + 2
    assert "prefers-color-scheme:dark" in (drawn or "")
    assert all(0 < float(t.get("x", "")) < plots.WIDTH and 0 < float(t.get("y", "")) < plots.HEIGHT for t in root.findall(".//{*}text"))


def test_names_of_lines_are_moved_apart() -> None:
    assert plots.spread([10, 50, 90], 17, 0, 100) == [10, 50, 90]
    assert plots.spread([50, 50, 50], 10, 0, 100) == [50, 60, 70]
    assert plots.spread([90, 95, 99], 10, 0, 100) == [80, 90, 100]
    assert plots.spread([], 10, 0, 100) == []
    assert plots.ticks(0.11, 9) == [0.1, 0.2, 0.5, 1, 2, 5, 10]


def test_roofs() -> None:
    few, many = (Group(("encode",), 1000, 1000, batch, 1) for batch in (8, 64))
    top = cases.Ceilings(read_gbs=10, fma_gflops=100, read8_gbs=20, dot8_gops=400)
    assert [few.roof_ms("encode", top, b) for b in (4, 2, 1)] == pytest.approx([0.4, 0.2, 0.05])
    assert [many.roof_ms("encode", top, b) for b in (4, 1)] == pytest.approx([1.28, 0.32])
    assert many.roof_ms("encode", top, 2) is None  # nobody measured products of bf16
    assert few.roof_ms("encode", cases.Ceilings(10, 100, 20, 0), 1) is None
    assert Group(("neighbors",), 1000, 1000, 1, 1).roof_ms("neighbors", top, 4) == pytest.approx(0.4)
    assert Group(("decode",), 1000, 1000, 64, 1).roof_ms("decode", top, 4) is None


def test_an_encode_that_was_mostly_dense_has_the_roof_of_one(bench: run.Bench) -> None:
    entry = run.Entry(bench.workers[0], "encode", 0, "")
    assert (entry.weight_bytes, entry.survivors, entry.dense_rows) == (4, None, None)
    entry.counts = {"screened": "30", "dense": "10", "candidates": "600", "active": "90", "bits": "b"}
    assert (entry.weight_bytes, entry.survivors, entry.dense_rows) == (1, 20, 0.25)
    entry.counts |= {"dense": "30"}
    assert entry.weight_bytes == 4
