"""Tables for people from bench.json."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import cases
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
    forms = {"screen": ", screened", "always": ", screened", "panels": ", panels", "packed": ", packed", "rows": ", by rows", "none": ""}
    prepared = forms[row["prepared"]]
    if ours(row) and row["case"] == "encode" and row["prepared"] == "none":
        prepared = ", straight from the file"
    product = " product alone" if row["case"] == "gemm" else ""
    return f"{row['impl']} ({row['isa']}{prepared}){product}"


# ---- targets ----


@dataclass
class Target:
    what: str
    against: str  # whom or what it is measured against
    wanted: str
    reached: str
    met: bool | None  # None: not measured in this run


SHAPES = ((2304, 16384), (768, 24576))
BEST = "fastest fp32 peer"
# Wanted of exact encodes, per batch: times faster than each, None where nothing is wanted.
SCREENED = {1: (2.6, 3.5, 2.4), 8: (7, 8, 2.1), 64: (3.8, 7, 1.4), 512: (2.5, 7, 1.2)}
DENSE = {1: 1.0, 8: 2.5, 64: 1.4, 512: 1.0}
LINEAR = {1: 1.2, 2: 1.2, 4: 1.2, 8: 1.2, 16: 1.2, 64: 1.2, 512: 0.95}


def ratio_target(what: str, against: str, wanted: float, row: Row | None, peer: Row | None) -> Target:
    if not row or not peer:
        return Target(what, against, f"≥ {wanted:g}x", "not measured", None)
    got = peer["ms_min"] / row["ms_min"]
    who = f" ({label(peer)})" if against == BEST else ""
    return Target(what, against, f"≥ {wanted:g}x", f"{got:.{2 if got < 100 else 0}f}x{who}", got >= wanted)


def share_target(what: str, against: str, limit: float, row: Row | None) -> Target:
    got = row["roof_fraction"] if row else None
    return Target(what, against, f"≥ {limit:.0%}", "not measured" if got is None else f"{got:.0%}", None if got is None else got >= limit)


def encode_targets(rows: list[Row], d_in: int, d_sae: int) -> list[Target]:
    out = []
    ours_at: dict[int, Row | None] = {}
    for batch, wanted in SCREENED.items():
        at = select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae, batch=batch, threads=1, variant="")
        row = ours_at[batch] = fastest(select(at, case="encode", impl="libsae"))
        what = f"exact encode {d_in}x{d_sae}, batch {batch}"
        best = fastest_peer(at, row) if row else None
        peers = {BEST: best, "SAELens": fastest(select(at, impl="saelens")), "torch bf16": fastest(bf16_encodes(at))}
        out += [ratio_target(what, name, times, row, peer) for (name, peer), times in zip(peers.items(), wanted)]
        if batch == 1:
            out.append(share_target(what, "roof of one byte a weight", 0.6, row))
    out.append(growth_with_batch(ours_at, d_in, d_sae))
    for batch, times in DENSE.items():
        at = select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae, batch=batch, threads=1, variant="")
        row = fastest(select(at, impl="libsae-dense", prepared="panels"))
        out.append(ratio_target(f"dense encode {d_in}x{d_sae}, batch {batch}", BEST, times, row, fastest_peer(at, row) if row else None))
    return out


def bf16_encodes(rows: list[Row]) -> list[Row]:
    """Whole encodes in bf16: its raw product alone gives no codes."""
    return [r for r in select(rows, case="encode") if r["impl"].startswith("torch-bf16")]


def growth_with_batch(ours_at: dict[int, Row | None], d_in: int, d_sae: int) -> Target:
    what, against = f"exact encode {d_in}x{d_sae}, batch 8", "its own batch 1"
    one, eight = ours_at.get(1), ours_at.get(8)
    if not one or not eight:
        return Target(what, against, "≤ 1.5x the time", "not measured", None)
    got = eight["ms_min"] / one["ms_min"]
    return Target(what, against, "≤ 1.5x the time", f"{got:.2f}x", got <= 1.5)


def linear_targets(rows: list[Row]) -> list[Target]:
    """The hardest of the sizes for each batch."""
    out = []
    for batch, times in LINEAR.items():
        found = [
            ratio_target("", BEST, times, r, fastest_peer(rows, r))
            for r in select(rows, case="linear", impl="libsae", batch=batch, threads=1)
        ]
        found = [t for t in found if t.met is not None]
        hardest = min(found, key=lambda t: float(t.reached.split("x")[0]), default=ratio_target("", BEST, times, None, None))
        out.append(replace(hardest, what=f"linear layer in f32, batch {batch}, the hardest of {len(cases.LINEAR)} sizes"))
    return out


def thread_targets(rows: list[Row]) -> list[Target]:
    """Twice the threads, where one thread's time is not that of reading."""
    out = []
    for d_in, d_sae in SHAPES:
        for batch in (64, 512):
            mine = select(rows, case="encode", d_in=d_in, d_sae=d_sae, batch=batch, impl="libsae", variant="")
            one, two = fastest(select(mine, threads=1)), fastest(select(mine, threads=2))
            out.append(ratio_target(f"exact encode {d_in}x{d_sae}, batch {batch}, 2 threads", "1 thread", 1.8, two, one))
    return out


