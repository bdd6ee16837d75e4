"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass

import planted
import real

NAMES = ("encode", "decode", "probe", "steer", "open", "neighbors", "gemm", "linear", "real")
SHAPES = ((768, 24576), (2304, 16384))
BATCHES = (1, 8, 64, 512)
WIDE = (2304, 16384)
PRODUCTS = ("gemm", "linear")  # a lane runs them once for each layout of the weights that it can take
LINEAR = ((768, 768), (2304, 9216), (128, 352))  # linear layers, as an engine has them: GPT-2's, Gemma 2 2B's, a toy's
LINEAR_BATCHES = (1, 2, 4, 8, 16, 64, 512)
VARIANTS = planted.VARIANTS  # of encode: other activations on the same weights
GRID_FEATURES = (2, 4, 8, 16, 32, 64)  # probed or steered: what watching and editing cost a row
GRID_BATCHES = (1, 8, 64, 512)
GRID_LANES = ("libsae", "numpy", "torch-f32")
REAL_BATCHES = (1, 64)
SPARSE = (2304, 131072)  # 2.4 GB of f32
HUGE = (4096, 73728)  # 2.4 GB as well


@dataclass(frozen=True)
class Ceilings:
    """The best rates of a group's minutes; 0 = not measured."""

    read_gbs: float = 0  # of as many bytes as a matrix has in fp32
    fma_gflops: float = 0
    read8_gbs: float = 0  # of a matrix in bytes
    dot8_gops: float = 0  # products of bytes


@dataclass(frozen=True)
class Group:
    """Cases that take turns with each other: same work, same threads, same minutes."""

    cases: tuple[str, ...]  # encode goes together with gemm, the raw product of those who have no SAE
    d_in: int
    d_sae: int
    batch: int
    threads: int
    features: int = 0
    rounds: int = 7
    turn_ms: float = 40
    variant: str = ""
    lanes: tuple[str, ...] = ()  # who takes part, by family; () = all that have the case
    source: real.Source | None = None  # of the case real

    @property
    def title(self) -> str:
        what = f"{self.features} features, " if self.features and self.cases[0] != "neighbors" else ""
        what = f"{self.variant}, {what}" if self.variant else what
        s = "s" if self.threads > 1 else ""
        return f"{'+'.join(self.cases)} {self.d_in}x{self.d_sae}, {what}batch {self.batch}, {self.threads} thread{s}"

    @property
    def mib(self) -> int:
        """Of one of its matrices, at least 1."""
        return max(1, self.d_in * self.d_sae * 4 >> 20)

    @property
    def mib8(self) -> int:
        """Of such a matrix in bytes."""
        return max(1, self.d_in * self.d_sae >> 20)

    @property
    def has_roof(self) -> bool:
        """Whether its weights come from memory and its work is measured against the machine's ceilings."""
        return self.cases[0] in ("encode", *PRODUCTS, "neighbors")

    @property
    def is_screened(self) -> bool:
        """Whether one of its lanes may read its weights as bytes."""
        return self.cases[0] in ("encode", "neighbors")

    def roof_ms(self, case: str, top: Ceilings, weight_bytes: int) -> float | None:
        """The shortest time this machine allows: every weight read once, every product one FMA or, of bytes, one of theirs. None where the
        work has no roof, or one that is not measured."""
        weights = self.d_in * self.d_sae
        if not self.has_roof:
            return None
        by_bytes = weights * weight_bytes / (top.read8_gbs if weight_bytes == 1 else top.read_gbs) / 1e6
        if case == "neighbors":
            return by_bytes
        rate = top.dot8_gops if weight_bytes == 1 else top.fma_gflops
        by_products = 2.0 * self.batch * weights / rate / 1e6 if rate else 0
        if (weight_bytes == 2 and by_products > by_bytes) or not rate:
            return None  # the FMA ceiling is one of fp32
        return max(by_bytes, by_products)


PROBED = [(n, batch) for n in (1, 4, 16) for batch in (1, 64)]  # with everybody
STEERED = [(4, batch) for batch in (1, 64)]


def encode_groups(chosen: set[str], threads: list[int], shapes: tuple[tuple[int, int], ...], rounds: int, turn_ms: float) -> list[Group]:
    """Each shape first as it is, then with its other activations."""
    products = tuple(c for c in ("encode", "gemm") if c in chosen)
    out = []
    for d_in, d_sae in shapes:
        kinds = [(products, t, "") for t in threads] if products else []
        kinds += [(("encode",), 1, variant) for variant in VARIANTS] if "encode" in chosen else []
        for what, t, variant in kinds:
            for batch in BATCHES:
                n = max(1, rounds - 2) if batch == BATCHES[-1] or variant else rounds
                out.append(Group(what, d_in, d_sae, batch, t, rounds=n, turn_ms=turn_ms, variant=variant))
    return out


def watch_groups(case: str, with_all: list[tuple[int, int]], rounds: int, turn_ms: float) -> list[Group]:
    """Probes or edits: some with everybody, and what a row costs by how many features and rows there are."""
    out = [Group((case,), *WIDE, batch, 1, features=n, rounds=rounds, turn_ms=turn_ms) for n, batch in with_all]
    for n in GRID_FEATURES:
        for batch in GRID_BATCHES:
            if (n, batch) not in with_all:
                out.append(Group((case,), *WIDE, batch, 1, features=n, rounds=min(4, rounds), turn_ms=turn_ms, lanes=GRID_LANES))
    return out


def real_groups(sources: list[real.Source], rounds: int, turn_ms: float) -> list[Group]:
    out = []
    for s in sources:
        for batch in REAL_BATCHES:
            out.append(Group(("real",), s.d_in, s.d_sae, batch, 1, rounds=min(5, rounds), turn_ms=turn_ms, variant=s.name, source=s))
    return out


def groups(n_cores: int, chosen: set[str], quick: bool, sources: list[real.Source]) -> list[Group]:
    """In an order that keeps a shape open as long as possible."""
    rounds = 2 if quick else 7
    turn_ms, small_ms = (10, 2) if quick else (40, 10)
    threads = [1] if quick or n_cores == 1 else [1, n_cores]
    shapes = (WIDE,) if quick else SHAPES
    out = encode_groups(chosen, threads, shapes, rounds, turn_ms)
    for d_in, d_out in LINEAR if "linear" in chosen else ():
        out += [Group(("linear",), d_in, d_out, b, t, rounds=min(4, rounds), turn_ms=small_ms) for t in threads for b in LINEAR_BATCHES]
    if "decode" in chosen:
        out += [Group(("decode",), *WIDE, batch, 1, features=64, rounds=rounds, turn_ms=small_ms) for batch in (1, 64)]
    if "probe" in chosen:
        out += watch_groups("probe", PROBED, rounds, small_ms)
    if "steer" in chosen:
        out += watch_groups("steer", STEERED, rounds, small_ms)
    if "neighbors" in chosen:
        out += [Group(("neighbors",), *shape, 1, t, features=10, rounds=rounds, turn_ms=turn_ms) for shape in shapes for t in threads]
    if "real" in chosen:
        out += real_groups(sources, rounds, turn_ms)
    return out
