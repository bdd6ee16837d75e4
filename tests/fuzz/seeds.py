"""Writes the seeds of fuzz_formats: every fixture of tests/golden, matrices cut to a few rows and columns, as fuzz_formats.c reads them.

Needs numpy and torch. Usage: seeds.py FOLDER
"""

from __future__ import annotations

import io
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
# The files of a format in the order of fuzz_formats.c, and its number there. A pattern that fits no file is an absent file.
FORMATS: dict[str, tuple[int, list[str]]] = {
    "saelens": (0, ["cfg.json", "sae_weights.safetensors"]),
    "gemma_scope": (2, ["params.npz"]),
    "gemma_scope/embedding_scaled": (3, ["params.npz"]),
    "gemma_scope_2": (4, ["config.json", "params.safetensors"]),
    "gemma_scope_2/clt": (5, ["config.json", "params_layer_0.safetensors", "params_layer_1.safetensors"]),
    "dictionary_learning": (6, ["config.json", "ae.pt"]),
    "crosscoder_learning": (19, ["config.json", "model_final.pt"]),
    "crosscoder_learning/CrossCoder_safetensors": (7, ["config.json", "model.safetensors"]),
    "sparsify": (8, ["cfg.json", "sae.safetensors"]),
    "openai": (9, [".pt"]),
    "apollo_e2e": (9, [".pt"]),
    "goodfire": (9, [".pth"]),
    "deepseek_r1": (10, [".pt"]),
    "qwen_scope": (11, [".pt"]),
    "connor_rob_hook_z": (12, ["_cfg.json", ".pt"]),
    "llama_scope": (13, ["hyperparams.json", "final.safetensors"]),
    "llama_scope_r1_distill": (14, ["config.json", "sae_weights.safetensors"]),
    "llamascopium": (14, ["config.json", "sae_weights.safetensors"]),
    "circuit_tracer": (15, ["config.yaml", "layer_1.safetensors"]),
    "mwhanna_transcoder": (15, ["config.yaml", "layer_3.safetensors"]),
    "circuit_tracer/clt_jumprelu": (16, ["config.yaml", "W_enc_0.", "W_dec_0.", "W_enc_1.", "W_dec_1."]),
    "mntss_clt": (16, ["config.yaml", "W_enc_0.", "W_dec_0.", "W_enc_1.", "W_dec_1."]),
    "temporal": (17, ["conf.yaml", "latest_ckpt.safetensors"]),
}
TWO_LAYERS = {5, 16}
DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "BOOL": 1}


def short(size: int, sizes: dict[int, int]) -> int:
    """What a size is cut to: those of one checkpoint stay different, and multiples of 4 stay multiples."""
    if size <= 4:
        return size
    if size not in sizes:
        sizes[size] = 4 if not sizes else 8 if len(sizes) == 1 else 8 + 2 * len(sizes)
    return sizes[size]


def cut(a: Any, sizes: dict[int, int], layers: bool) -> Any:
    """The first few elements of every dimension of an array. Of three layers the first two are kept, and what they write there."""
    want = [n - 1 if layers and a.ndim == 3 and n in (2, 3) else short(n, sizes) for n in a.shape]
    return a[tuple(slice(0, n) for n in want)]


