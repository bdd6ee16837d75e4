"""Test SAEs for the bench: planted features, so that about 64 of them fire on each row; the same bytes for every peer.

A folder holds what SAELens saves (cfg.json, sae_weights.safetensors) and beside it

    rows.f32      [512][d_in]   rows to encode
    codes.i32     [512][64]     ascending feature ids, and codes.f32 their values: rows to decode
    features.i32  [64]          features to probe and steer, ordered by how often they fire
    layout.txt    "d_in d_sae offset of W_enc", for workers that read nothing but the product's weights

A variant, "topk" or "gated", is the same SAE with another activation: W_enc and rows are the same, its W_dec is
zeros that take no room.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

VERSION = "3"  # of what is below: a folder made by another version is made anew
MAX_BATCH = 512
ACTIVE = 64
MAX_FEATURES = 64
VARIANTS = ("topk", "gated")


def config(d_in: int, d_sae: int, architecture: str = "jumprelu") -> dict[str, object]:
    return {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "planted", "hook_name": "blocks.0.hook_resid_post"},
    }


def header(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> tuple[bytes, dict[str, tuple[int, int]]]:
    """A safetensors header for tensors laid end to end, and where each begins and ends in the file."""
    at = 0
    entries: dict[str, object] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        size = {"F32": 4, "BF16": 2}[dtype] * int(np.prod(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        spans[name] = (at, at + size)
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 64 + 56)  # tensors begin at a multiple of 64
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: (start + a, start + b) for name, (a, b) in spans.items()}


def shapes(d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}


def plant(d_in: int, d_sae: int, seed: int) -> tuple[dict[str, F32], F32]:
    """Weights and rows. Decoder rows are random directions, the encoder reads them back, a row is 64 of them and some noise; the
    thresholds are set so that 64 features fire on a row on average."""
    rng = np.random.default_rng(seed)
    w_dec = rng.standard_normal((d_sae, d_in), dtype=np.float32)
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    w_enc = np.ascontiguousarray(w_dec.T)
    b_dec = 0.1 * rng.standard_normal(d_in, dtype=np.float32)
    b_enc = 0.05 * rng.standard_normal(d_sae, dtype=np.float32)
    scale = rng.uniform(0.9, 1.1, d_sae).astype(np.float32)
    rows = np.empty((MAX_BATCH, d_in), np.float32)
    for r in range(MAX_BATCH):
        ids = rng.choice(d_sae, ACTIVE, replace=False)
        rows[r] = rng.uniform(2, 6, ACTIVE).astype(np.float32) @ w_dec[ids] + b_dec
    rows += 0.02 * rng.standard_normal(rows.shape, dtype=np.float32)
    h = (rows @ w_enc + b_enc) / scale
    level = float(np.partition(h, -ACTIVE * MAX_BATCH, axis=None)[-ACTIVE * MAX_BATCH])
    weights = {"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": level * scale}
    return weights, rows


def features(weights: dict[str, F32], rows: F32) -> npt.NDArray[np.int32]:
    fires = (rows @ weights["W_enc"] + weights["b_enc"] > weights["threshold"]).sum(axis=0)
    return np.argsort(-fires, kind="stable")[:MAX_FEATURES].astype(np.int32)


def write(folder: Path, d_in: int, d_sae: int, seed: int) -> None:
    weights, rows = plant(d_in, d_sae, seed)
    head, spans = header(shapes(d_in, d_sae))
    with open(folder / "sae_weights.safetensors", "wb") as f:
        f.write(head)
        for name in spans:
            f.write(np.ascontiguousarray(weights[name], np.float32).data)
    (folder / "cfg.json").write_text(json.dumps(config(d_in, d_sae), indent=1))
    (folder / "layout.txt").write_text(f"{d_in} {d_sae} {spans['W_enc'][0]}\n")
    rows.tofile(folder / "rows.f32")
    features(weights, rows).tofile(folder / "features.i32")
    rng = np.random.default_rng(seed + 1)
    ids = np.sort([rng.choice(d_sae, ACTIVE, replace=False) for _ in range(MAX_BATCH)], axis=1)
    ids.astype(np.int32).tofile(folder / "codes.i32")
    rng.uniform(2, 6, ids.shape).astype(np.float32).tofile(folder / "codes.f32")


def vectors(w: dict[str, F32], variant: str) -> dict[str, F32]:
    """What stands for the threshold: the gate opens where it is passed, and magnitudes differ from the gate's a little."""
    if variant == "topk":
        return {"b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    r_mag = np.linspace(-0.1, 0.1, len(w["b_enc"]), dtype=np.float32)
    return {"b_gate": w["b_enc"] - w["threshold"], "b_mag": w["b_enc"], "r_mag": r_mag, "b_dec": w["b_dec"]}


def read(folder: Path, names: tuple[str, ...]) -> dict[str, F32]:
    with open(folder / "sae_weights.safetensors", "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entries = json.loads(f.read(n))
    out = {}
    for name in names:
        first, last = entries[name]["data_offsets"]
        out[name] = np.fromfile(folder / "sae_weights.safetensors", np.float32, (last - first) // 4, offset=8 + n + first)
    return out


def write_variant(folder: Path, src: Path, d_in: int, d_sae: int, variant: str) -> None:
    w = read(src, ("W_enc", "b_enc", "b_dec", "threshold"))
    small = vectors(w, variant)
    tensors = {"W_enc": (d_in, d_sae), **{k: a.shape for k, a in small.items()}, "W_dec": (d_sae, d_in)}
    head, spans = header(tensors)
    with open(folder / "sae_weights.safetensors", "wb") as f:
        f.write(head)
        for name in ("W_enc", *small):
            f.write({**w, **small}[name].data)
        f.truncate(spans["W_dec"][1])
    more = {"k": ACTIVE, "rescale_acts_by_decoder_norm": False} if variant == "topk" else {}
    (folder / "cfg.json").write_text(json.dumps({**config(d_in, d_sae, variant), **more}, indent=1))
    (folder / "layout.txt").write_text(f"{d_in} {d_sae} {spans['W_enc'][0]}\n")
    for name in ("rows.f32", "features.i32"):
        shutil.copyfile(src / name, folder / name)


def write_sparse(folder: Path, d_in: int, d_sae: int) -> None:
    """An SAE of zeros that takes little room on the disk: for what is done to files too large to read. The first feature to probe has
    weights, all alike, as have its rows: those blocks of the file are there."""
    head, spans = header(shapes(d_in, d_sae))
    features = (np.arange(MAX_FEATURES) * (d_sae // MAX_FEATURES) + 7).astype(np.int32)
    weight = np.full(d_in, d_in**-0.5, np.float32)
    with open(folder / "sae_weights.safetensors", "wb") as f:
        f.write(head)
        f.truncate(max(end for _, end in spans.values()))
        f.seek(spans["W_dec"][0] + 4 * d_in * int(features[0]))
        f.write(weight.data)
        for k in range(d_in):  # W_enc is [d_in][d_sae]: a column is spread over all of it
            f.seek(spans["W_enc"][0] + 4 * (d_sae * k + int(features[0])))
            f.write(weight[k : k + 1].data)
        f.flush()
        os.fsync(f.fileno())  # only what is on the disk can be forgotten
    (folder / "cfg.json").write_text(json.dumps(config(d_in, d_sae), indent=1))
    np.ones((MAX_BATCH, d_in), np.float32).tofile(folder / "rows.f32")
    features.tofile(folder / "features.i32")


def make(root: Path, d_in: int, d_sae: int, sparse: bool = False, variant: str = "") -> Path:
    """The folder of a test SAE under root; made when it is not there yet."""
    folder = root / f"{'sparse' if sparse else variant or 'planted'}-{d_in}x{d_sae}-v{VERSION}"
    if folder.exists():
        return folder
    if sparse:
        return whole(folder, lambda part: write_sparse(part, d_in, d_sae))
    if variant:
        src = make(root, d_in, d_sae)
        return whole(folder, lambda part: write_variant(part, src, d_in, d_sae, variant))
    return whole(folder, lambda part: write(part, d_in, d_sae, seed=d_in))


def whole(folder: Path, write_to: Callable[[Path], None]) -> Path:
    """Makes a folder as a whole or not at all."""
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    try:
        write_to(part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
