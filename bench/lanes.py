"""Who takes part: each lane is one implementation in one setting, in a worker process of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cases

HERE = Path(__file__).resolve().parent

# What may steer a library from outside: taken away from every worker, so that "default" means the library's own choice.
STEERING = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "BLIS_ARCH_TYPE", "BLIS_NUM_THREADS", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "LD_PRELOAD", "PYTHONPATH",
)  # fmt: skip


class Refused(Exception):
    """A worker's "no", with its reason."""


@dataclass(frozen=True)
class Lane:
    impl: str  # as in bench.json, "@forced" included
    argv: tuple[str, ...]
    prepared: str | None = None  # libsae only: "screen", "always", "panels" or "none", see worker.h
    env: tuple[tuple[str, str], ...] = ()
    fp32: bool = True  # exact enough to be measured against
    cases: tuple[str, ...] = cases.NAMES
    layouts: tuple[str, ...] = ("file", "rows")  # of the weights in the raw product
    variants: tuple[str, ...] = ()  # of encode that it has besides JumpReLU

    def has(self, case: str, group: cases.Group) -> bool:
        family = self.impl.split("@")[0]
        variant = group.variant if case == "encode" else ""
        return case in self.cases and (not group.lanes or family in group.lanes) and (not variant or variant in self.variants)


@dataclass
class Worker:
    """A lane's process. Once it has died or failed to start, every request is refused with the reason."""

    lane: Lane
    dead: str = ""
    version: str = ""
    isa: str = ""
    folder: str = ""  # that it has open
    cannot: set[str] = field(default_factory=set)  # said once

    def __post_init__(self) -> None:
        env = {k: v for k, v in os.environ.items() if k not in STEERING}
        env.update(self.lane.env)
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            self.lane.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True, env=env
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def processor_s(self) -> float:
        """Processor time of all its threads so far; 0 where the system does not say."""
        spent = 0
        for stat in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended
                spent += int(stat.read_text().split()[0])
        return spent / 1e9

    def settle(self) -> None:
        """Waits until its idle threads sleep: some spin for a tenth of a second, on the processors of the next one."""
        end, before = time.monotonic() + 1.0, -1.0
        while (now := self.processor_s()) - before > 0.001 and time.monotonic() < end:
            before = now
            time.sleep(0.02)

    def ask(self, request: str, timeout: float = 120) -> list[str]:
        if self.dead:
            raise Refused(self.dead)
        assert self.process.stdin
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; what it said is still to be read
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            self.dead = f"no answer to '{request}' in {timeout:g} s"
            self.process.kill()
            raise Refused(self.dead) from None
        words = line.split()
        if not words:
            self.dead = f"ended with status {self.process.wait()} at '{request}': {self.last_words()}"
            raise Refused(self.dead)
        if words[0] != "ok":
            raise Refused(" ".join(words[1:]))
        return words[1:]

    def hello(self) -> None:
        try:
            answer = dict(w.split("=", 1) for w in self.ask("hello"))
        except Refused as e:
            self.dead = str(e)
            raise
        self.version, self.isa = answer["version"], answer["isa"]

    def last_words(self) -> str:
        self.stderr.seek(0)
        lines = [line for line in self.stderr.read().splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"

    def close(self) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.stderr.close()


def best_isa() -> str | None:
    """The set that peers are forced to: the best one of the processor's flags. None where there is nothing to force."""
    if platform.machine() != "x86_64":
        return None
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = line.split()
            return "avx512" if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags) else "avx2" if "avx2" in flags else None
    return None