def neighbor_targets(rows: list[Row]) -> list[Target]:
    out = []
    for d_in, d_sae in SHAPES:
        at = select(rows, case="neighbors", d_in=d_in, d_sae=d_sae, threads=1)
        row, peer = fastest(select(at, impl="libsae")), fastest(select(at, impl="faiss"))
        out.append(ratio_target(f"10 nearest rows of {d_in}x{d_sae}", "FAISS IndexFlatIP", 3, row, peer))
    return out


def bits_target(rows: list[Row]) -> Target:
    """Every encode of libsae in one setting, screened or dense, of whatever instruction set, must give the same codes."""
    seen: dict[tuple[Any, ...], list[str]] = {}
    for r in select(rows, case=("encode", "real")):
        if ours(r) and r["bits"]:
            seen.setdefault(tuple(r[k] for k in ("case", "variant", "d_in", "d_sae", "batch", "threads")), []).append(r["bits"])
    compared = [bits for bits in seen.values() if len(bits) > 1]
    wrong = sum(len(set(bits)) > 1 for bits in compared)
    reached = f"{wrong} in {len(compared)} settings" if compared else "not measured"
    return Target(
        "codes of screened and dense encodes", "each other, bit by bit", "0 differences", reached, wrong == 0 if compared else None
    )


def limit_target(rows: list[Row], what: str, limit_ms: float, per_row: bool = False, **wanted: Any) -> Target:
    row = fastest(select(rows, impl="libsae", **wanted))
    unit = " a row" if per_row else ""
    if not row:
        return Target(what, "", f"≤ {ms(limit_ms)}{unit}", "not measured", None)
    got = row["ms_median"] / (row["batch"] if per_row else 1)
    return Target(what, "", f"≤ {ms(limit_ms)}{unit}", f"{ms(got)}{unit}", got <= limit_ms)


def decode_target(rows: list[Row], batch: int) -> Target:
    row = fastest(select(rows, case="decode", impl="libsae", batch=batch, threads=1))
    peer = fastest(select(rows, case="decode", impl="saelens", batch=batch, threads=1))
    return ratio_target(f"decode of 64 active features, batch {batch}", "SAELens' dense decode", 50, row, peer)


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
    out = [Target(what, "", f"≤ {ms(limit)}", got, slowest["ms_median"] <= limit if slowest else None)]
    for variant, text in (("probe", "in the page cache"), ("probe-cold", "cold")):
        out.append(limit_target(rows, f"process start to one feature of a 2.4 GB file, {text}", 50, case="open", variant=variant))
    return [*out, growth_target(fastest(select(rows, case="open", variant="probe", impl="libsae")))]


