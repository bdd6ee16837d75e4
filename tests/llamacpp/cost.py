"""What watching and clamping cost in llama.cpp, one thread:

    B=build LIBSAE_LIBRARY=build/libsae.so PYTHONPATH=bindings/python build/venv-llamacpp/bin/python tests/llamacpp/cost.py

Contexts take turns at every position of a text, so that whatever else the machine does meets all of them: bare, with a callback that wants
nothing, with a tap where nothing is done, with features 0 to 7 watched there, with features 0 to 3 clamped there. Figures are medians over
positions of the difference to the bare token, as a share of the median bare token. Then the encode of every token by all features of an SAE
of 2304 x 16384, beside a model of that width.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import tempfile
import time
from pathlib import Path

import libsae
import numpy as np
import xllamacpp
from conftest import ROOT, SET, WORLD, Host, compile_against_llama

import convert  # isort: skip


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


def measure(lib: ctypes.CDLL, gguf: Path, sae: Path, layer: int, positions: int, texts: int) -> tuple[float, list[float]]:
    """Seconds of a bare token; and in per cent of it what a callback that wants nothing, a tap, 8 features watched and 4 clamped add. It is
    the time of this thread, which does all the work: others on the machine count less."""
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
        for position in range(positions):
            row = [0.0] * 5
            for i in range(5):
                which = (i + position) % 5
                began = time.thread_time()
                status, _ = hosts[which].decode([300 + position], pos=[position])
                row[which] = time.thread_time() - began
                assert status == 0, hosts[which].said
            if turn >= 0:
                took.append(row)
    base = statistics.median(r[0] for r in took)
    more = [100 * statistics.median(r[i] - r[0] for r in took) / base for i in range(1, 5)]
    assert watched.counts()["hits"] == clamped.counts()["edited"] == positions * (texts + 1)
    for h in hosts:
        h.close()
    return base, more


def sparse_sae(row: np.ndarray, d_sae: int) -> libsae.Sae:
    """Random directions, of which 0.5 % are active on rows like this one, as in a trained SAE."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((d_sae, row.shape[1]), np.float32) / np.float32(48)
    threshold = np.full(d_sae, np.quantile(row @ w.T, 0.995), np.float32)
    return libsae.from_weights(w.T, w, threshold=threshold, architecture="jumprelu")


def encode_all(lib: ctypes.CDLL, gguf: Path, d_sae: int, positions: int) -> tuple[float, float, float]:
    """Seconds of a token, with its rows copied at the first layer; of the encode of its row by all features; and of that by the screen."""
    h = Host(lib, gguf, exact=False)
    h.tap("l_out", 0)
    row = h.copy(1)
    h.decode([300], pos=[0])
    dense, screened = sparse_sae(row, d_sae), sparse_sae(row, d_sae)
    dense.prepare("rows")
    screened.prepare("screen")
    took: list[list[float]] = []
    for position in range(1, positions + 1):
        at = [time.thread_time()]
        status, _ = h.decode([300 + position], pos=[position])
        assert status == 0, h.said
        at.append(time.thread_time())
        for sae in (dense, screened):
            assert sae.encode(row).indptr[-1] > 0
            at.append(time.thread_time())
        took.append([b - a for a, b in zip(at, at[1:])])
    h.close()
    token, encode, by_screen = (statistics.median(t[i] for t in took) for i in range(3))
    return token, encode, by_screen


def said(base: float, more: list[float]) -> str:
    return f"bare token {base * 1e6:.0f} us; wants nothing, a tap, 8 watched, 4 clamped: {', '.join(f'{m:+.2f} %' for m in more)}"


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
        print("world, 7.6 MB:   ", said(*measure(lib, world, WORLD / "sae", 2, 200, 10)), flush=True)
        large = write_model(folder / "large.gguf", convert.Shape(1024, 2816, 8, 16, 8, 6692, 256))
        sae = write_sae(folder / "sae", 1024, 4096)
        print(f"random, {large.stat().st_size / 1e6:.0f} MB: ", said(*measure(lib, large, sae, 4, 60, 1)), flush=True)
        wide = write_model(folder / "wide.gguf", convert.Shape(2304, 9216, 2, 8, 4, 6692, 256))
        token, encode, screen = encode_all(lib, wide, 16384, 60)
        print(f"random, {wide.stat().st_size / 1e6:.0f} MB of 2 layers: a token {token * 1e3:.1f} ms, its encode by 2304 x 16384 ", end="")
        print(f"{encode * 1e3:.1f} ms ({encode / token:.2f} of it), through the screen {screen * 1e3:.1f} ms ({screen / token:.2f})")


if __name__ == "__main__":
    main()
