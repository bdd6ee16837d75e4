"""Tables for people from bench.json."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import formats

Row = dict[str, Any]
Result = dict[str, Any]

PRODUCT = ("encode", "gemm")
OPENED = {"": "SAELens safetensors, f32", **{f.name: f.what for f in formats.ALL}}  # variants of the case open
SLOW = {f.name for f in formats.ALL if f.slow}
PROBED = {"probe": "one feature of {}, in the page cache", "probe-cold": "one feature of {}, not in the page cache"}


def ours(row: Row) -> bool:
    return bool(row["impl"].startswith("libsae"))


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields are as wanted; a tuple allows several values."""

    def fits(row: Row) -> bool:
        return all(row[k] in v if isinstance(v, tuple) else row[k] == v for k, v in wanted.items())

    return [row for row in rows if fits(row)]


def fastest(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda r: r["ms_min"], default=None)


def fastest_peer(rows: list[Row], like: Row) -> Row | None:
    """The fastest fp32 peer at the same work. For encode the raw product of a BLAS counts as a peer, although it has neither bias nor
    threshold: nothing in fp32 may be faster and go unmentioned."""
    case = PRODUCT if like["case"] in PRODUCT else like["case"]
    same = {k: like[k] for k in ("d_in", "d_sae", "batch", "threads", "features", "variant")}
    return fastest([r for r in select(rows, case=case, fp32=True, **same) if not ours(r)])


def ms(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    if value < 0.1:
        return f"{value * 1000:.3g} µs"
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def label(row: Row) -> str:
    prepared = {"panels": ", panels", "packed": ", packed", "rows": ", by rows", "none": ""}[row["prepared"]]
    if row["impl"].startswith("libsae") and row["case"] == "encode" and row["prepared"] == "none":
        prepared = ", straight from the file"
    product = " product alone" if row["case"] == "gemm" else ""
    return f"{row['impl']} ({row['isa']}{prepared}){product}"


# ---- targets ----


@dataclass
class Target:
    what: str
    wanted: str
    got: str
    met: bool | None  # None: not measured in this run


def encode_target(rows: list[Row], d_in: int, d_sae: int, batch: int, ratio: float, roof: float | None) -> Target:
    what = f"encode {d_in}x{d_sae}, batch {batch}, one thread"
    wanted = f"≥ {ratio:g}x the fastest fp32 peer" + (f", ≥ {roof:.0%} of the roof" if roof else "")
    row = fastest(select(rows, case="encode", d_in=d_in, d_sae=d_sae, batch=batch, threads=1, impl="libsae", prepared="panels"))
    peer = fastest_peer(rows, row) if row else None
    if not row or not peer:
        return Target(what, wanted, "not measured", None)
    got = peer["ms_min"] / row["ms_min"]
    met = got >= ratio and (roof is None or row["roof_fraction"] >= roof)
    return Target(what, wanted, f"{got:.2f}x ({label(peer)}), {row['roof_fraction']:.0%} of the roof", met)


def limit_target(rows: list[Row], what: str, limit_ms: float, per_row: bool = False, **wanted: Any) -> Target:
    row = fastest(select(rows, impl="libsae", **wanted))
    unit = " a row" if per_row else ""
    if not row:
        return Target(what, f"≤ {ms(limit_ms)}{unit}", "not measured", None)
    got = row["ms_median"] / (row["batch"] if per_row else 1)
    return Target(what, f"≤ {ms(limit_ms)}{unit}", f"{ms(got)}{unit}", got <= limit_ms)


def decode_target(rows: list[Row], batch: int) -> Target:
    what, wanted = f"decode of 64 active features, batch {batch}", "≥ 50x SAELens' dense decode"
    row = fastest(select(rows, case="decode", impl="libsae", batch=batch, threads=1))
    peer = fastest(select(rows, case="decode", impl="saelens", batch=batch, threads=1))
    if not row or not peer:
        return Target(what, wanted, "not measured", None)
    got = peer["ms_min"] / row["ms_min"]
    return Target(what, wanted, f"{got:.0f}x", got >= 50)


def create_targets(rows: list[Row]) -> list[Target]:
    what = "creating a probe of one feature of a 2.4 GB file, cold"
    out = [limit_target(rows, what, 50, case="probe", variant="create")]
    return [*out, growth_target(fastest(select(rows, case="probe", variant="create", impl="libsae")))]


def opening_targets(rows: list[Row]) -> list[Target]:
    """The slowest format must keep the time as well; one feature of a large file must cost neither time nor memory."""
    what, limit = "… of whatever format it is stored in", 60
    quick = [r for r in select(rows, case="open", impl="libsae", features=None) if r["variant"] not in SLOW]
    slowest = max(quick, key=lambda r: r["ms_median"], default=None) if any(r["variant"] for r in quick) else None
    got = f"{ms(slowest['ms_median'])} ({slowest['variant'] or 'saelens'})" if slowest else "not measured"
    out = [Target(what, f"≤ {ms(limit)}", got, slowest["ms_median"] <= limit if slowest else None)]
    for variant, text in (("probe", "in the page cache"), ("probe-cold", "cold")):
        out.append(limit_target(rows, f"process start to one feature of a 2.4 GB file, {text}", 50, case="open", variant=variant))
    return [*out, growth_target(fastest(select(rows, case="open", variant="probe", impl="libsae")))]


def growth_target(row: Row | None) -> Target:
    got = f"{row['rss_mib']:.1f} MiB" if row else "not measured"
    return Target("… what it adds to the resident set", "< 64 MiB", got, row["rss_mib"] < 64 if row else None)


def targets(rows: list[Row]) -> list[Target]:
    out = []
    for d_in, d_sae in ((768, 24576), (2304, 16384)):
        for batch, ratio, roof in ((1, 0.95, 0.85), (8, 2.0, None), (64, 1.2, None), (512, 0.95, 0.85)):
            out.append(encode_target(rows, d_in, d_sae, batch, ratio, roof))
    out.append(limit_target(rows, "process start to the first code, 2304x16384", 100, case="open", variant=""))
    out += opening_targets(rows)
    out += [decode_target(rows, batch) for batch in (1, 64)]
    out.append(limit_target(rows, "steering 4 features, batch 64", 0.005, per_row=True, case="steer", batch=64))
    out.append(limit_target(rows, "steering 4 features, a lone row", 0.012, per_row=True, case="steer", batch=1))
    return out + create_targets(rows)


# ---- tables ----


def table(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(head))) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in body)])


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: "–"}[met]


