"""From starting a process to its first code: whole programs, started again and again, in turns."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import formats
import lanes
import numpy as np
import planted

if TYPE_CHECKING:
    from run import Bench

OURS = 7  # starts of libsae for one of a peer, whose start takes seconds
SLOW_MS = 500  # what takes longer is started once in a round


@dataclass
class Start:
    """One program that opens one file."""

    impl: str
    variant: str
    argv: tuple[str, ...]
    first: formats.Code  # that it must find
    probes: bool = False
    fp32: bool = True
    cold: Path | None = None  # a file to be forgotten before each start
    times: list[float] = field(default_factory=list)
    mib: float = 0

    def wrong(self, code: str) -> str:
        """What is wrong with the line it printed, "" if nothing is."""
        words = code.split()
        if len(words) != 2:
            return "printed no code"
        feature, value = self.first
        if int(words[0]) != feature:
            return f"finds feature {words[0]} first, not {feature}"
        if abs(float(words[1]) - value) > 1e-4 * max(1, value):
            return f"gives {words[1]}, not {value:g}"
        return ""


def first_line(argv: tuple[str, ...]) -> tuple[float, str, int]:
    """Milliseconds until a program's first line, that line, and the number of KiB that its second line gives."""
    env = {k: v for k, v in os.environ.items() if k not in lanes.STEERING}
    start = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout
        line = process.stdout.readline().strip()
        ms = (time.perf_counter() - start) * 1e3
        second = process.stdout.readline().strip()
    return ms, "" if line.startswith("no ") else line, int(second or 0)


def forget(path: Path) -> None:
    """Takes a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def warm(folder: Path) -> None:
    """Reads the files anew, in large pieces: how they came into the page cache decides how many page faults it takes to map them."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # what is not on the disk yet stays
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            while os.read(fd, 1 << 20):
                pass
        finally:
            os.close(fd)


def peers(bench: Bench, wanted: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {w.lane.impl: w.lane.argv for w in bench.workers if w.lane.impl in wanted}


def starts(bench: Bench, program: str, src: Path) -> list[Start]:
    """libsae for every format, SAELens for those that it reads, NumPy for the plainest."""
    rows = str(src / "rows.f32")
    w = formats.load(src)
    first = formats.first_jumprelu(w, formats.first_row(src, w))
    warm(src)
    out = [Start("libsae", "", (program, str(src), rows), first)]
    for impl, argv in peers(bench, ("numpy", "saelens")).items():
        out.append(Start(impl, "", (*argv, "first-code", str(src), rows, ""), first))
    tools = formats.Tools(bench.build / "sae", bench.ecosystem)
    for fmt in formats.ALL:
        if bench.args.quick and fmt.slow:
            continue
        bench.progress.within(f"open {fmt.name}: the file is made")
        try:
            folder = formats.make(fmt, src, tools)
        except formats.Missing as e:
            bench.missing.append(f"open, {fmt.name}: {e}")
            bench.progress.note(f"skipped: open, {fmt.name}: {e}")
            continue
        warm(folder)
        path, first = str(folder / fmt.file), formats.first_of(folder)
        out.append(Start("libsae", fmt.name, (program, path, rows), first, fp32=fmt.fp32))
        for impl, argv in peers(bench, ("saelens",) if fmt.saelens and not bench.args.quick else ()).items():
            out.append(Start(impl, fmt.name, (*argv, "first-code", path, rows, fmt.name), first, fp32=fmt.fp32))
    return out


def huge_starts(program: str, src: Path) -> list[Start]:
    """One feature of a file too large to read, in the page cache and not."""
    feature = int(np.fromfile(src / "features.i32", np.int32)[0])
    d_in = (src / "rows.f32").stat().st_size // planted.MAX_BATCH // 4
    weights = src / "sae_weights.safetensors"
    argv = (program, str(src), str(src / "rows.f32"), str(feature))
    return [
        Start("libsae", variant, argv, (feature, d_in**0.5), probes=True, cold=cold)  # every weight and every input is alike
        for variant, cold in (("probe", None), ("probe-cold", weights))
    ]


def take_turn(bench: Bench, s: Start) -> bool:
    if s.cold:
        forget(s.cold)
    ms, code, kib = first_line(s.argv)
    wrong = s.wrong(code)
    if wrong:
        bench.fault(f"open {s.variant}: {s.impl} {wrong}")
        return False
    s.times.append(ms)
    s.mib = kib / 1024
    return True


def measure(bench: Bench, d_in: int, d_sae: int, todo: list[Start]) -> None:
    """A first start of each, which brings its file into the page cache, does not count for libsae."""
    for s in todo:
        bench.progress.within(f"open {d_in}x{d_sae}: {s.impl} {s.variant}")
        if s.impl == "libsae" and take_turn(bench, s):
            s.times.clear()
    for _ in range(1 if bench.args.quick else 3):
        for s in todo:
            bench.progress.within(f"open {d_in}x{d_sae}: {s.impl} {s.variant}")
            n = OURS if s.impl == "libsae" else 1
            while n > 0 and take_turn(bench, s):
                n = 0 if s.times[-1] > SLOW_MS else n - 1
    versions = {w.lane.impl: w for w in reversed(bench.workers)}
    for s in todo:
        if s.times:
            row = bench.plain_row("open", d_in, d_sae, 1, versions[s.impl], s.times, s.mib)
            bench.rows.append({**row, "variant": s.variant, "fp32": s.fp32, "features": 1 if s.probes else None})


def run(bench: Bench, program: Path, d_in: int, d_sae: int) -> None:
    src = planted.make(bench.build / "bench-data", d_in, d_sae)
    measure(bench, d_in, d_sae, starts(bench, str(program), src))


def run_huge(bench: Bench, program: Path, d_in: int, d_sae: int) -> None:
    src = planted.make(bench.build / "bench-data", d_in, d_sae, sparse=True)
    measure(bench, d_in, d_sae, huge_starts(str(program), src))
