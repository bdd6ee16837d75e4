"""Linear layers: weights packed once, then multiplied by rows."""

from __future__ import annotations

import weakref
from ctypes import byref, c_size_t, pointer
from typing import Any, Literal, NamedTuple

import numpy as np

from . import _abi
from . import _arrays as arrays
from ._arrays import Array, Rows
from ._handle import Handle
from ._lib import call, create, lib, struct
from .env import Env, constant
from .errors import ArgError, ShapeError, from_status

Backend = Literal["native", "blis", "auto"]
Storage = Literal["f32", "stored", "int8 rows", "int8 blocks"]

_BACKENDS = {"native": _abi.SAE_GEMM_NATIVE, "blis": _abi.SAE_GEMM_BLIS, "auto": _abi.SAE_GEMM_AUTO}
_STORAGES = {
    "f32": _abi.SAE_GEMM_AS_F32,
    "stored": _abi.SAE_GEMM_AS_STORED,
    "int8 rows": _abi.SAE_GEMM_INT8_ROWS,
    "int8 blocks": _abi.SAE_GEMM_INT8_BLOCKS,
}


class _Bytes(NamedTuple):
    """Quantised weights and their scales. The arrays keep the memory alive."""

    w: Array
    scales: Array
    dtype: int
    n_in: int
    block_bytes: int

    @property
    def stride(self) -> int:
        return int(self.w.strides[0])


def _int8(x: Any, name: str) -> Array:
    a = np.asarray(x.numpy() if hasattr(x, "numpy") else x)
    if a.dtype != np.int8:
        raise TypeError(f"{name} is {a.dtype.name}: with scales, weights are int8")
    if a.ndim not in (2, 3) or a.strides[-1] != 1:
        raise ShapeError(f"{name} has shape {a.shape} and strides {a.strides}: [n_out][n_in] or [n_out][n_blocks][32], rows unbroken")
    return a


