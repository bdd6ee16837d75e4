"""Writes the seeds of fuzz_sae: small .sae files by docs/save.md, with sections close together and checksums left to the target.

Usage: seeds_sae.py FOLDER
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

D, N = 3, 6
BYTES, I32, F32, F16, BF16 = 17, 16, 1, 2, 3
NUMBERS, TEXTS, BLOCKS, SEGMENTS, SKIPS, ATTENTION = range(1, 7)
B_ENC, B_DEC, THRESHOLD, B_GATE, B_MAG, R_MAG, DEC_SCALE, IN_SHIFT, IN_SCALE, OUT_SHIFT, OUT_SCALE = range(16, 27)
BIAS, MATRIX, SCREEN_WEIGHTS, SCREEN = 48, 64, 65, 70
REPAIR, NO_CHECK = 1, 2


class Section(NamedTuple):
    id: int
    index: int
    dtype: int
    rows: int
    columns: int
    data: bytes


def floats(n: int) -> bytes:
    return struct.pack(f"<{n}f", *[((i * 7) % 11 - 5) / 8 for i in range(n)])


def vector(id: int, n: int, index: int = 0) -> Section:
    return Section(id, index, F32, n, 1, floats(n))


def matrix(index: int, n: int, d: int, dtype: int = F32) -> Section:
    data = floats(n * d)
    if dtype == BF16:
        data = b"".join(data[4 * i + 2 : 4 * i + 4] for i in range(n * d))
    if dtype == F16:
        data = struct.pack(f"<{n * d}e", *struct.unpack(f"<{n * d}f", data))
    return Section(MATRIX, index, dtype, n, d, data)


def table(id: int, *rows: list[int]) -> Section:
    return Section(id, 0, I32, len(rows), len(rows[0]), b"".join(struct.pack(f"<{len(r)}i", *r) for r in rows))


def numbers(arch: int, k: int = 0, flags: int = 0, norm: int = 0, heads: int = 0, hooks: int = 1, d_sae: int = N) -> Section:
    data = struct.pack("<7iIfi2fi3I", arch, D * hooks, d_sae, D * hooks, k, hooks, hooks, flags, 0.01, norm, 1.0, 1.0, heads, 0, 0, 0)
    return Section(NUMBERS, 0, BYTES, len(data), 1, data)


def texts(**by_number: str) -> Section:
    data = b""
    for number, text in by_number.items():
        raw = text.encode()
        data += struct.pack("<2I", int(number[1:]), len(raw)) + raw + bytes(-len(raw) % 4)
    return Section(TEXTS, 0, BYTES, len(data), 1, data)


def file(sections: list[Section], flags: int = REPAIR) -> bytes:
    at = 64 + 64 * len(sections)
    directory, body = b"", b""
    for s in sections:
        body += bytes(-(at + len(body)) % 64)
        directory += struct.pack("<4I6Q", s.id, s.index, s.dtype, 1, s.rows, s.columns, at + len(body), len(s.data), 0, 0)
        body += s.data
    head = b"\x89SAE\r\n\x1a\n" + struct.pack("<2IQI5I", 1, 0, at + len(body), len(sections), 0, 0, 0, 0, 0) + bytes(16)
    return bytes([flags]) + head + directory + body


def plain(first: list[Section], vectors: list[Section], dtype: int = F32) -> list[Section]:
    lists = [table(BLOCKS, [0, 0, 0]), table(SEGMENTS, [0, N, 0, 0, 1, 1])]
    return [*first, *lists, *vectors, matrix(0, N, D, dtype), matrix(1, N, D, dtype)]


def temporal() -> list[Section]:
    lists = [
        table(BLOCKS, [0, 0, 0]),
        table(SEGMENTS, [0, N, 0, 0, 1, 0]),
        table(ATTENTION, [1, 0, 2, 1, 3, 2, 4, 3]),
    ]
    biases = [vector(BIAS, 2, 0), vector(BIAS, 2, 1), vector(BIAS, N, 2), vector(BIAS, N, 3)]
    weights = [matrix(0, N, D), matrix(1, 2, N), matrix(2, 2, N), matrix(3, N, N), matrix(4, N, N)]
    return [numbers(8, k=2, flags=1, heads=2), *lists, vector(B_DEC, D), *biases, *weights]


def cross_layer() -> list[Section]:
    blocks = table(BLOCKS, [0, 0, 0], [N, D, 1])
    segments = table(SEGMENTS, [0, N, 0, 0, 2, 2], [0, N, D, 1, 2, 2], [N, N, D, 0, 1, 3])
    skips = table(SKIPS, [0, D, 4])
    weights = [matrix(0, N, D), matrix(1, N, D, F16), matrix(2, 2 * N, D), matrix(3, N, D, BF16), matrix(4, D, D)]
    return [numbers(1, hooks=2, d_sae=2 * N), blocks, segments, skips, vector(B_ENC, 2 * N), *weights]


def screen() -> list[Section]:
    """Of no weights in particular: it opens where nobody looks."""
    bounds = [Section(SCREEN_WEIGHTS + 1 + i, 0, F32, N, 1, struct.pack(f"<{N}f", *[0.5] * N)) for i in range(4)]
    head = Section(SCREEN, 0, BYTES, 64, 1, struct.pack("<2I", 1, 1) + bytes(56))
    return [Section(SCREEN_WEIGHTS, 0, BYTES, 256, 1, bytes((i * 37) % 255 + 1 for i in range(256))), *bounds, head]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    gates = [vector(B_GATE, N), vector(B_MAG, N), vector(R_MAG, N)]
    affine = [vector(id, D) for id in (IN_SHIFT, IN_SCALE, OUT_SHIFT, OUT_SCALE)]
    words = texts(_3="jumprelu", _5="blocks.0.hook_resid_post", _9="names.catalog", _256="a warning")
    seeds = {
        "standard": plain([numbers(1, flags=1), words], [vector(B_ENC, N), vector(B_DEC, D)]),
        "jumprelu_f16": plain([numbers(2), words], [vector(THRESHOLD, N)], F16),
        "topk_bf16": plain([numbers(3, k=2, flags=2)], [vector(B_ENC, N)], BF16),
        "gated_affine": plain([numbers(4, norm=4)], [*gates, *affine]),
        "abstopk": plain([numbers(5, k=3, flags=8)], [vector(DEC_SCALE, N)]),
        "groupmax": plain([numbers(6, k=3)], []),
        "pursuit": plain([numbers(7, k=2, flags=17)], []),
        "temporal": temporal(),
        "cross_layer": cross_layer(),
    }
    for name, sections in seeds.items():
        (folder / name).write_bytes(file(sections))
    screened = plain([numbers(2)], [vector(B_ENC, N), vector(B_DEC, D), vector(THRESHOLD, N)]) + screen()
    (folder / "screened").write_bytes(file(screened, REPAIR | NO_CHECK))


main(Path(sys.argv[1]))
