"""Sparse codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _abi
from ._arrays import Array, Rows, address, int32, ints, out
from ._lib import struct
from .errors import ArgError, ShapeError


def _typed(a: Any, dtype: Any, name: str) -> Array:
    """A 1-D array of this type as it is: codes are not copied."""
    want = f"give a contiguous 1-D array of {np.dtype(dtype).name}"
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name} is a {type(a).__name__}: {want}")
    if a.dtype != dtype or a.ndim != 1 or not a.flags.c_contiguous or not a.flags.aligned:
        raise TypeError(f"{name} is {a.dtype.name} of shape {a.shape} with strides {a.strides}: {want}")
    return a


class Codes:
    """Active features of `n_rows` rows, compressed by rows as in scipy.sparse.csr_matrix.

    indptr     int64 [n_rows + 1]; row r is indices[indptr[r]:indptr[r + 1]]
    indices    int32 [n], feature numbers, ascending within a row
    values     float32 [n], finite and not 0
    d_sae      features of the SAE
    row_scale  float32 [n_rows] or None: what un-normalises a decoded row, y * row_scale + row_shift; present for SAEs
    row_shift  that normalise each row ("constant_norm_rescale", "layer_norm"), and needed by decode
    nonfinite  pre-activations of the encoded rows that were NaN or infinite, and therefore inactive

    The constructor takes such arrays and copies none of them.
    """

    def __init__(
        self,
        indptr: Array,
        indices: Array,
        values: Array,
        d_sae: int,
        row_scale: Array | None = None,
        row_shift: Array | None = None,
    ) -> None:
        _typed(indptr, np.int64, "indptr")
        _typed(indices, np.int32, "indices")
        _typed(values, np.float32, "values")
        if len(indptr) < 1 or len(indices) != len(values):
            raise ShapeError(f"indptr has {len(indptr)} elements, indices {len(indices)}, values {len(values)}")
        for name, a in (("row_scale", row_scale), ("row_shift", row_shift)):
            if a is not None and len(_typed(a, np.float32, name)) < len(indptr) - 1:
                raise ShapeError(f"{name} has {len(a)} elements, there are {len(indptr) - 1} rows")
        if indptr[0] != 0 or indptr[-1] > len(values) or (np.diff(indptr) < 0).any():
            raise ArgError(  # NumPy would make a wrong slice of a wrong offset, without a word
                f"indptr goes from {indptr[0]} to {indptr[-1]} over {len(values)} values: it must start at 0, never fall, "
                "and not pass the end"
            )
        self._take(indptr, indices, values, int32(d_sae, "d_sae"), row_scale, row_shift)

    def _take(self, indptr: Array, indices: Array, values: Array, d_sae: int, row_scale: Array | None, row_shift: Array | None) -> None:
        """Arrays that are known to be right."""
        self._indptr, self._indices, self._values = indptr, indices, values
        self._row_scale, self._row_shift = row_scale, row_shift
        self.d_sae = d_sae
        self.n_rows = len(indptr) - 1
        self.nonfinite = 0
        self._c = struct(
            _abi.sae_codes,
            capacity=len(values),
            indptr=address(indptr),
            indices=address(indices),
            values=address(values),
            row_scale=None if row_scale is None else address(row_scale),
            row_shift=None if row_shift is None else address(row_shift),
        )

    @classmethod
    def empty(cls, n_rows: int, capacity: int, d_sae: int, normalised: bool = False) -> Codes:
        """Room for `capacity` codes of up to `n_rows` rows, to be filled by `sae.encode(x, out=...)`. `normalised`: with
        row_scale and row_shift."""
        per_row = (np.ones(n_rows, np.float32), np.zeros(n_rows, np.float32)) if normalised else (None, None)
        self = cls.__new__(cls)
        indices, values = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
        self._take(np.zeros(n_rows + 1, np.int64), indices, values, d_sae, *per_row)
        return self

    @classmethod
    def from_scipy(cls, matrix: Any) -> Codes:
        """Codes of a scipy.sparse matrix [n_rows][d_sae]. Its arrays are shared where their types allow it."""
        csr = matrix.tocsr()
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        values = np.ascontiguousarray(csr.data, np.float32)
        return cls(np.ascontiguousarray(csr.indptr, np.int64), ints(csr.indices, "indices"), values, csr.shape[1])

    @property
    def indptr(self) -> Array:
        """int64 [n_rows + 1]: where each row starts, and the end."""
        return self._indptr[: self.n_rows + 1]

    @property
    def indices(self) -> Array:
        """int32 [n]: feature numbers, ascending within a row."""
        return self._indices[: self._indptr[self.n_rows]]

    @property
    def values(self) -> Array:
        """float32 [n]: their codes."""
        return self._values[: self._indptr[self.n_rows]]

    @property
    def row_scale(self) -> Array | None:
        """float32 [n_rows] or None, see above."""
        return None if self._row_scale is None else self._row_scale[: self.n_rows]

    @property
    def row_shift(self) -> Array | None:
        """float32 [n_rows] or None, see above."""
        return None if self._row_shift is None else self._row_shift[: self.n_rows]

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, d_sae)"""
        return self.n_rows, self.d_sae

    @property
    def csr(self) -> tuple[Array, Array, Array]:
        """(values, indices, indptr), as `scipy.sparse.csr_matrix(codes.csr, shape=codes.shape)` takes them."""
        return self.values, self.indices, self.indptr

    def row(self, r: int) -> tuple[Array, Array]:
        """Features and values of one row, as views."""
        if not -self.n_rows <= r < self.n_rows:
            raise IndexError(f"row {r} of {self.n_rows}")
        first, last = self._indptr[r % self.n_rows], self._indptr[r % self.n_rows + 1]
        return self._indices[first:last], self._values[first:last]

    def dense(self, out: Rows | None = None) -> Any:
        """The codes as float32 [n_rows][d_sae], 0 where a feature is inactive."""
        to = _out(out, self.n_rows, self.d_sae)
        to.array[...] = 0
        to.array[np.repeat(np.arange(self.n_rows), np.diff(self.indptr)), self.indices] = self.values
        return to.result

    def to_scipy(self) -> Any:
        """A scipy.sparse.csr_matrix [n_rows][d_sae] of these codes."""
        from scipy.sparse import csr_matrix

        return csr_matrix(self.csr, shape=self.shape)

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return f"<libsae.Codes {self.n_rows} rows of {self.d_sae} features, {self._indptr[self.n_rows]} active>"

    # ---- for the model ----

    def _room(self) -> int:
        """Rows that fit."""
        room = len(self._indptr) - 1
        return min([room] + [len(a) for a in (self._row_scale, self._row_shift) if a is not None])

    def _struct(self) -> Any:
        self._c.n_rows = self.n_rows
        return self._c


_out = out  # `out` is the name of an argument above
