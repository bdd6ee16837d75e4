"""Measures libsae and its peers on this machine: `make bench`, or `python bench/run.py --build build`.

Every implementation is a worker process of its own. Within a group of cases all of them take turns, round after round, together with
a worker that measures the machine's ceilings: what disturbs the machine disturbs all of them alike. bench/README.md says how to read
the result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cases
import compiled
import lanes as lanes_of
import opening
import planted
import real
import report
from cases import Ceilings, Group
from lanes import Lane, Refused, Worker

SCHEMA_VERSION = 2
Row = dict[str, Any]


class Progress:
    """One line that changes on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self.tty = sys.stderr.isatty()
        self.start = time.monotonic()

    def step(self, text: str) -> None:
        self.show(text, end="" if self.tty else "\n")

    def within(self, text: str) -> None:
        if self.tty:
            self.show(text, end="")

    def note(self, text: str) -> None:
        print(("\r\x1b[K" if self.tty else "") + text, file=sys.stderr, flush=True)

    def show(self, text: str, end: str) -> None:
        seconds = time.monotonic() - self.start
        print(("\r\x1b[K" if self.tty else "") + f"[{seconds:4.0f} s] {text}"[:150], file=sys.stderr, end=end, flush=True)


@dataclass
class Entry:
    """One case of one lane in a group, and what its turns gave."""

    worker: Worker
    case: str
    slot: int
    request: str
    layout: str = ""
    count: float = 0
    bits: str = "0"
    times: list[float] = field(default_factory=list)
    rss_kib: int = 0
    counts: dict[str, str] = field(default_factory=dict)  # of an encode of libsae: how its rows came to their codes

    @property
    def rows_counted(self) -> int:
        return int(self.counts["screened"]) + int(self.counts["dense"]) if self.counts else 0

    @property
    def survivors(self) -> float | None:
        """Candidates of a screened row."""
        screened = int(self.counts.get("screened", 0))
        return int(self.counts["candidates"]) / screened if screened else None

    @property
    def dense_rows(self) -> float | None:
        """The share of rows that were encoded by all dots."""
        return int(self.counts["dense"]) / self.rows_counted if self.rows_counted else None

    @property
    def weight_bytes(self) -> int:
        """What one weight takes where it reads all of them."""
        if not self.worker.lane.fp32:
            return 2
        if self.case == "neighbors" and self.worker.lane.prepared == "screen":
            return 1
        return 1 if self.dense_rows is not None and self.dense_rows < 0.5 else 4


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.build: Path = args.build.resolve()
        self.out: Path = args.out or args.build / "bench.json"
        self.progress = Progress()
        self.rows: list[Row] = []
        self.ceilings: list[Row] = []
        self.faults: list[str] = []
        self.workers: list[Worker] = []
        self.last: Worker | None = None  # whose turn it was
        self.missing: list[str] = []
        self.folder = ""
        ecosystem = args.ecosystem or self.build / "venv-ecosystem" / "bin" / "python"
        self.ecosystem = str(ecosystem) if Path(ecosystem).exists() else None
        self.real = self.real_folder(args.real)
        self.n_cores = len(os.sched_getaffinity(0))
        self.load_before = round(os.getloadavg()[0], 2)

    def real_folder(self, given: Path | None) -> Path | None:
        """Where SAEs trained on real activations are: --real DIR, or what SAE_TEST_DATA says; None without."""
        data = os.environ.get("SAE_TEST_DATA")
        folder = given or (Path(data) / "real" if data else None)
        if folder and (folder / "x.npy").exists():
            return folder
        if "real" in self.args.cases:
            line = f"real: no x.npy in {folder}" if folder else "real: no SAEs trained on real activations but the demo's (--real DIR)"
            self.missing.append(line)
            self.progress.note(f"skipped: {line}")
        return None

    # ---- workers ----

    def start(self, made: dict[str, Path], has_blis: bool) -> None:
        found, missing = lanes_of.find_lanes(made, has_blis, self.ecosystem)
        for line in missing:
            self.progress.note(f"skipped: {line}")
        self.missing += missing
        self.ceiling = Worker(Lane("ceiling", (str(made["ceiling_worker"]),)))
        self.ceiling.hello()
        for lane in found:
            if not set(lane.cases) & set(self.args.cases):
                continue
            self.progress.within(f"starting {lane.impl}")
            worker = Worker(lane)
            try:
                worker.hello()
                self.workers.append(worker)
            except Refused as e:
                self.progress.note(f"skipped: {lane.impl}: {e}")
                self.missing.append(f"{lane.impl}: {e}")
                worker.close()

    def stop(self) -> None:
        for worker in [self.ceiling, *self.workers]:
            worker.close()

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self.progress.note(f"FAULT: {text}")

    # ---- groups ----

    def entries(self, group: Group) -> list[Entry]:
        """The cases that each worker has, set up and run once."""
        out: list[Entry] = []
        for worker in self.workers:
            mine = [c for c in group.cases if worker.lane.has(c, group)]
            requests = [(c, layout) for c in mine for layout in (worker.lane.layouts if c in cases.PRODUCTS else ("",))]
            for slot, (case, layout) in enumerate(requests):
                name = "encode" if case == "real" else case
                words = [f"case {slot} {name} batch={group.batch} features={group.features}"]
                words += [f"rows={real.N_ROWS}"] if case == "real" else []
                words += [f"layout={layout}"] if layout else [f"prepared={worker.lane.prepared}"] if worker.lane.prepared else []
                entry = Entry(worker, case, slot, " ".join(words), layout)
                if self.set_up(entry, group):
                    out.append(entry)
        return out

    def set_up(self, entry: Entry, group: Group) -> bool:
        worker = entry.worker
        self.progress.within(f"{group.title}: {worker.lane.impl} sets up")
        try:
            worker.ask(f"threads {group.threads}")
            if worker.folder != self.folder:
                worker.ask(f"open {self.folder}")
                worker.folder = self.folder
            answer = dict(w.split("=", 1) for w in worker.ask(entry.request))
        except Refused as e:
            if str(e) not in worker.cannot:
                worker.cannot.add(str(e))
                self.progress.note(f"skipped: {worker.lane.impl}, {entry.case}, {group.threads} thread(s): {e}")
                if worker.dead:
                    self.fault(f"{worker.lane.impl} died: {e}")
                    self.workers.remove(worker)
            return False
        entry.count, entry.bits = float(answer["count"]), answer["bits"]
        return True

    def ceiling_setup(self, group: Group) -> dict[str, tuple[int, float]]:
        """The ceilings that this group is measured against, each with its case number and what one run of it counts."""
        wanted = {"read": f"read mib={group.mib}", "fma": "fma"} if group.has_roof else {}
        if group.is_screened:
            wanted |= {"read8": f"read mib={group.mib8}", "dot8": "dot8"}
        out = {}
        if wanted:
            self.ceiling.ask(f"threads {group.threads}")
        for slot, (name, case) in enumerate(wanted.items()):
            try:
                answer = dict(w.split("=") for w in self.ceiling.ask(f"case {slot} {case}"))
                out[name] = (slot, float(answer["count"]))
            except Refused as e:
                if str(e) not in self.ceiling.cannot:
                    self.ceiling.cannot.add(str(e))
                    self.progress.note(f"skipped: ceiling {name}: {e}")
        return out

    def take_ceilings(self, group: Group, setup: dict[str, tuple[int, float]], rates: dict[str, list[float]]) -> None:
        for name, (slot, count) in setup.items():
            turn_ms = group.turn_ms / (1 if name.startswith("read") else 8)
            rates.setdefault(name, []).extend(count / float(ms) / 1e6 for ms in self.ceiling.ask(f"turn {slot} {turn_ms}"))

    def folder_of(self, group: Group) -> Path:
        root = self.build / "bench-data"
        return real.make(root, group.source) if group.source else planted.make(root, group.d_in, group.d_sae, variant=group.variant)

    def run_group(self, group: Group) -> None:
        self.folder = str(self.folder_of(group))
        entries = self.entries(group)
        if not entries:
            return
        setup = self.ceiling_setup(group)
        rates: dict[str, list[float]] = {}
        for n in range(group.rounds):
            self.take_ceilings(group, setup, rates)
            for entry in entries[n % len(entries) :] + entries[: n % len(entries)]:
                self.progress.within(f"{group.title}: round {n + 1} of {group.rounds}, {entry.worker.lane.impl}")
                self.take_turn(entry, group)
        for entry in entries:
            if not entry.worker.dead:
                self.ask_after(entry)
        self.check(group, entries)
        if rates:
            self.add_ceiling(group.threads, group.mib, group.title, rates)
        best = {name: max(values) for name, values in rates.items()}
        top = Ceilings(best.get("read", 0), best.get("fma", 0), best.get("read8", 0), best.get("dot8", 0))
        for entry in entries:
            if entry.times:
                self.rows.append(self.as_row(group, entry, top))

    def ask_after(self, entry: Entry) -> None:
        entry.rss_kib = int(entry.worker.ask("rss")[0])
        if entry.worker.lane.impl.startswith("libsae") and entry.case in ("encode", "real"):
            entry.counts = dict(w.split("=", 1) for w in entry.worker.ask("counts"))

    def add_ceiling(self, threads: int, mib: int, during: str, rates: dict[str, list[float]]) -> None:
        row: Row = {"threads": threads, "mib": mib, "during": during}
        for name, field_name in (("read", "read_gbs"), ("fma", "fma_gflops"), ("read8", "read8_gbs"), ("dot8", "dot8_gops")):
            values = rates.get(name)
            row[field_name] = round(max(values), 2) if values else None
            row[field_name + "_median"] = round(statistics.median(values), 2) if values else None
        self.ceilings.append(row)

    def take_turn(self, entry: Entry, group: Group) -> None:
        if entry.worker.dead:
            return
        if group.threads > 1 and self.last:
            self.last.settle()
        self.last = entry.worker
        try:
            entry.times += [float(ms) for ms in entry.worker.ask(f"turn {entry.slot} {group.turn_ms}")]
        except Refused as e:
            self.fault(f"{entry.worker.lane.impl}, {entry.case}: {e}")

    def check(self, group: Group, entries: list[Entry]) -> None:
        """A peer that computes something else is not a peer; two lanes of libsae must give the same bits."""
        for case in group.cases:
            same = [e for e in entries if e.case == case]
            exact = [e for e in same if e.worker.lane.fp32]
            if not exact:
                continue
            middle = statistics.median(e.count for e in exact)
            for e in same:
                if abs(e.count - middle) > max(4, abs(middle) * (0.002 if e.worker.lane.fp32 else 0.1)):
                    self.fault(f"{group.title}: {e.worker.lane.impl} finds {e.count:g}, the others {middle:g}")
            ours = [e for e in same if e.worker.lane.impl.startswith("libsae")]
            bits = {b for e in ours for b in (e.bits, e.counts.get("bits", "")) if b.strip("0")}
            if len(bits) > 1:
                self.fault(f"{group.title}: libsae gives different bits: {', '.join(sorted(bits))}")

    def as_row(self, group: Group, entry: Entry, top: Ceilings) -> Row:
        lane = entry.worker.lane
        least = min(entry.times)
        roof = group.roof_ms(entry.case, top, entry.weight_bytes)
        encodes = entry.case in ("encode", "real")
        rows = real.N_ROWS if entry.case == "real" else group.batch
        return {
            "case": entry.case, "d_in": group.d_in, "d_sae": group.d_sae, "batch": group.batch, "threads": group.threads,
            "impl": lane.impl, "isa": entry.worker.isa, "prepared": self.prepared(entry), "ms_min": least,
            "ms_median": statistics.median(entry.times), "roof_fraction": round(roof / least, 4) if roof else None,
            "rss_mib": round(entry.rss_kib / 1024, 1), "features": group.features or None, "variant": group.variant, "fp32": lane.fp32,
            "version": entry.worker.version, "runs": len(entry.times), "active": round(entry.count / rows, 2) if encodes else None,
            "survivors": rounded(entry.survivors, 2), "dense_rows": rounded(entry.dense_rows, 4),
            "bits": entry.bits if entry.bits.strip("0") else None,
        }  # fmt: skip

    @staticmethod
    def prepared(entry: Entry) -> str:
        if entry.worker.lane.prepared:
            packed = {"encode": entry.worker.lane.prepared, "real": entry.worker.lane.prepared, "linear": "packed"}
            if entry.worker.lane.prepared == "screen":
                packed["neighbors"] = "screen"
            return packed.get(entry.case, "none")
        return "packed" if entry.worker.lane.impl == "onednn" else "rows" if entry.layout == "rows" else "none"

    # ---- cases with a process of their own ----

    def run_probe_create(self, made: dict[str, Path]) -> None:
        """One feature out of a file of 2.4 GB that is not in the page cache; rss_mib is what creating the probe added at its peak."""
        d_in, d_sae = cases.SPARSE
        folder = planted.make(self.build / "bench-data", d_in, d_sae, sparse=True)
        worker = Worker(Lane("libsae", (str(made["sae_worker"]), "auto", "create"), prepared="none"))
        try:
            worker.hello()
            worker.ask("threads 1")
            worker.ask(f"open {folder}")
            answer = dict(w.split("=") for w in worker.ask("case 0 probe-create features=1"))
            times: list[float] = []
            for _ in range(2 if self.args.quick else 7):
                times += [float(ms) for ms in worker.ask("turn 0 60")]
            row = self.plain_row("probe", d_in, d_sae, 0, worker, times, float(answer["count"]) / 1024)
            self.rows.append({**row, "features": 1, "variant": "create"})
        except Refused as e:
            self.fault(f"probe, create: {e}")
        finally:
            worker.close()

    @staticmethod
    def plain_row(case: str, d_in: int, d_sae: int, batch: int, worker: Worker, times: list[float], rss: float) -> Row:
        return {
            "case": case, "d_in": d_in, "d_sae": d_sae, "batch": batch, "threads": 1, "impl": worker.lane.impl, "isa": worker.isa,
            "prepared": "none", "ms_min": min(times), "ms_median": statistics.median(times), "roof_fraction": None,
            "rss_mib": round(rss, 1), "features": None, "variant": "", "fp32": True, "version": worker.version, "runs": len(times),
            "active": None, "survivors": None, "dense_rows": None, "bits": None,
        }  # fmt: skip

    # ---- ceilings at other sizes ----

    def run_ceilings(self) -> None:
        for threads in sorted({1, self.n_cores}):
            self.ceiling.ask(f"threads {threads}")
            for mib in (1, 8, 32, 72, 144, 512):
                self.progress.within(f"read ceiling, {mib} MiB, {threads} thread(s)")
                count = dict(w.split("=") for w in self.ceiling.ask(f"case 0 read mib={mib}"))["count"]
                rates = [float(count) / float(ms) / 1e6 for ms in self.ceiling.ask(f"turn 0 {50 if self.args.quick else 250}")]
                self.add_ceiling(threads, mib, "sizes", {"read": rates})

    # ---- all ----

    def run(self) -> int:
        chosen = set(self.args.cases)
        made, has_blis = compiled.compile_all(self.build)
        self.start(made, has_blis)
        try:
            self.run_ceilings()
            todo = cases.groups(self.n_cores, chosen, self.args.quick, real.find(self.real) if "real" in chosen else [])
            for i, group in enumerate(todo):
                self.progress.step(f"{i + 1} of {len(todo)}: {group.title}")
                self.run_group(group)
            if "open" in chosen:
                self.progress.step("open")
                opening.run(self, made["first_code"], *cases.WIDE)
                self.progress.step("open, one feature of a large file")
                opening.run_huge(self, made["first_code"], *cases.HUGE)
            if "probe" in chosen:
                self.progress.step("probe, created from a large file")
                self.run_probe_create(made)
        finally:
            self.stop()
        return self.write()

    def write(self) -> int:
        machine = {**machine_facts(), "cores_used": self.n_cores, "load_before": self.load_before,
                   "seconds": round(time.monotonic() - self.progress.start), "quick": self.args.quick,
                   "skipped": self.missing, "faults": self.faults}  # fmt: skip
        result = {"schema_version": SCHEMA_VERSION, "machine": machine, "ceilings": self.ceilings, "rows": self.rows}
        self.out.write_text(json.dumps(result, indent=1) + "\n")
        table = self.out.with_suffix(".md")
        table.write_text(report.full(result))
        self.progress.note(report.summary(result))
        self.progress.note(f"{self.out} and {table} written after {machine['seconds']} s")
        return 1 if self.faults else 0


def rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def machine_facts() -> Row:
    facts: Row = {"system": platform.system(), "kernel": platform.release(), "architecture": platform.machine(),
                  "python": platform.python_version(), "date": datetime.date.today().isoformat()}  # fmt: skip
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "cpu family", "model"):
            facts.setdefault(key.strip().replace(" ", "_"), value.strip())
    facts["caches"] = caches()
    return facts


def caches() -> dict[str, str]:
    out: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            out["L" + (index / "level").read_text().strip()] = (index / "size").read_text().strip()
    return out


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures libsae and its peers on this machine.")
    parser.add_argument("--build", type=Path, default=Path("build"), help="where libsae.so is (default %(default)s)")
    parser.add_argument("--out", type=Path, help="the result (default BUILD/bench.json); a table for people goes beside it, as .md")
    parser.add_argument("--quick", action="store_true", help="one shape, one thread, few rounds: a look, not figures")
    parser.add_argument("--cases", type=lambda s: s.split(","), default=list(cases.NAMES), help=f"some of {','.join(cases.NAMES)}")
    parser.add_argument("--real", type=Path, metavar="DIR", help="x.npy and SAEs on such rows (default: SAE_TEST_DATA/real)")
    parser.add_argument("--ecosystem", type=Path, help="a Python with torch and sae-lens (default: that of BUILD/venv-ecosystem)")
    args = parser.parse_args()
    unknown = set(args.cases) - set(cases.NAMES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    return args


def main() -> int:
    try:
        return Bench(arguments()).run()
    except KeyboardInterrupt:
        print("\nstopped: nothing written", file=sys.stderr)
        return 130
    except compiled.BuildFailed as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
