"""Writes the seeds of fuzz_open: one small SAELens folder of every architecture, packed as fuzz_open.c reads them.

Usage: seeds.py FOLDER
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

D, N = 3, 5
CODES = {"F32": "f", "F16": "e", "BF16": "H"}


def values(n: int, dtype: str) -> bytes:
    numbers = [((i * 7) % 11 - 5) / 8 for i in range(n)]
    if dtype == "BF16":
        return b"".join(struct.pack("<f", v)[2:] for v in numbers)
    return struct.pack(f"<{n}{CODES[dtype]}", *numbers)


def safetensors(shapes: dict[str, list[int]], dtype: str = "F32") -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for name, shape in shapes.items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        raw = values(n, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def seed(config: dict[str, Any], shapes: dict[str, list[int]], dtype: str = "F32", flags: int = 8) -> bytes:
    text = json.dumps({"d_in": D, "d_sae": N, "dtype": "float32", **config}).encode() if config else b""
    return bytes([flags]) + struct.pack("<H", len(text)) + text + safetensors(shapes, dtype)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    common = {"W_enc": [D, N], "W_dec": [N, D], "b_dec": [D]}
    plain = {**common, "b_enc": [N]}
    relu = {"architecture": "standard", "apply_b_dec_to_input": True, "normalize_activations": "none"}
    gated = {**common, "b_gate": [N], "b_mag": [N], "r_mag": [N]}
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "finetuning_scaling_factor": False}
    seeds = {
        "standard": seed(relu, plain),
        "standard_bf16_copied": seed(relu, plain, "BF16", 4),
        "standard_layer_norm": seed({**relu, "normalize_activations": "layer_norm"}, plain),
        "standard_hook_z": seed({**relu, "reshape_activations": "hook_z"}, plain),
        "jumprelu_f16": seed({"architecture": "jumprelu"}, {**plain, "threshold": [N]}, "F16"),
        "jumprelu_log": seed({"architecture": "jumprelu_training"}, {**plain, "log_threshold": [N]}),
        "topk": seed({"architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}, plain),
        "gated": seed({"architecture": "gated"}, gated),
        "old_topk": seed(old, plain),
        "old_scaled": seed({"finetuning_scaling_factor": True}, {**plain, "scaling_factor": [N]}),
        "bare": seed({}, plain, flags=1),
        "transcoder": seed({"architecture": "transcoder", "d_out": 4}, {**plain, "W_dec": [N, 4], "b_dec": [4]}),
    }
    for name, data in seeds.items():
        (folder / name).write_bytes(data)


main(Path(sys.argv[1]))