FORCED = {
    "numpy": {"avx512": {"OPENBLAS_CORETYPE": "SKYLAKEX"}, "avx2": {"OPENBLAS_CORETYPE": "HASWELL"}},
    "torch-f32": {
        "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
        "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    },
}
BLIS_ARCH = {"avx512": "skx", "avx2": "haswell"}


def can_import(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


def bundled_openblas() -> Path | None:
    """NumPy wheels carry an OpenBLAS of their own."""
    import numpy

    return next(iter(sorted(Path(numpy.__file__).parent.parent.glob("numpy.libs/libscipy_openblas64_*.so"))), None)


def libsae_lanes(worker: Path, isa: str | None) -> list[Lane]:
    all_but_gemm = tuple(c for c in cases.NAMES if c != "gemm")
    auto, avx2 = (str(worker), "auto"), (str(worker), "avx2")
    lanes = [
        Lane("libsae", auto, prepared="screen", cases=all_but_gemm, layouts=("file",), variants=cases.VARIANTS),
        Lane("libsae-dense", auto, prepared="panels", cases=("encode", "real"), variants=cases.VARIANTS),
        Lane("libsae-dense", auto, prepared="none", cases=("encode",)),
        Lane("libsae-always", auto, prepared="always", cases=("real",)),
    ]
    if isa == "avx512":
        lanes.append(Lane("libsae@forced", avx2, prepared="screen", cases=("encode",)))
        lanes.append(Lane("libsae-dense@forced", avx2, prepared="panels", cases=("encode",)))
    return lanes


RUNS = ("encode", "decode", "probe", "steer")
# What each of peer_worker.py imports, and the cases that it has.
PYTHON_PEERS = {
    "numpy": ("numpy", (*RUNS, "neighbors", *cases.PRODUCTS, "open")),
    "torch-f32": ("torch", (*RUNS, "neighbors", *cases.PRODUCTS, "real")),
    "torch-bf16": ("torch", (*RUNS, "neighbors", *cases.PRODUCTS)),
    "onednn": ("torch", cases.PRODUCTS),
    "saelens": ("sae_lens", (*RUNS, "open", "real")),
    "faiss": ("faiss", ("neighbors",)),
}


def python_lanes(ecosystem: str | None, isa: str | None) -> tuple[list[Lane], list[str]]:
    lanes: list[Lane] = []
    missing: list[str] = []
    script = str(HERE / "peer_worker.py")
    pythons = [sys.executable, *([ecosystem] if ecosystem else [])]
    for impl, (module, has) in PYTHON_PEERS.items():
        python = next((p for p in pythons if can_import(p, module)), None)
        if python is None:
            missing.append(f"{impl}: no {module} in {' or '.join(pythons)}")
            continue
        argv = (python, script, impl)
        layouts = ("file",) if impl == "onednn" else ("file", "rows")
        variants = ("topk",) if impl == "saelens" else ()
        lanes.append(Lane(impl, argv, fp32=impl != "torch-bf16", cases=has, layouts=layouts, variants=variants))
        env = FORCED.get(impl, {}).get(isa or "")
        if env:
            lanes.append(Lane(impl + "@forced", argv, env=tuple(env.items()), cases=has))
    return lanes, missing


def blas_lanes(worker: Path, has_blis: bool, isa: str | None) -> tuple[list[Lane], list[str]]:
    lanes: list[Lane] = []
    missing: list[str] = []
    if has_blis:
        lanes.append(Lane("blis", (str(worker), "blis"), cases=cases.PRODUCTS))
        if isa:
            lanes.append(Lane("blis@forced", (str(worker), "blis", BLIS_ARCH[isa]), cases=cases.PRODUCTS))
    else:
        missing.append("blis: no <blis.h> (Debian: libblis-serial-dev)")
    candidates = [("libopenblas.so.0", "", ""), ("libopenblas.so", "", "")]
    bundled = bundled_openblas()
    if bundled:
        candidates.append((str(bundled), "scipy_", "64_"))
    for argv in candidates:
        lane = Lane("openblas", (str(worker), *argv), cases=cases.PRODUCTS)
        probe = Worker(lane)
        try:
            probe.hello()
        except Refused:
            continue
        finally:
            probe.close()
        lanes.append(lane)
        env = FORCED["numpy"].get(isa or "")
        if env:
            lanes.append(Lane("openblas@forced", lane.argv, env=tuple(env.items()), cases=cases.PRODUCTS))
        return lanes, missing
    missing.append("openblas: no libopenblas.so.0 (Debian: libopenblas0-serial or libopenblas0-pthread)")
    return lanes, missing


def find_lanes(made: dict[str, Path], has_blis: bool, ecosystem: str | None) -> tuple[list[Lane], list[str]]:
    """All lanes of this machine, and one line for each peer that is not there."""
    isa = best_isa()
    lanes = libsae_lanes(made["sae_worker"], isa)
    peers, missing = python_lanes(ecosystem, isa)
    blas, missing_blas = blas_lanes(made["blas_worker"], has_blis, isa)
    if isa is None:
        missing.append("@forced: nothing to force on this processor")
    return lanes + peers + blas, missing + missing_blas
