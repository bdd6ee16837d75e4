"""Codes that hosts have collected piece by piece, as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import Array
from .codes import Codes


def _sparse(values: Array, features: Array, d_sae: int) -> Codes:
    """Codes of a few features as rows of a sparse matrix."""
    row, column = np.nonzero(values)
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(values, axis=1))]).astype(np.int64)
    return Codes(indptr, features[column], values[row, column], d_sae)


def join(parts: list[Any], features: Array | None, d_sae: int) -> Codes:
    """Codes of several passes as one."""
    if features is not None:
        return _sparse(np.concatenate([np.empty((0, len(features)), np.float32), *parts]), features, d_sae)
    lengths = [np.diff(part.indptr) for part in parts]
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))]).astype(np.int64)
    indices = np.concatenate([np.empty(0, np.int32), *(part.indices for part in parts)])
    values = np.concatenate([np.empty(0, np.float32), *(part.values for part in parts)])
    per_row = [[getattr(part, name) for part in parts] for name in ("row_scale", "row_shift")]
    joined = [None if not a or a[0] is None else np.concatenate(a) for a in per_row]
    codes = Codes(indptr, indices, values, d_sae, *joined)
    codes.nonfinite = sum(part.nonfinite for part in parts)
    return codes