def growth_target(row: Row | None) -> Target:
    got = f"{row['rss_mib']:.1f} MiB" if row else "not measured"
    return Target("… what it adds to the resident set", "", "< 64 MiB", got, row["rss_mib"] < 64 if row else None)


def targets(rows: list[Row]) -> list[Target]:
    out = [t for shape in SHAPES for t in encode_targets(rows, *shape)]
    out += [bits_target(rows), *thread_targets(rows)] + linear_targets(rows) + neighbor_targets(rows)
    out.append(limit_target(rows, "process start to the first code, 2304x16384", 100, case="open", variant=""))
    out += opening_targets(rows)
    out += [decode_target(rows, batch) for batch in (1, 64)]
    out.append(limit_target(rows, "steering 4 features, batch 64", 0.005, per_row=True, case="steer", batch=64, features=4))
    out.append(limit_target(rows, "steering 4 features, a lone row", 0.012, per_row=True, case="steer", batch=1, features=4))
    return out + create_targets(rows)


# ---- tables ----


def table(head: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(head))) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in body)])


def plot_name(d_in: int, d_sae: int) -> str:
    """Of the SVG that plots.py draws."""
    return f"encode-{d_in}x{d_sae}.svg"


def plot_links(rows: list[Row], folder: str) -> list[str]:
    shapes = [s for s in SHAPES if select(rows, case="encode", impl="libsae", d_in=s[0], d_sae=s[1])]
    return [f"![Milliseconds of an encoded row against the batch, {d}x{n}]({folder}/{plot_name(d, n)})" for d, n in shapes]


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: "–"}[met]


def targets_table(rows: list[Row]) -> str:
    body = [[t.what, t.against, t.wanted, t.reached, verdict(t.met)] for t in targets(rows)]
    return table(["case", "against", "wanted", "reached", ""], body)


def encode_table(rows: list[Row], d_in: int, d_sae: int, threads: int, variant: str) -> str:
    mine = select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae, threads=threads, variant=variant)
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
    text = f"{row['variant']}, {text}" if row["variant"] else text
    text += f", {row['features']} features" if row["features"] and row["case"] != "neighbors" else ""
    return text + (f", {row['threads']} threads" if row["threads"] > 1 else "")


def other_table(rows: list[Row], case: str) -> str:
    """One line for each piece of work that everybody did, one column for each implementation: the faster one of default and forced."""
    mine = [r for r in select(rows, case=case) if not is_grid(r)]
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
    def cell(c: Row, name: str, digits: int) -> str:
        return f"{c[name]:.{digits}f}" if c.get(name) else ""

    names = (("read_gbs", 1), ("read_gbs_median", 1), ("fma_gflops", 0), ("read8_gbs", 1), ("dot8_gops", 0))
    body = [[str(c["threads"]), f"{c['mib']} MiB", *(cell(c, *n) for n in names), c["during"]] for c in ceilings]
    head = ["threads", "reading", "GB/s", "median", "FMA GFLOP/s", "GB/s of a quarter", "products of bytes, GOP/s", "measured during"]
    return table(head, body)


def is_grid(row: Row) -> bool:
    """One of those that tell what a row costs, not one of those that everybody ran."""
    full = {"probe": cases.PROBED, "steer": cases.STEERED}.get(row["case"])
    return full is not None and row["variant"] != "create" and (row["features"], row["batch"]) not in full


def grid_table(rows: list[Row], case: str) -> str:
    """Our time of one row, and how many times faster that is than the fastest fp32 peer."""
    mine = [r for r in select(rows, case=case, impl="libsae") if r["variant"] != "create"]
    batches = sorted({r["batch"] for r in mine})
    at = {(r["features"], r["batch"]): r for r in mine}

    def cell(row: Row | None) -> str:
        peer = fastest_peer(rows, row) if row else None
        if not row:
            return "–"
        return ms(row["ms_min"] / row["batch"]) + (f", {peer['ms_min'] / row['ms_min']:.1f}x" if peer else "")

    body = [[str(n), *(cell(at.get((n, b))) for b in batches)] for n in sorted({r["features"] for r in mine})]
    return table(["features", *(f"{b} row{'s' if b > 1 else ''}" for b in batches)], body)