def cut_safetensors(data: bytes, sizes: dict[int, int], layers: bool) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    out, blocks, at = {}, [], 0
    for name, t in header.items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        each = DTYPES[t["dtype"]]
        a = np.frombuffer(body[begin:end], dtype=f"V{each}").reshape(t["shape"])
        a = np.ascontiguousarray(cut(a, sizes, layers) if a.ndim else a)
        out[name] = {"dtype": t["dtype"], "shape": list(a.shape if t["shape"] else []), "data_offsets": [at, at + a.nbytes]}
        blocks.append(a.tobytes())
        at += a.nbytes
    text = json.dumps(out, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(blocks)


def cut_torch(data: bytes, sizes: dict[int, int]) -> bytes:
    def walk(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return cut(value, sizes, False).clone() if value.ndim else value.clone()
        if isinstance(value, dict):
            return type(value)((key, torch.tensor(2) if key == "k" else walk(member)) for key, member in value.items())
        return value

    to = io.BytesIO()
    torch.save(walk(torch.load(io.BytesIO(data), weights_only=True)), to, _use_new_zipfile_serialization=data[:2] == b"PK")
    return to.getvalue()


def cut_npz(path: Path, sizes: dict[int, int]) -> bytes:
    to = io.BytesIO()
    arrays = np.load(path)
    small = {name: cut(arrays[name], sizes, False).copy(order="A") for name in arrays.files}
    np.savez(to, **small)
    return to.getvalue()


def cut_config(text: str, sizes: dict[int, int]) -> bytes:
    """Sizes of the checkpoint become those that they were cut to."""
    found = re.search(r'"d_model": (\d+)', text)
    if found:
        d = sizes[int(found[1])]
        n = max(after for after in sizes.values() if after != d)
        text = re.sub(r'("expansion_factor": )[\d.]+', rf"\g<1>{n / d}", text)
    text = re.sub(r'("?(?:k|top_k|kval_topk|max_iterations)"?: )\d+', r"\g<1>2", text)
    text = re.sub(r'(expansion_factor": )\d+(?![\d.])', r"\g<1>2", text)
    for before, after in sizes.items():
        text = re.sub(rf"(?<![\w.]){before}(?![\w.])", str(after), text)
    return text.encode()


def file_of(folder: Path, files: list[str], end: str) -> Path | None:
    found = [f for f in files if f.endswith(end) or Path(f).name.startswith(end)]
    return folder / found[0] if found else None


def seed(path: str, number: int, patterns: list[str]) -> bytes:
    folder = GOLDEN / path
    about = json.loads((folder / "fixture.json").read_text())
    # Keys of a temporal SAE are a quarter of its features.
    sizes: dict[int, int] = {about["d_sae"]: 16, about["d_sae"] // 4: 4} if "temporal" in path else {}
    parts: list[bytes] = []
    absent = 0
    places = [file_of(folder, about["files"], pattern) for pattern in patterns]
    cuts: dict[int, bytes] = {}
    for i, place in enumerate(places):  # weights first: they say which numbers of the configuration are sizes
        if place is None:
            absent |= 1 << i
        elif place.suffix == ".safetensors":
            cuts[i] = cut_safetensors(place.read_bytes(), sizes, number in TWO_LAYERS)
        elif place.suffix == ".npz":
            cuts[i] = cut_npz(place, sizes)
        elif place.suffix in (".pt", ".pth"):
            cuts[i] = cut_torch(place.read_bytes(), sizes)
    for i, place in enumerate(places):
        if place is not None and i not in cuts:
            cuts[i] = cut_config(place.read_text(), sizes)
    for i in range(len(places)):
        body = cuts.get(i, b"")
        parts.append((struct.pack("<H", len(body)) if i < len(places) - 1 else b"") + body)
    return bytes([number, 4 | 2 << 4 if number in (9, 11) else 4, 0, absent]) + b"".join(parts)


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        bytes_ = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + bytes_]}
        at += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + np.linspace(-1, 1, at // 4, dtype=np.float32).tobytes()


def shards() -> bytes:
    """A SAELens folder in two shards."""
    config = json.dumps({"architecture": "standard", "d_in": 3, "d_sae": 5}).encode()
    index = json.dumps({"weight_map": {"W_enc": "a.safetensors", "b_dec": "b.safetensors"}}).encode()
    first, second = safetensors({"W_enc": [3, 5], "b_enc": [5]}), safetensors({"W_dec": [5, 3], "b_dec": [3]})
    return bytes([1, 0, 0, 0]) + b"".join(struct.pack("<H", len(b)) + b for b in (config, index, first)) + second


def gguf() -> bytes:
    """A GGUF file with an SAE of 3 inputs and 5 features."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    shapes = {"W_enc": [5, 3], "W_dec": [3, 5], "b_enc": [5], "b_dec": [3], "threshold": [5]}
    values = {"general.architecture": "sae", "sae.architecture": "jumprelu", "sae.normalize_activations": "layer_norm"}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(values))
    for key, value in values.items():
        out += text(key) + struct.pack("<I", 8) + text(value)
    at = 0
    for name, shape in shapes.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at)
        at += (4 * int(np.prod(shape)) + 31) // 32 * 32
    out += bytes(-len(out) % 32)
    return bytes([18, 0, 0, 0]) + out + np.linspace(-1, 1, at // 4, dtype=np.float32).tobytes()


def repeats() -> bytes:
    """A normaliser whose mean is one stored value for all inputs: a tensor with stride 0."""
    config = json.dumps({"trainer": {"dict_class": "BatchTopKSAE"}}).encode()
    state = {"encoder.weight": torch.ones(1).expand(64, 32), "decoder.weight": torch.ones(1).expand(32, 64), "encoder.bias": torch.ones(64)}
    state |= {"b_dec": torch.ones(1).expand(32), "threshold": torch.ones(()), "activation_mean": torch.ones(1).expand(32)}
    to = io.BytesIO()
    torch.save(state | {"activation_global_scale": torch.ones(1)}, to)
    return bytes([19, 0, 0, 0]) + struct.pack("<H", len(config)) + config + to.getvalue()


def main(to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    (to / "shards").write_bytes(shards())
    (to / "gguf").write_bytes(gguf())
    (to / "repeats").write_bytes(repeats())
    for entry in json.loads((GOLDEN / "golden.json").read_text())["fixtures"]:
        path = entry["path"]
        number, patterns = FORMATS.get(path) or FORMATS[path.split("/")[0]]
        (to / path.replace("/", "-")).write_bytes(seed(path, number, patterns))


main(Path(sys.argv[1]))
