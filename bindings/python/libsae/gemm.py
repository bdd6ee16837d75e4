"""Linear layers: weights packed once, then multiplied by rows."""

from __future__ import annotations

import weakref
from ctypes import byref, c_size_t
from typing import Any, Literal

import numpy as np

from . import _abi
from . import _arrays as arrays
from ._arrays import Array, Rows
from ._handle import Handle
from ._lib import call, create, lib, struct
from .env import Env, constant
from .errors import ShapeError, from_status

Backend = Literal["native", "blis", "auto"]

_BACKENDS = {"native": _abi.SAE_GEMM_NATIVE, "blis": _abi.SAE_GEMM_BLIS, "auto": _abi.SAE_GEMM_AUTO}


class Gemm:
    """A linear layer, y = x W^T + bias in float32. The weights are copied and packed; any number of threads may run it at once.

    weight   [n_out][n_in], as torch stores a Linear's: float32, float16 or bfloat16, any row stride
    bias     [n_out], or None
    backend  "native": a row's bits depend on nothing but the row and the weights; "blis": the BLIS library, where it is
             built in, see docs/gemm.md for what it does not promise; "auto": BLIS where only scalar kernels would run
    env      threads and instruction set; None = one thread
    """

    def __init__(self, weight: Rows, bias: Rows | None = None, backend: str = "native", env: Env | None = None) -> None:
        array, code = arrays.view(weight, "weight")
        if array.ndim != 2:
            raise ShapeError(f"weight has shape {array.shape}, but [n_out][n_in] is needed here")
        self._n_out, self._n_in = (int(n) for n in array.shape)
        w = arrays.rows(weight, self._n_in, "weight")
        weights = struct(_abi.sae_gemm_weights, dtype=code, w=w.rows.x, stride_bytes=w.rows.stride_bytes)
        weights.n_out, weights.n_in = arrays.int32(self._n_out, "n_out"), arrays.int32(self._n_in, "n_in")
        b = None if bias is None else arrays.vector(bias, self._n_out, "bias")
        weights.bias = None if b is None else arrays.address(b)
        use = Env() if env is None else env
        try:
            with use._handle as e:
                gemm = create(lib.sae_gemm_pack, e, byref(weights), constant(_BACKENDS, backend, "backend"))
            self._handle = Handle(gemm, lib.sae_gemm_free, "Gemm", [use._handle])
        finally:
            if env is None:
                use.close()  # from here on the matrix holds it
        form = struct(_abi.sae_gemm_form)
        lib.sae_gemm_info(gemm, byref(form))
        self._backend = lib.sae_gemm_backend_name(form.backend).decode()
        self._packed_bytes = int(form.packed_bytes)
        self._scratch: list[Array] = []
        self._finalizer = weakref.finalize(self, self._handle.close)

    @property
    def n_out(self) -> int:
        """Elements of a row of y."""
        return self._n_out

    @property
    def n_in(self) -> int:
        """Elements of a row of x."""
        return self._n_in

    @property
    def backend(self) -> str:
        """What computes, "native" or "blis"."""
        return str(self._backend)

    @property
    def packed_bytes(self) -> int:
        """Bytes that the packed weights take."""
        return self._packed_bytes

    def run(self, x: Rows, out: Rows | None = None) -> Any:
        """x [n_rows][n_in] times the weights, float32 [n_rows][n_out]. x is float32, float16 or bfloat16, NumPy or CPU torch, any
        row stride. `out` is float32, may not share memory with x, and is returned."""
        v = arrays.rows(x, self._n_in, "x")
        to = arrays.out(out, v.n, self._n_out)
        y = struct(_abi.sae_rows, dtype=_abi.SAE_F32, x=to.address, stride_bytes=to.stride, n_rows=v.n)
        with self._handle as gemm:
            scratch = self._take_scratch(gemm, v.n)
            call(lib.sae_gemm_run, gemm, byref(v.rows), byref(y), arrays.address(scratch), scratch.nbytes)
        self._scratch.append(scratch)
        return to.result

    def _take_scratch(self, gemm: int, n_rows: int) -> Array:
        """One that is large enough: the last call's, or a new one."""
        need = c_size_t()
        status = lib.sae_gemm_scratch_bytes(gemm, n_rows, byref(need))
        if status:
            raise from_status(status, f"no scratch for {n_rows} rows")
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = np.empty(0, np.uint8)
        return scratch if scratch.nbytes >= need.value else np.empty(need.value, np.uint8)

    def close(self) -> None:
        """Frees it, once calls under way in other threads are done."""
        self._finalizer()

    def __enter__(self) -> Gemm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<libsae.Gemm [{self._n_out}][{self._n_in}], {self._backend}>"


def has_blis() -> bool:
    """Whether the C library was built with the "blis" backend."""
    return int(lib.sae_gemm_blis_available()) == _abi.SAE_YES