def _quantised(weight: Any, scales: Any, storage: str, name: str) -> _Bytes:
    """[n_out][n_in] with scales of their own, or [n_out][n_blocks][32] with scales that lie as far apart as the blocks."""
    w, (s, code) = _int8(weight, name), arrays.view(scales, f"{name}'s scales")
    n_in, block = int(np.prod(w.shape[1:])), _abi.SAE_GEMM_BLOCK
    n_blocks = -(-n_in // block)
    want = (w.shape[0],) if storage == "int8 rows" else (w.shape[0], n_blocks)
    if s.shape != want:
        raise ShapeError(f"{name}'s scales have shape {s.shape}, but {want} are needed for {storage!r}")
    if w.ndim == 2:
        return _Bytes(w, np.ascontiguousarray(s), code, n_in, 0)
    if w.shape[2] != block or s.strides != w.strides[:2] or storage != "int8 blocks":
        raise ShapeError(
            f"{name} has shape {w.shape} and strides {w.strides}, its scales {s.strides}: [n_out][n_blocks][32] and as far apart"
        )
    return _Bytes(w, s, code, n_in, int(w.strides[1]))


class Gemm:
    """A linear layer, y = x W^T + bias in float32. The weights are copied and packed; any number of threads may run it at once.

    weight   [n_out][n_in], as torch stores a Linear's: float32, float16 or bfloat16, any row stride
    bias     [n_out], or None
    backend  "native": a row's bits depend on nothing but the row and the weights; "blis": the BLIS library, where it is
             built in, see docs/gemm.md for what it does not promise; "auto": BLIS where only scalar kernels would run
    env      threads and instruction set; None = one thread
    storage  what is kept of a weight: "f32"; "stored", 2 bytes for float16 and bfloat16; "int8 rows" and "int8 blocks", a byte, and
             a scale for each row or for every 32 weights of one
    scales   weight is int8 then, quantised already: [n_out] for rows, [n_out][ceil(n_in / 32)] for blocks, in any dtype of rows. For
             Q8_0 as GGUF files hold it, weight is a view [n_out][n_blocks][32] and scales one [n_out][n_blocks] of the same bytes
    gate     a second weight, of the same kind: y = silu(x gate^T + gate_bias) * (x weight^T + bias)
    """

    def __init__(
        self,
        weight: Rows,
        bias: Rows | None = None,
        backend: str = "native",
        env: Env | None = None,
        *,
        storage: str = "f32",
        scales: Rows | None = None,
        gate: Rows | None = None,
        gate_bias: Rows | None = None,
        gate_scales: Rows | None = None,
    ) -> None:
        weights = struct(_abi.sae_gemm_weights, storage=constant(_STORAGES, storage, "storage"))
        kept = [self._describe(weights, weight, scales, "weight", storage)]
        if gate is not None:
            kept.append(self._describe_gate(weights, gate, gate_scales, storage))
        elif gate_bias is not None or gate_scales is not None:
            raise ArgError("gate_bias and gate_scales are those of a gate, and there is none")
        for name, given in (("bias", bias), ("gate_bias", gate_bias)):
            b = None if given is None else arrays.vector(given, self._n_out, name)
            setattr(weights, name, None if b is None else arrays.address(b))
            kept.append(b)
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
        self._storage = lib.sae_gemm_storage_name(form.storage).decode()
        self._packed_bytes = int(form.packed_bytes)
        self._scratch: list[Array] = []
        self._finalizer = weakref.finalize(self, self._handle.close)

    def _describe(self, to: Any, weight: Any, scales: Any, name: str, storage: str) -> Any:
        """Fills in a matrix; returns what must live until it is packed."""
        if scales is not None:
            q = _quantised(weight, scales, storage, name)
            self._n_out, self._n_in = int(q.w.shape[0]), q.n_in
            to.dtype, to.w, to.stride_bytes, to.block_bytes = q.dtype, arrays.address(q.w), q.stride, q.block_bytes
            to.scales = arrays.address(q.scales)
            held: Any = q
        else:
            array, to.dtype = arrays.view(weight, name)
            if array.ndim != 2:
                raise ShapeError(f"{name} has shape {array.shape}, but [n_out][n_in] is needed here")
            self._n_out, self._n_in = (int(n) for n in array.shape)
            held = arrays.rows(weight, self._n_in, name)
            to.w, to.stride_bytes = held.rows.x, held.rows.stride_bytes
        to.n_out, to.n_in = arrays.int32(self._n_out, "n_out"), arrays.int32(self._n_in, "n_in")
        return held

    def _describe_gate(self, to: Any, gate: Any, scales: Any, storage: str) -> Any:
        other = struct(_abi.sae_gemm_weights)
        held = self._describe(other, gate, scales, "gate", storage)
        for field in ("n_out", "n_in", "dtype", "stride_bytes", "block_bytes"):
            if getattr(other, field) != getattr(to, field):
                raise ShapeError(f"gate and weight differ in {field}: {getattr(other, field)} and {getattr(to, field)}")
        to.gate, to.gate_scales = other.w, other.scales
        return held

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
    def storage(self) -> str:
        """What is kept of a weight, "f32", "stored", "int8 rows" or "int8 blocks"."""
        return str(self._storage)

    @property
    def packed_bytes(self) -> int:
        """Bytes that the packed weights take."""
        return self._packed_bytes

    def run(self, x: Rows, out: Rows | None = None, residual: Rows | None = None, threshold: Rows | None = None) -> Any:
        """x [n_rows][n_in] times the weights, float32 [n_rows][n_out]. x is float32, float16 or bfloat16, NumPy or CPU torch, any
        row stride. `out` is float32, may not share memory with x, and is returned. `residual` [n_rows][n_out] is added, and may be
        `out` itself; what is not above `threshold` [n_out] then becomes 0."""
        v = arrays.rows(x, self._n_in, "x")
        to = arrays.out(out, v.n, self._n_out)
        y = struct(_abi.sae_rows, dtype=_abi.SAE_F32, x=to.address, stride_bytes=to.stride, n_rows=v.n)
        added = None if residual is None else arrays.rows(residual, self._n_out, "residual")
        cut = None if threshold is None else arrays.vector(threshold, self._n_out, "threshold")
        epilogue = struct(_abi.sae_gemm_epilogue)
        epilogue.residual = None if added is None else pointer(added.rows)
        epilogue.threshold = None if cut is None else arrays.address(cut)
        with self._handle as gemm:
            scratch = self._take_scratch(gemm, v.n)
            call(lib.sae_gemm_run_with, gemm, byref(v.rows), byref(y), byref(epilogue), arrays.address(scratch), scratch.nbytes)
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
        kept = "" if self._storage == "f32" else f", {self._storage}"
        return f"<libsae.Gemm [{self._n_out}][{self._n_in}], {self._backend}{kept}>"


def has_blis() -> bool:
    """Whether the C library was built with the "blis" backend."""
    return int(lib.sae_gemm_blis_available()) == _abi.SAE_YES