def grid_tables(rows: list[Row], level: str) -> list[str]:
    out = []
    for case, name in (("probe", "Probing"), ("steer", "Steering")):
        if select(rows, case=case, impl="libsae"):
            out += [f"{level} {name}, time of one row", grid_table(rows, case)]
    return out


def real_table(rows: list[Row]) -> str:
    """Medians, since rows differ; survivors are those of a screen that is always used."""
    mine = select(rows, case="real")
    body = []
    for text in dict.fromkeys(work(r) for r in mine):
        line = {r["impl"]: r for r in mine if work(r) == text}
        by = line["libsae"]
        dense, always = line.get("libsae-dense"), line.get("libsae-always")
        kept = f"{always['survivors']:.0f} ({always['survivors'] / by['d_sae']:.1%})" if always and always["survivors"] is not None else "–"
        gain = f"{dense['ms_median'] / by['ms_median']:.2f}x" if dense else "–"
        times = [ms(line[n]["ms_median"]) if n in line else "–" for n in ("libsae", "libsae-dense", "torch-f32", "saelens")]
        screened = "–" if by["dense_rows"] is None else f"{1 - by['dense_rows']:.0%}"
        body.append([text, f"{by['active']:.1f}", kept, screened, *times, gain])
    head = ["", "active", "survivors", "rows screened", "libsae", "libsae-dense", "torch-f32", "SAELens", "screened against dense"]
    return table(head, body)


def survivors_table(rows: list[Row]) -> str:
    """Of the planted rows, for each activation."""
    mine = [r for r in select(rows, case="encode", impl="libsae", threads=1) if r["survivors"] is not None]
    body = []
    for r in mine:
        dense = fastest(select(rows, case="encode", impl="libsae-dense", prepared="panels", threads=1,
                               **{k: r[k] for k in ("d_in", "d_sae", "batch", "variant")}))  # fmt: skip
        gain = f"{dense['ms_min'] / r['ms_min']:.2f}x" if dense else "–"
        name = f"{r['variant'] or 'jumprelu'}, {r['d_in']}x{r['d_sae']}, batch {r['batch']}"
        roof = f"{r['roof_fraction']:.0%}" if r["roof_fraction"] else "–"
        body.append([name, f"{r['active']:.1f}", f"{r['survivors']:.0f} ({r['survivors'] / r['d_sae']:.1%})", ms(r["ms_min"]), roof, gain])
    return table(["", "active", "survivors", "screened", "of the roof", "against dense"], body)


def machine_line(machine: Row) -> str:
    sizes = ", ".join(f"{k} {v}" for k, v in machine["caches"].items())
    name = f"{machine.get('model_name', machine['architecture'])}"
    family = f" (family {machine['cpu_family']}, model {machine['model']})" if "cpu_family" in machine else ""
    return f"{name}{family}, {machine['cores_used']} cores, {sizes}, {machine['system']} {machine['kernel']}, {machine['date']}"


def versions_line(rows: list[Row]) -> str:
    seen: dict[str, str] = {}
    for row in rows:
        name = "libsae" if ours(row) else row["impl"].split("@")[0]
        seen.setdefault(name, row["version"])
    return ", ".join(f"{name} {version}" for name, version in seen.items())


def encode_tables(rows: list[Row], level: str) -> list[str]:
    out = []
    kinds = {(r["variant"], r["d_in"], r["d_sae"], r["threads"]) for r in select(rows, case=PRODUCT)}
    for variant, d_in, d_sae, threads in sorted(kinds):
        name = f"Encode {variant + ' ' if variant else ''}{d_in}x{d_sae}"
        title = f"{level} {name}, {threads} thread{'s' if threads > 1 else ''}"
        out += [title, encode_table(rows, d_in, d_sae, threads, variant)]
    return out