def targets_table(rows: list[Row]) -> str:
    return table(["target", "wanted", "measured", ""], [[t.what, t.wanted, t.got, verdict(t.met)] for t in targets(rows)])


def encode_table(rows: list[Row], d_in: int, d_sae: int, threads: int) -> str:
    mine = [r for r in select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae, threads=threads) if r["impl"] != "libsae-dense"]
    batches = sorted({r["batch"] for r in mine})
    names: list[str] = []
    cells: dict[tuple[str, int], Row] = {}
    for row in mine:
        names += [label(row)] if label(row) not in names else []
        cells[label(row), row["batch"]] = row
    body = [[name, *(encode_cell(mine, cells.get((name, b))) for b in batches)] for name in names]
    return table(["", *(f"batch {b}" for b in batches)], body)


def encode_cell(rows: list[Row], row: Row | None) -> str:
    """Least time, and how it compares: ours with the fastest fp32 peer, and with the roof."""
    if row is None:
        return "–"
    peer = fastest_peer(rows, row)
    text = ms(row["ms_min"])
    if ours(row) and peer:
        text += f", {peer['ms_min'] / row['ms_min']:.2f}x"
        text += f", {row['roof_fraction']:.0%}" if row["roof_fraction"] else ""
        return f"**{text}**"
    return text


def work(row: Row) -> str:
    if row["variant"] == "create":
        return f"create, {row['features']} feature of {row['d_in']}x{row['d_sae']}"
    text = f"{row['d_in']}x{row['d_sae']}, batch {row['batch']}"
    text += f", {row['features']} features" if row["features"] and row["case"] != "neighbors" else ""
    return text + (f", {row['threads']} threads" if row["threads"] > 1 else "")


def other_table(rows: list[Row], case: str) -> str:
    """One line for each piece of work, one column for each implementation: the faster one of default and forced."""
    mine = select(rows, case=case)
    families = list(dict.fromkeys(r["impl"].split("@")[0] for r in mine))
    body = []
    for text in dict.fromkeys(work(r) for r in mine):
        line = [r for r in mine if work(r) == text]
        best = [fastest([r for r in line if r["impl"].split("@")[0] == f]) for f in families]
        peer = fastest_peer(line, line[0])
        ratio = f"{peer['ms_min'] / line[0]['ms_min']:.2f}x ({peer['impl'].split('@')[0]})" if ours(line[0]) and peer else ""
        body.append([text, *(ms(r["ms_min"]) if r else "–" for r in best), ratio])
    return table(["", *families, "against the fastest fp32 peer"], body)


def opening_table(rows: list[Row]) -> str:
    """Medians of whole starts, with the peak of the resident set, or (one feature) what it grew by."""
    mine = select(rows, case="open")
    families = list(dict.fromkeys(r["impl"] for r in mine))
    body = []
    for variant in dict.fromkeys(r["variant"] for r in mine):
        line = {r["impl"]: r for r in select(mine, variant=variant)}
        size = "{d_in}x{d_sae}".format(**next(iter(line.values())))
        cells = [f"{ms(r['ms_median'])}, {r['rss_mib']:.0f} MiB" if r else "–" for r in map(line.get, families)]
        body.append([PROBED[variant].format(size) if variant in PROBED else OPENED[variant], *cells])
    return table(["", *families], body)


