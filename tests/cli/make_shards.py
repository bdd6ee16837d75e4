"""Activation shards for the test of `sae catalog build`: rows of an SAE's own fixture, scaled so that some are equal, with random
tokens and documents.

Usage: make_shards.py FOLDER SAE unembed|none N. Beside FOLDER, FOLDER.x.npy and FOLDER.places.npy hold the rows of all shards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

VOCAB, DOCUMENTS = 50, 401


def main(folder: Path, sae: Path, unembed: bool, n: int) -> None:
    config = json.loads((sae / "cfg.json").read_text("utf-8"))
    fixture = np.load(sae / "x.npy").reshape(-1, config["d_in"])
    rng = np.random.default_rng(3)
    x = (fixture[rng.integers(0, len(fixture), n)] * rng.choice([0.5, 1.0, 1.5], (n, 1))).astype("<f4")
    starts = np.concatenate([[0], np.sort(rng.choice(np.arange(1, n), DOCUMENTS - 1, replace=False))])
    document = np.searchsorted(starts, np.arange(n), side="right") - 1
    token = rng.integers(0, VOCAB, n)
    places = np.stack([token, document, np.arange(n) - starts[document]], 1).astype("<i4")
    index = {"format": "libsae activations", "version": 1, "model": "m", "hook_name": config["metadata"]["hook_name"], "d_in": x.shape[1]}
    index.update({"vocab": "vocab.json", "shards": []})
    for i, (a, b) in enumerate(((0, 0), (0, n // 3), (n // 3, n // 2), (n // 2, n))):
        names = {"activations": f"activations-{i:05}.npy", "tokens": f"tokens-{i:05}.npy"}
        np.save(folder / names["activations"], x[a:b].astype("<f2") if i == 2 else x[a:b])
        np.save(folder / names["tokens"], places[a:b])
        index["shards"].append({**names, "rows": b - a})
    x[n // 3 : n // 2] = x[n // 3 : n // 2].astype("<f2")
    (folder / "vocab.json").write_text(json.dumps([f"<{i}>" for i in range(VOCAB)]), "utf-8")
    if unembed:
        np.save(folder / "unembed.npy", rng.standard_normal((VOCAB, x.shape[1])).astype("<f4"))
        index["unembed"] = "unembed.npy"
    (folder / "shards.json").write_text(json.dumps(index), "utf-8")
    np.save(f"{folder}.x.npy", x)
    np.save(f"{folder}.places.npy", places)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "unembed", int(sys.argv[4]))