HOW = """Times are the least of all turns; bench.json has the medians as well. Ours also shows how many times faster it is than the
fastest fp32 peer of the run (anything in fp32, the raw product of a BLAS without bias or threshold included), and which fraction of the
roof it reaches: the time in which this machine, measured in the same minutes, could at best read every weight once or do every FMA
(screened: read one byte a weight, or do every product of bytes)."""


def screen_tables(rows: list[Row], level: str) -> list[str]:
    out = []
    if any(r["survivors"] is not None for r in select(rows, case="encode", impl="libsae")):
        out += [f"{level} What survives the screen", survivors_table(rows)]
    if select(rows, case="real", impl="libsae"):
        out += [f"{level} Real activations", real_table(rows)]
    return out


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
    out += screen_tables(rows, "##") + grid_tables(rows, "##")
    if select(rows, case="open"):
        out += ["## Opening", opening_table(rows)]
    out += ["## Ceilings", ceilings_table(result["ceilings"])]
    return "\n\n".join(out) + "\n"


def summary(result: Result) -> str:
    found = targets(result["rows"])
    lines = []
    for t in found:
        if t.met is not None:
            against = f", {t.against}" if t.against else ""
            lines.append(f"{'met   ' if t.met else 'MISSED'} {t.what}{against}: {t.reached} (wanted {t.wanted})")
    return "\n".join([*lines, f"{len(found) - len(lines)} of {len(found)} targets were not measured"])


README_ENCODE = [(d_in, d_sae, batch) for d_in, d_sae in ((768, 24576), (2304, 16384)) for batch in (1, 8, 64, 512)]
README_OTHER = (
    ("decode", 2304, 1, 64, "decode 64 features of 2304x16384"),
    ("steer", 2304, 64, 4, "clamp 4 features in 64 rows of 2304"),
    ("neighbors", 2304, 1, 10, "10 nearest of 16384 features"),
    ("neighbors", 768, 1, 10, "10 nearest of 24576 features of 768"),
    ("open", 2304, 1, None, "process start to first code, 2304x16384"),
)


def readme(result: Result) -> str:
    """The README's few lines: what a reader wants to know first."""
    body = []
    rows = select(result["rows"], threads=1, variant="")
    for d_in, d_sae, batch in README_ENCODE:
        found = select(rows, case=PRODUCT, d_in=d_in, d_sae=d_sae, batch=batch)
        body += readme_line(f"encode {d_in}x{d_sae}, batch {batch}", found)
    for case, d_in, batch, features, text in README_OTHER:
        body += readme_line(text, select(rows, case=case, d_in=d_in, batch=batch, features=features))
    head = f"One thread, f32, {machine_line(result['machine'])}; {versions_line(result['rows'])}. Beside each time: how many times longer."
    links = plot_links(rows, "docs/images")[:1]
    return "\n\n".join([head, table(["", "libsae", "SAELens", BEST, "torch bf16 (not exact)"], body), *links])


def readme_line(text: str, found: list[Row]) -> list[list[str]]:
    row = fastest(select(found, impl="libsae"))
    if not row:
        return []
    encodes = row["case"] == "encode"
    bf16 = fastest(bf16_encodes(found) if encodes else select(found, impl="torch-bf16"))
    peers = [fastest(select(found, impl="saelens")), fastest_peer(found, row), bf16]
    return [[text, ms(row["ms_min"]), *(beside(row, peer, name=i == 1) for i, peer in enumerate(peers))]]


def beside(row: Row, peer: Row | None, name: bool) -> str:
    if not peer:
        return "–"
    who = f" ({peer['impl'].split('@')[0]})" if name else ""
    ratio = peer["ms_min"] / row["ms_min"]
    return f"{ms(peer['ms_min'])}{who}, {ratio:.{0 if ratio >= 10 else 1 if ratio >= 1 else 2}f}x"


if __name__ == "__main__":
    sys.exit("report.py is read by run.py and readme_table.py")
