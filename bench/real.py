"""SAEs that were trained on real activations, with rows of the same kind: what screening gains depends on how they are spread.

Those of `run.py --real DIR`: DIR has rows, x.npy [n][d_in] f32, and a folder for each SAE on them, as SAELens saves it. And the SAE of the
demo's world (examples/world), whose rows NumPy computes with the world's language model from texts of its grammar. A folder for the workers
holds the SAE's files and rows.f32 [N_ROWS][d_in].
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import planted
from planted import F32

N_ROWS = 2048
VERSION = "1"  # as in planted.py
WORLD = Path(__file__).resolve().parent.parent / "examples" / "world"


@dataclass(frozen=True)
class Source:
    name: str
    sae: Path
    d_in: int
    d_sae: int
    rows: Callable[[], F32]


def source(name: str, sae: Path, rows: Callable[[], F32]) -> Source:
    config = json.loads((sae / "cfg.json").read_text(encoding="utf-8"))
    return Source(name, sae, config["d_in"], config["d_sae"], rows)


def find(folder: Path | None) -> list[Source]:
    """The SAEs of the folder, and the world's."""
    out = []
    if folder:
        for config in sorted(folder.glob("*/cfg.json")):
            out.append(source(config.parent.name, config.parent, lambda: np.load(folder / "x.npy")))
    if (WORLD / "files" / "world.bin").exists():
        out.append(source("world-batchtopk", WORLD / "files" / "sae", world_rows))
    return out


def world_rows() -> F32:
    """Residuals at the SAE's hook point for texts of the grammar."""
    sys.path.insert(0, str(WORLD))
    from grammar import World
    from llama import Llama, pad
    from tokenizer import BOS, Tokenizer

    sys.path.remove(str(WORLD))

    lm = Llama.load_bin(WORLD / "files" / "world.bin")
    tok = Tokenizer.load(WORLD / "files" / "tokenizer.bin", lm.n_vocab)
    hook = json.loads((WORLD / "files" / "sae" / "cfg.json").read_text(encoding="utf-8"))["metadata"]["hook_name"]
    ids, length = pad([[BOS, *tok.encode(d.text())][:256] for d in World().evaluation(401, 64)])
    x = lm.blocks(lm.embed(ids), 0, int(hook.split(".")[1]) + 1)
    there = np.arange(ids.shape[1]) < length[:, None]
    there[:, 0] = False
    return np.ascontiguousarray(x[there], np.float32)


def make(root: Path, of: Source) -> Path:
    """The folder under root; made when it is not there yet."""
    folder = root / f"real-{of.name}-v{VERSION}"
    return folder if folder.exists() else planted.whole(folder, lambda part: write(part, of))


def write(folder: Path, of: Source) -> None:
    rows = of.rows()[:N_ROWS]
    if rows.shape != (N_ROWS, of.d_in):
        raise ValueError(f"{of.name}: rows of shape {rows.shape}, wanted [{N_ROWS}][{of.d_in}]")
    rows.astype(np.float32).tofile(folder / "rows.f32")
    np.arange(planted.MAX_FEATURES, dtype=np.int32).tofile(folder / "features.i32")
    for file in ("cfg.json", "sae_weights.safetensors"):
        shutil.copyfile(of.sae / file, folder / file)
