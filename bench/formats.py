"""The planted SAE of planted.py in the formats and containers that SAEs are published in, to see how long each takes to open.

`make` lays a format's files under the bench's data, once, with the name of the format behind that of the planted SAE. Beside them lies
first.txt: the first feature that is active on the first row and its code, by NumPy from the same weights. Torch files are written by torch:
`python formats.py SRC DST [legacy]` is what is run with a Python that has it.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import planted

F32 = npt.NDArray[np.float32]
Weights = dict[str, F32]
Code = tuple[int, float]
K = planted.ACTIVE


class Missing(Exception):
    """What writes this format is not on the machine."""


@dataclass(frozen=True)
class Tools:
    sae: Path  # the command line tool
    torch: str | None  # a Python with torch


def load(folder: Path) -> Weights:
    """The tensors of the planted SAE, as they lie in its file."""
    path = folder / "sae_weights.safetensors"
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entries = json.loads(f.read(n))
    return {
        name: np.memmap(path, np.float32, "r", 8 + n + entry["data_offsets"][0], tuple(entry["shape"])) for name, entry in entries.items()
    }


def first_row(folder: Path, w: Weights) -> F32:
    return np.fromfile(folder / "rows.f32", np.float32, w["W_enc"].shape[0])


# ---- other forms of the same SAE ----


def centred(w: Weights) -> F32:
    """The encoder's bias for an SAE that subtracts b_dec from its input."""
    return w["b_enc"] + w["b_dec"] @ w["W_enc"]


def relu_bias(w: Weights) -> F32:
    """h > threshold is h - threshold > 0: the same features fire, as a ReLU SAE."""
    return centred(w) - w["threshold"]


