"""What the tests of formats share: random weights, files in every container, formulas in float64, and the comparison."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import libsae
import numpy as np
import torch
from safetensors.torch import save_file

Array = np.ndarray
Tensors = dict[str, Any]

F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
DTYPES = {"f32": F32, "f16": F16, "bf16": BF16, "f64": F64}

# d_in, d_sae: no multiples of a vector, fewer features than inputs, squares (only the format says what is transposed), one feature
SIZES = [(37, 131), (48, 19), (33, 33), (16, 16), (5, 1), (1, 7)]

# Every size once, every type at least once, and the square and the first size in more than one
PAIRS = [*zip(SIZES, ["f64", "f16", "bf16", "f32", "f32", "bf16"]), (SIZES[0], "f32"), (SIZES[2], "f16")]


class Weights(NamedTuple):
    enc: torch.Tensor  # [d_in][n]
    dec: torch.Tensor  # [n][d_out]
    b_enc: torch.Tensor
    b_dec: torch.Tensor


class Random:
    """Tensors of a seed."""

    def __init__(self, seed: int, dtype: torch.dtype = F32) -> None:
        self.g = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=self.g) * scale).to(self.dtype)

    def between(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=self.g) * (high - low) + low).to(self.dtype)

    def weights(self, d: int, n: int, d_out: int | None = None) -> Weights:
        out = d if d_out is None else d_out
        return Weights(
            self.normal(d, n, scale=d**-0.5),
            self.normal(n, out, scale=out**-0.5) * self.between(0.5, 2.0, n, 1),
            self.normal(n, scale=0.3),
            self.normal(out, scale=0.5),
        )

    def rows(self, d: int, n: int = 12) -> Array:
        x = torch.randn(n, d, generator=self.g).numpy()
        x[1] *= 20.0
        return x


def f64(t: torch.Tensor) -> Array:
    return t.detach().to(F64).numpy()


# ---- files ----


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def safetensors(path: Path, tensors: Tensors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, str(path))


def torch_file(path: Path, value: Any, legacy: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)


def npz(path: Path, arrays: dict[str, Array], deflated: bool = False, fortran: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as z:
        for name, a in arrays.items():
            data = io.BytesIO()
            np.save(data, np.asfortranarray(a) if fortran else np.ascontiguousarray(a))
            z.writestr(f"{name}.npy", data.getvalue())


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _gguf_value(value: str | bool | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    return struct.pack("<Ii", 5, value) if isinstance(value, int) else struct.pack("<If", 6, value)


def gguf(path: Path, keys: dict[str, Any], tensors: Tensors) -> None:
    """GGUF 3, F32 and F16; dimensions go the other way round there."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(_gguf_text(name) + _gguf_value(value) for name, value in keys.items())
    data = b""
    for name, t in tensors.items():
        head += _gguf_text(name) + struct.pack("<I", t.ndim) + struct.pack(f"<{t.ndim}Q", *reversed(t.shape))
        head += struct.pack("<IQ", {F32: 0, F16: 1}[t.dtype], len(data))
        data += t.contiguous().numpy().tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


# ---- formulas ----


def relu(h: Array) -> Array:
    return np.maximum(h, 0.0)


def jump(h: Array, threshold: Array | float) -> Array:
    return np.where(h > threshold, h, 0.0)


def topk(h: Array, k: int, key: Array | None = None) -> Array:
    """The k largest of each row (by another key if so), of equals the lower index."""
    order = np.argsort(-(h if key is None else key), axis=1, kind="stable")[:, :k]
    out = np.zeros_like(h)
    np.put_along_axis(out, order, np.take_along_axis(h, order, axis=1), axis=1)
    return out


def layer_norm(x: Array) -> tuple[Array, Array, Array]:
    mean = x.mean(axis=1, keepdims=True)
    std = x.std(axis=1, ddof=1, keepdims=True)
    return (x - mean) / (std + 1e-5), mean, std


# ---- the comparison ----


def near(got: Any, want: Array, x: Array, scale: float = 1.0) -> None:
    """The rule of tests/golden; `scale`: of a format that multiplies, whose rounding errors are multiplied too."""
    size = np.maximum(1.0, np.linalg.norm(x.astype(np.float64), axis=1) / np.sqrt(x.shape[1]))[:, None]
    assert np.asarray(got).shape == want.shape
    excess = np.abs(np.asarray(got).astype(np.float64) - want) / ((1.0 + np.abs(want)) * size * max(1.0, scale))
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess.max() <= 1e-5, f"worst at row, column {worst}: {excess.max():.3g}, {np.asarray(got)[worst]} for {want[worst]}"


def agree(path: Path, x: Array, z: Array, y: Array, scale: float = 1.0, **options: Any) -> libsae.Sae:
    """Codes, output, probes and neighbours of what lies at the path, before and after it is prepared."""
    sae = libsae.open(str(path), check=True, **options)
    codes = sae.encode(x)
    dense = np.asarray(codes.dense())
    np.testing.assert_array_equal(dense != 0, z != 0)
    near(dense, z, x, scale)
    out = np.asarray(sae.forward(x))
    near(out, y, x, scale)
    if not sae.info["has_skip"] and sae.info["architecture"] != "temporal":
        np.testing.assert_array_equal(np.asarray(sae.decode(codes)), out)
    if sae.info["architecture"] not in ("matching_pursuit", "temporal"):
        some = sorted({0, sae.info["d_sae"] // 2, sae.info["d_sae"] - 1})
        np.testing.assert_array_equal(np.asarray(sae.probe(x, some)), dense[:, some])
    same_neighbors(sae)
    sae.prepare()
    np.testing.assert_array_equal(np.asarray(sae.encode_dense(x)), dense)
    np.testing.assert_array_equal(np.asarray(sae.forward(x)), out)
    return sae


def same_neighbors(sae: libsae.Sae) -> None:
    """Nearest features by what they write and by what they read, against the rows that read gives."""
    for side, tensor in (("decoder", "W_dec"), ("encoder", "W_enc")):
        rows = np.asarray(sae.read(tensor)).astype(np.float64)
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        found = sae.neighbors(0, k=4, by=side)
        want = unit @ unit[0]
        np.testing.assert_allclose(found.cosines, want[found.features], atol=1e-5)
        best = np.sort(want[1:])[::-1][: len(found.cosines)]
        np.testing.assert_allclose(found.cosines, best, atol=1e-5)
