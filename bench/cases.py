"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = ("encode", "decode", "probe", "steer", "open", "neighbors", "gemm", "linear")
SHAPES = ((768, 24576), (2304, 16384))
BATCHES = (1, 8, 64, 512)
WIDE = (2304, 16384)
PRODUCTS = ("gemm", "linear")  # a lane runs them once for each layout of the weights that it can take
LINEAR = ((768, 768), (2304, 9216), (128, 352))  # linear layers, as an engine has them: GPT-2's, Gemma 2 2B's, a toy's
LINEAR_BATCHES = (1, 2, 4, 8, 16, 64, 512)
SPARSE = (2304, 131072)  # 2.4 GB of f32
HUGE = (4096, 73728)  # 2.4 GB as well


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

    @property
    def title(self) -> str:
        what = f"{self.features} features, " if self.features and self.cases[0] != "neighbors" else ""
        s = "s" if self.threads > 1 else ""
        return f"{'+'.join(self.cases)} {self.d_in}x{self.d_sae}, {what}batch {self.batch}, {self.threads} thread{s}"

    @property
    def mib(self) -> int:
        """Of one of its matrices, at least 1."""
        return max(1, self.d_in * self.d_sae * 4 >> 20)

    @property
    def has_roof(self) -> bool:
        """Whether its weights come from memory and its work is measured against the machine's ceilings."""
        return self.cases[0] in ("encode", *PRODUCTS, "neighbors")

    def roof_ms(self, case: str, read_gbs: float, gflops: float, weight_bytes: int) -> float | None:
        """The shortest time this machine allows: every weight read once, every product one FMA. None where the work has no roof."""
        weights = self.d_in * self.d_sae
        if not self.has_roof:
            return None
        by_bytes = weights * weight_bytes / read_gbs / 1e6
        if case == "neighbors":
            return by_bytes
        by_flops = 2.0 * self.batch * weights / gflops / 1e6
        if weight_bytes != 4 and by_flops > by_bytes:
            return None  # the FMA ceiling is one of fp32
        return max(by_bytes, by_flops)


def groups(n_cores: int, chosen: set[str], quick: bool) -> list[Group]:
    """In an order that keeps a shape open as long as possible."""
    out: list[Group] = []
    rounds = 2 if quick else 7
    turn_ms = 10 if quick else 40
    products = tuple(c for c in ("encode", "gemm") if c in chosen)
    for d_in, d_sae in (WIDE,) if quick else SHAPES:
        for threads in [1] if quick or n_cores == 1 else [1, n_cores]:
            for batch in BATCHES if products else ():
                n = max(1, rounds - 2) if batch == BATCHES[-1] else rounds
                out.append(Group(products, d_in, d_sae, batch, threads, rounds=n, turn_ms=turn_ms))
    small_ms = 2 if quick else 10
    for d_in, d_out in LINEAR:
        for threads in [1] if quick or n_cores == 1 else [1, n_cores]:
            for batch in LINEAR_BATCHES if "linear" in chosen else ():
                out.append(Group(("linear",), d_in, d_out, batch, threads, rounds=rounds, turn_ms=small_ms))
    for batch in (1, 64):
        if "decode" in chosen:
            out.append(Group(("decode",), *WIDE, batch, 1, features=64, rounds=rounds, turn_ms=small_ms))
    for features in (1, 4, 16):
        for batch in (1, 64):
            if "probe" in chosen:
                out.append(Group(("probe",), *WIDE, batch, 1, features=features, rounds=rounds, turn_ms=small_ms))
    for batch in (1, 64):
        if "steer" in chosen:
            out.append(Group(("steer",), *WIDE, batch, 1, features=4, rounds=rounds, turn_ms=small_ms))
    for threads in [1] if quick or n_cores == 1 else [1, n_cores]:
        if "neighbors" in chosen:
            out.append(Group(("neighbors",), *WIDE, 1, threads, features=10, rounds=rounds, turn_ms=turn_ms))
    return out
