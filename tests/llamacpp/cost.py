"""What watching and clamping cost in llama.cpp: `B=build build/venv-llamacpp/bin/python tests/llamacpp/cost.py`, one thread.

Contexts take turns at every position of a text, so that whatever else the machine does meets all of them: bare, with a callback that wants
nothing, with a tap where nothing is done, with features 0 to 7 watched there, with features 0 to 3 clamped there. Figures are medians over
positions of the difference to the bare token, as a share of the median bare token.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xllamacpp
from conftest import ROOT, SET, WORLD, Host, compile_against_llama

sys.path.insert(0, str(ROOT / "examples" / "llamacpp"))
import convert  # noqa: E402


def write_sae(folder: Path, d_in: int, d_sae: int) -> Path:
    """A JumpReLU SAE of random weights, as SAELens saves it."""
    rng = np.random.default_rng(1)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}
    tensors = {k: (rng.standard_normal(s, np.float32) / 8).astype(np.float32) for k, s in shapes.items()}
    tensors["threshold"] = np.abs(tensors["threshold"])
    header, at = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": a.shape, "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    parts = [len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in tensors.values())]
    (folder / "sae_weights.safetensors").write_bytes(b"".join(parts))
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "normalize_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps({**config, "apply_b_dec_to_input": False}))
    return folder


def write_model(out: Path, shape: convert.Shape) -> Path:
    """Random weights, the words of the world's tokenizer."""
    rng = np.random.default_rng(2)
    head = shape.dim // shape.heads * shape.kv_heads
    sizes = {
        "attn_q": (shape.dim, shape.dim),
        "attn_k": (head, shape.dim),
        "attn_v": (head, shape.dim),
        "attn_output": (shape.dim, shape.dim),
    }
    sizes |= {"ffn_gate": (shape.hidden, shape.dim), "ffn_up": (shape.hidden, shape.dim), "ffn_down": (shape.dim, shape.hidden)}
    tensors = {"token_embd.weight": rng.standard_normal((shape.vocab, shape.dim), np.float32)}
    for layer in range(shape.layers):
        tensors |= {f"blk.{layer}.{k}.weight": rng.standard_normal(s, np.float32) / np.float32(32) for k, s in sizes.items()}
        tensors |= {f"blk.{layer}.{k}.weight": np.ones(shape.dim, np.float32) for k in ("attn_norm", "ffn_norm")}
    tensors["output_norm.weight"] = np.ones(shape.dim, np.float32)
    convert.write(out, "random", shape, tensors, convert.read_tokenizer(WORLD / "tokenizer.bin", shape.vocab))
    return out


def measure(lib: ctypes.CDLL, gguf: Path, sae: Path, layer: int, texts: int) -> str:
    hosts = [Host(lib, gguf, callback=i > 0, exact=False) for i in range(5)]
    watched, clamped = hosts[3:]
    for h in hosts[2:]:
        h.tap("l_out", layer)
    watched.watch(sae, range(8), 1)
    clamped.steer([{"op": SET, "value": 4.0, "feature": f} for f in range(4)], sae=sae)
    took: list[list[float]] = []
    for turn in range(-1, texts):
        for h in hosts:
            h.forget()
        for position in range(200):
            row = [0.0] * 5
            for i in range(5):
                which = (i + position) % 5
                began = time.perf_counter()
                status, _ = hosts[which].decode([300 + position], pos=[position])
                row[which] = time.perf_counter() - began
                assert status == 0, hosts[which].said
            if turn >= 0:
                took.append(row)
    base = statistics.median(r[0] for r in took)
    more = [f"{100 * statistics.median(r[i] - r[0] for r in took) / base:+.2f} %" for i in range(1, 5)]
    assert watched.counts()["hits"] == clamped.counts()["edited"] == 200 * (texts + 1)
    for h in hosts:
        h.close()
    return f"bare token {base * 1e6:.0f} us; wants nothing, a tap, 8 watched, 4 clamped: {', '.join(more)}"


def main() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        so = folder / "host.so"
        compile_against_llama(so, ROOT / "tests" / "llamacpp" / "host.c")
        ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))), mode=ctypes.RTLD_GLOBAL)
        lib = ctypes.CDLL(str(so))
        lib.host_open.restype = lib.host_said.restype = ctypes.c_void_p
        world = folder / "world.gguf"
        convert.main([str(WORLD / "world.bin"), str(WORLD / "tokenizer.bin"), str(world)])
        print("world, 7.6 MB:   ", measure(lib, world, WORLD / "sae", 2, 10), flush=True)
        large = write_model(folder / "large.gguf", convert.Shape(1024, 2816, 8, 16, 8, 6692, 256))
        sae = write_sae(folder / "sae", 1024, 4096)
        print(f"random, {large.stat().st_size / 1e6:.0f} MB: ", measure(lib, large, sae, 4, 1))


if __name__ == "__main__":
    main()