def to_bf16(a: F32) -> npt.NDArray[np.uint16]:
    """Rounded to even, as torch does; the weights are finite."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def from_bf16(a: npt.NDArray[np.uint16]) -> F32:
    return (a.astype(np.uint32) << 16).view(np.float32)


# ---- which code comes first, and its value ----


def first_jumprelu(w: Weights, x: F32) -> Code:
    h = x @ w["W_enc"] + w["b_enc"]
    i = int(np.argmax(h > w["threshold"]))
    return i, float(h[i])


def first_bf16(w: Weights, x: F32) -> Code:
    return first_jumprelu({name: from_bf16(to_bf16(a)) for name, a in w.items()}, x)


def first_relu(w: Weights, x: F32) -> Code:
    i, h = first_jumprelu(w, x)
    return i, h - float(w["threshold"][i])


def first_topk(w: Weights, x: F32) -> Code:
    h = x @ w["W_enc"] + w["b_enc"]
    i = int(np.argpartition(-h, K)[:K].min())
    return i, float(h[i])


# ---- safetensors ----


def write_safetensors(path: Path, tensors: dict[str, npt.NDArray[np.generic]], dtype: str = "F32") -> None:
    head, _ = planted.header({name: a.shape for name, a in tensors.items()}, dtype)
    with open(path, "wb") as f:
        f.write(head)
        for a in tensors.values():
            f.write(np.ascontiguousarray(a).data)


def write_config(folder: Path, w: Weights, dtype: str = "float32") -> None:
    (folder / "cfg.json").write_text(json.dumps({**planted.config(*w["W_enc"].shape), "dtype": dtype}, indent=1))


def saelens_bf16(folder: Path, w: Weights) -> None:
    write_config(folder, w, "bfloat16")
    write_safetensors(folder / "sae_weights.safetensors", {name: to_bf16(a) for name, a in w.items()}, "BF16")


def saelens_shards(folder: Path, w: Weights) -> None:
    write_config(folder, w)
    names = {
        f"sae_weights-{i + 1:05}-of-00002.safetensors": part for i, part in enumerate((["W_enc", "b_enc"], ["W_dec", "b_dec", "threshold"]))
    }
    for file, part in names.items():
        write_safetensors(folder / file, {name: w[name] for name in part})
    index = {
        "metadata": {"total_size": sum(a.nbytes for a in w.values())},
        "weight_map": {name: file for file, part in names.items() for name in part},
    }
    (folder / "sae_weights.safetensors.index.json").write_text(json.dumps(index))


def sparsify(folder: Path, w: Weights) -> None:
    d_in, d_sae = w["W_enc"].shape
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": d_sae, "k": K, "multi_topk": False}
    (folder / "cfg.json").write_text(json.dumps({**config, "skip_connection": False, "transcode": False, "d_in": d_in}))
    tensors = {"W_dec": w["W_dec"], "b_dec": w["b_dec"], "encoder.bias": centred(w), "encoder.weight": w["W_enc"].T}
    write_safetensors(folder / "sae.safetensors", tensors)


# ---- npz, GGUF, .sae ----


def npz(folder: Path, w: Weights) -> None:
    np.savez(folder / "params.npz", **w)


def npz_deflated(folder: Path, w: Weights) -> None:
    """Like np.savez_compressed, with less effort: random weights do not get smaller by more."""
    with zipfile.ZipFile(folder / "params.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as f:
        for name, a in w.items():
            with f.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(a), allow_pickle=False)


def gguf_text(s: str) -> bytes:
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(folder: Path, w: Weights) -> None:
    text, boolean, f32, align = 8, 7, 0, 32
    values = [gguf_text("general.architecture") + struct.pack("<I", text) + gguf_text("sae"),
              gguf_text("sae.architecture") + struct.pack("<I", text) + gguf_text("jumprelu"),
              gguf_text("sae.apply_b_dec_to_input") + struct.pack("<IB", boolean, 0)]  # fmt: skip
    infos, at = [], 0
    for name, a in w.items():
        dims = a.shape[::-1]  # the fastest first
        infos.append(gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, f32, at))
        at += a.nbytes + -a.nbytes % align
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(values)) + b"".join(values + infos)
    with open(folder / "sae.gguf", "wb") as f:
        f.write(head + b"\0" * (-len(head) % align))
        for a in w.values():
            f.write(np.ascontiguousarray(a).data)
            f.write(b"\0" * (-a.nbytes % align))


def sae_file(folder: Path, src: Path, tools: Tools) -> None:
    done = subprocess.run([str(tools.sae), "convert", str(src), str(folder / "planted.sae")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(done.stderr.strip())


# ---- torch ----


def dictionary_learning(folder: Path, w: Weights, legacy: bool) -> None:
    """As trainers of dictionary_learning save an AutoEncoder: torch.save(ae.state_dict()), and config.json."""
    import torch

    d_in, d_sae = w["W_enc"].shape
    arrays = {"bias": w["b_dec"], "encoder.weight": w["W_enc"].T, "encoder.bias": relu_bias(w), "decoder.weight": w["W_dec"].T}
    state = {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items()}
    torch.save(state, folder / "ae.pt", _use_new_zipfile_serialization=not legacy)
    trainer = {"dict_class": "AutoEncoder", "activation_dim": d_in, "dict_size": d_sae, "lm_name": "planted", "layer": 0}
    (folder / "config.json").write_text(
        json.dumps({"trainer": {**trainer, "submodule_name": "resid_post_layer_0"}, "buffer": {"ctx_len": 128}})
    )


def by_torch(legacy: bool) -> Callable[[Path, Path, Tools], None]:
    def write(folder: Path, src: Path, tools: Tools) -> None:
        if not tools.torch:
            raise Missing("no Python with torch")
        argv = [tools.torch, __file__, str(src), str(folder), *(["legacy"] if legacy else [])]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(done.stderr.strip())

    return write


# ---- all of them ----


@dataclass(frozen=True)
class Format:
    name: str  # in bench.json: the variant
    what: str  # for people
    file: str  # that is opened, "" for the folder
    write: Callable[[Path, Path, Tools], None]  # folder, that of the planted SAE, tools
    first: Callable[[Weights, F32], Code] = first_jumprelu
    saelens: bool = False  # SAELens reads it too
    fp32: bool = True
    slow: bool = False  # it has to be unpacked: no target is set, and making one takes a while


def plain(write: Callable[[Path, Weights], None]) -> Callable[[Path, Path, Tools], None]:
    return lambda folder, src, tools: write(folder, load(src))


ALL = (
    Format("saelens-bf16", "SAELens safetensors, bf16", "", plain(saelens_bf16), first_bf16, saelens=True, fp32=False),
    Format("saelens-shards", "SAELens safetensors in two shards", "", plain(saelens_shards)),
    Format("gemma_scope", "Gemma Scope npz, stored", "params.npz", plain(npz), saelens=True),
    Format("gemma_scope-deflated", "Gemma Scope npz, deflated", "params.npz", plain(npz_deflated), slow=True),
    Format("dictionary_learning", "dictionary_learning .pt, a zip", "", by_torch(legacy=False), first_relu, saelens=True),
    Format("dictionary_learning-legacy", "dictionary_learning .pt, as torch < 1.6 wrote it", "", by_torch(legacy=True), first_relu),
    Format("sparsify", "sparsify safetensors", "", plain(sparsify), first_topk),
    Format("gguf", "GGUF", "sae.gguf", plain(gguf)),
    Format("sae", ".sae", "planted.sae", sae_file),
)


def first_of(folder: Path) -> Code:
    feature, value = (folder / "first.txt").read_text().split()
    return int(feature), float(value)


def make(fmt: Format, src: Path, tools: Tools) -> Path:
    """The folder of a format beside the planted SAE in `src`; made when it is not there yet, as a whole or not at all."""
    folder = src.with_name(f"{src.name}-{fmt.name}")
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir()
    try:
        fmt.write(part, src, tools)
        w = load(src)
        (part / "first.txt").write_text("{} {:g}\n".format(*fmt.first(w, first_row(src, w))))
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


if __name__ == "__main__":
    dictionary_learning(Path(sys.argv[2]), load(Path(sys.argv[1])), legacy="legacy" in sys.argv[3:])
