"""What the tests against sae-lens share: random rows, and the comparison of both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libsae
import numpy as np
import torch

Array = np.ndarray
D_IN, ROWS = 48, 70


def random_rows(n: int = ROWS, d: int = D_IN, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)).astype(np.float32)
    rows[3] *= 30.0
    return rows


def close(got: Array, want: Array, x: Array) -> None:
    """The rule of tests/golden: 1e-5 (1 + |want|) max(1, ||x|| / sqrt(d)), a row at a time."""
    scale = np.maximum(1.0, np.linalg.norm(x.astype(np.float64), axis=1) / np.sqrt(x.shape[1]))[:, None]
    excess = np.abs(got.astype(np.float64) - want) / ((1.0 + np.abs(want)) * scale)
    assert excess.max() <= 1e-5, f"worst at row, column {np.unravel_index(excess.argmax(), excess.shape)}: {excess.max():.3g}"


def compare(folder: Path, theirs: Any, x: Array, **options: Any) -> None:
    """Codes, active features and reconstruction of both sides."""
    rows = torch.from_numpy(x)
    with torch.no_grad():
        z = theirs.encode(rows)
        xhat = theirs.decode(z)
    ours = libsae.open(str(folder), **options)
    codes = ours.encode(x)
    dense = np.asarray(codes.dense())
    assert 0 < len(codes.values) < dense.size
    np.testing.assert_array_equal(dense != 0, z.numpy() != 0)
    close(dense, z.numpy(), x)
    close(np.asarray(ours.decode(codes)), xhat.numpy(), x)