def ceilings_table(ceilings: list[Row]) -> str:
    body = [[f"{c['threads']}", f"{c['mib']} MiB", f"{c['read_gbs']:.1f}", f"{c['read_gbs_median']:.1f}",
             f"{c['fma_gflops']:.0f}" if c["fma_gflops"] else "", c["during"]] for c in ceilings]  # fmt: skip
    return table(["threads", "reading", "GB/s", "median", "FMA GFLOP/s", "measured during"], body)


def machine_line(machine: Row) -> str:
    sizes = ", ".join(f"{k} {v}" for k, v in machine["caches"].items())
    name = f"{machine.get('model_name', machine['architecture'])}"
    family = f" (family {machine['cpu_family']}, model {machine['model']})" if "cpu_family" in machine else ""
    return f"{name}{family}, {machine['cores_used']} cores, {sizes}, {machine['system']} {machine['kernel']}, {machine['date']}"


def versions_line(rows: list[Row]) -> str:
    seen: dict[str, str] = {}
    for row in rows:
        name = row["impl"].split("@")[0].replace("libsae-dense", "libsae")
        seen.setdefault(name, row["version"])
    return ", ".join(f"{name} {version}" for name, version in seen.items())


def encode_tables(rows: list[Row], level: str) -> list[str]:
    out = []
    for d_in, d_sae in sorted({(r["d_in"], r["d_sae"]) for r in select(rows, case=PRODUCT)}):
        for threads in sorted({r["threads"] for r in select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae)}):
            title = f"{level} Encode {d_in}x{d_sae}, {threads} thread{'s' if threads > 1 else ''}"
            out += [title, encode_table(rows, d_in, d_sae, threads)]
    return out


HOW = """Times are the least of all turns; bench.json has the medians as well. Ours also shows how many times faster it is than the
fastest fp32 peer of the run (anything in fp32, the raw product of a BLAS without bias or threshold included), and which fraction of the
roof it reaches: the time in which this machine, measured in the same minutes, could at best read every weight once or do every FMA."""


def full(result: Result) -> str:
    rows, machine = result["rows"], result["machine"]
    out = ["# Benchmark", machine_line(machine) + ".", versions_line(rows) + ".", HOW]
    if machine["quick"]:
        out.append("A quick run: a look, not figures.")
    out += [f"Skipped: {line}." for line in machine["skipped"]] + [f"**Fault:** {line}." for line in machine["faults"]]
    out += ["## Targets", targets_table(rows), *encode_tables(rows, "##")]
    for case in ("linear", "decode", "probe", "steer", "neighbors"):
        if select(rows, case=case):
            out += [f"## {case.capitalize()}", other_table(rows, case)]
    if select(rows, case="open"):
        out += ["## Opening", opening_table(rows)]
    out += ["## Ceilings", ceilings_table(result["ceilings"])]
    return "\n\n".join(out) + "\n"


def summary(result: Result) -> str:
    lines = []
    for t in targets(result["rows"]):
        mark = {True: "met   ", False: "MISSED", None: "-     "}[t.met]
        lines.append(f"{mark} {t.what}: {t.got} (wanted {t.wanted})")
    return "\n".join(lines)


README_ENCODE = [(d_in, d_sae, batch) for d_in, d_sae in ((768, 24576), (2304, 16384)) for batch in (1, 8, 64, 512)]
README_OTHER = (
    ("decode", 1, 64, "decode 64 features of 2304x16384"),
    ("steer", 64, 4, "clamp 4 features in 64 rows of 2304"),
    ("neighbors", 1, 10, "10 nearest of 16384 features"),
    ("open", 1, None, "process start to first code, 2304x16384"),
)


def readme(result: Result) -> str:
    """The README's few lines: what a reader wants to know first."""
    body = []
    for d_in, d_sae, batch in README_ENCODE:
        found = select(result["rows"], case=PRODUCT, d_in=d_in, d_sae=d_sae, batch=batch, threads=1)
        body += readme_line(f"encode {d_in}x{d_sae}, batch {batch}", found)
    for case, batch, features, text in README_OTHER:
        body += readme_line(text, select(result["rows"], case=case, batch=batch, features=features, threads=1, variant=""))
    head = f"One thread, f32, {machine_line(result['machine'])}; {versions_line(result['rows'])}."
    return head + "\n\n" + table(["", "libsae", "SAELens", "fastest fp32 peer"], body)


def readme_line(text: str, found: list[Row]) -> list[list[str]]:
    row = fastest([r for r in select(found, impl="libsae") if r["case"] != "encode" or r["prepared"] == "panels"])
    if not row:
        return []
    lens, peer = fastest(select(found, impl="saelens")), fastest_peer(found, row)
    fast = f"{ms(peer['ms_min'])} ({peer['impl'].split('@')[0]})" if peer else "–"
    return [[text, ms(row["ms_min"]), ms(lens["ms_min"]) if lens else "–", fast]]


if __name__ == "__main__":
    sys.exit("report.py is read by run.py and readme_table.py")
