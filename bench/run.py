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
import report
from cases import Group
from lanes import Lane, Refused, Worker

SCHEMA_VERSION = 1
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
        self.missing: list[str] = []
        self.folder = ""
        ecosystem = args.ecosystem or self.build / "venv-ecosystem" / "bin" / "python"
        self.ecosystem = str(ecosystem) if Path(ecosystem).exists() else None
        self.n_cores = len(os.sched_getaffinity(0))
        self.load_before = round(os.getloadavg()[0], 2)

    # ---- workers ----

    def start(self, made: dict[str, Path], has_blis: bool) -> None:
        found, missing = lanes_of.find_lanes(made, has_blis, self.ecosystem)
        for line in missing:
            self.progress.note(f"skipped: {line}")
        self.missing = missing
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
            mine = [c for c in group.cases if c in worker.lane.cases]
            requests = [(c, layout) for c in mine for layout in (worker.lane.layouts if c in cases.PRODUCTS else ("",))]
            for slot, (case, layout) in enumerate(requests):
                words = [f"case {slot} {case} batch={group.batch} features={group.features}"]
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

    def ceiling_setup(self, group: Group) -> tuple[float, float]:
        mib = group.mib
        self.ceiling.ask(f"threads {group.threads}")
        n_bytes = dict(w.split("=") for w in self.ceiling.ask(f"case 0 read mib={mib}"))
        n_flops = dict(w.split("=") for w in self.ceiling.ask("case 1 fma"))
        return float(n_bytes["count"]), float(n_flops["count"])

    def run_group(self, group: Group) -> None:
        self.folder = str(planted.make(self.build / "bench-data", group.d_in, group.d_sae))
        entries = self.entries(group)
        if not entries:
            return
        n_bytes, n_flops = self.ceiling_setup(group) if group.has_roof else (0.0, 0.0)
        read: list[float] = []
        fma: list[float] = []
        for n in range(group.rounds):
            if group.has_roof:
                read += [n_bytes / float(ms) / 1e6 for ms in self.ceiling.ask(f"turn 0 {group.turn_ms}")]
                fma += [n_flops / float(ms) / 1e6 for ms in self.ceiling.ask(f"turn 1 {group.turn_ms / 8}")]
            for entry in entries[n % len(entries) :] + entries[: n % len(entries)]:
                self.progress.within(f"{group.title}: round {n + 1} of {group.rounds}, {entry.worker.lane.impl}")
                self.take_turn(entry, group)
        for entry in entries:
            if not entry.worker.dead:
                entry.rss_kib = int(entry.worker.ask("rss")[0])
        self.check(group, entries)
        if group.has_roof:
            self.add_ceiling(group.threads, group.mib, group.title, read, fma)
        for entry in entries:
            if entry.times:
                self.rows += self.as_rows(group, entry, max(read, default=0), max(fma, default=0))

    def add_ceiling(self, threads: int, mib: int, during: str, read: list[float], fma: list[float]) -> None:
        self.ceilings.append({
            "threads": threads, "mib": mib, "during": during, "read_gbs": round(max(read), 2),
            "read_gbs_median": round(statistics.median(read), 2), "fma_gflops": round(max(fma), 1) if fma else None,
            "fma_gflops_median": round(statistics.median(fma), 1) if fma else None,
        })  # fmt: skip

    def take_turn(self, entry: Entry, group: Group) -> None:
        if entry.worker.dead:
            return
        if group.threads > 1:
            time.sleep(0.03)  # idle threads of the one before may still be spinning
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
            bits = {e.bits for e in same if e.worker.lane.impl.startswith("libsae") and e.bits.strip("0")}
            if len(bits) > 1:
                self.fault(f"{group.title}: libsae gives different bits: {', '.join(sorted(bits))}")

    def as_rows(self, group: Group, entry: Entry, read_gbs: float, gflops: float) -> list[Row]:
        lane = entry.worker.lane
        least = min(entry.times)
        roof = group.roof_ms(entry.case, read_gbs, gflops, 4 if lane.fp32 else 2)
        row = {
            "case": entry.case, "d_in": group.d_in, "d_sae": group.d_sae, "batch": group.batch, "threads": group.threads,
            "impl": lane.impl, "isa": entry.worker.isa, "prepared": self.prepared(entry), "ms_min": least,
            "ms_median": statistics.median(entry.times), "roof_fraction": round(roof / least, 4) if roof else None,
            "rss_mib": round(entry.rss_kib / 1024, 1), "features": group.features or None, "variant": "", "fp32": lane.fp32,
            "version": entry.worker.version, "runs": len(entry.times),
        }  # fmt: skip
        # Encode has one path in this version, the dense one: a measurement under both of its names.
        dense = [{**row, "impl": "libsae-dense"}] if lane.impl == "libsae" and entry.case == "encode" else []
        return [row, *dense]

    @staticmethod
    def prepared(entry: Entry) -> str:
        if entry.worker.lane.prepared:
            packed = {"encode": entry.worker.lane.prepared, "linear": "packed"}
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
        }  # fmt: skip

    # ---- ceilings at other sizes ----

    def run_ceilings(self) -> None:
        for threads in sorted({1, self.n_cores}):
            self.ceiling.ask(f"threads {threads}")
            for mib in (1, 8, 32, 72, 144, 512):
                self.progress.within(f"read ceiling, {mib} MiB, {threads} thread(s)")
                count = dict(w.split("=") for w in self.ceiling.ask(f"case 0 read mib={mib}"))["count"]
                rates = [float(count) / float(ms) / 1e6 for ms in self.ceiling.ask(f"turn 0 {50 if self.args.quick else 250}")]
                self.add_ceiling(threads, mib, "sizes", rates, [])

    # ---- all ----

    def run(self) -> int:
        chosen = set(self.args.cases)
        made, has_blis = compiled.compile_all(self.build)
        self.start(made, has_blis)
        try:
            self.run_ceilings()
            todo = cases.groups(self.n_cores, chosen, self.args.quick)
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
