"""Arrays and tensors as the C library sees them: an address, a dtype, a stride. Nothing here copies rows.

Rows are float32, float16 or bfloat16: NumPy arrays (bfloat16 as ml_dtypes' type, or as the uint16 that hold its bits),
objects with `__array_interface__`, or torch tensors in CPU memory. torch is never imported; a tensor tells what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from . import _abi
from ._lib import struct
from .errors import ArgError, ShapeError

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray
#: What the documentation calls rows: `[n][d]`, or `[d]` for a single row; an array or a CPU torch tensor.
Rows = Union[Array, Any]
#: Feature numbers: one, or several.
Features = Union[int, Sequence[int], Array]

_INT32 = np.iinfo(np.int32)
_CODES = {np.dtype(np.float32): _abi.SAE_F32, np.dtype(np.float16): _abi.SAE_F16, np.dtype(np.uint16): _abi.SAE_BF16}
_TENSORS = {
    "torch.float32": ("<f4", _abi.SAE_F32),
    "torch.float16": ("<f2", _abi.SAE_F16),
    "torch.bfloat16": ("<u2", _abi.SAE_BF16),
}
_HINT = "libsae reads float32, float16 and bfloat16 and converts nothing silently"


class _Shim:
    """Lends the memory of a tensor to NumPy, which has no name for bfloat16."""

    def __init__(self, tensor: Any, typestr: str, address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.tensor = tensor
        self.__array_interface__ = {
            "version": 3,
            "typestr": typestr,
            "data": (address, False),
            "shape": shape,
            "strides": strides,
        }


def _of_tensor(x: Any, name: str, writable: bool) -> tuple[Array, int]:
    if x.device.type != "cpu":
        raise TypeError(f"{name} is on {x.device}: libsae works in CPU memory, give {name}.cpu()")
    if str(x.layout) != "torch.strided":
        raise TypeError(f"{name} is a {x.layout} tensor: give a dense one, {name}.to_dense()")
    if str(x.dtype) not in _TENSORS:
        raise TypeError(f"{name} is {x.dtype} with strides {tuple(x.stride())}: {_HINT}, give {name}.float()")
    if x.is_neg():
        raise TypeError(f"{name} is a lazily negated view: give {name}.resolve_neg()")
    if writable and x.requires_grad:
        raise TypeError(f"{name} requires grad, and its memory would change behind autograd's back: give {name}.detach()")
    typestr, code = _TENSORS[str(x.dtype)]
    shape, each = tuple(x.shape), x.element_size()
    if x.numel() == 0:
        return np.empty(shape, typestr), code
    return np.asarray(_Shim(x, typestr, x.data_ptr(), shape, tuple(s * each for s in x.stride()))), code


def view(x: Any, name: str, writable: bool = False) -> tuple[Array, int]:
    """The same memory as an ndarray, and its SAE_ dtype. bfloat16 comes as uint16 or as ml_dtypes' type."""
    if not isinstance(x, np.ndarray):
        if hasattr(x, "data_ptr"):
            return _of_tensor(x, name, writable)
        if not hasattr(x, "__array_interface__"):
            raise TypeError(f"{name} is a {type(x).__name__}: give a NumPy array or a CPU torch tensor ({_HINT})")
        x = np.asarray(x)
    code = _CODES.get(x.dtype)
    if code is None and x.dtype.name == "bfloat16":
        code = _abi.SAE_BF16
    if code is None:
        raise TypeError(f"{name} is {_dtype(x)} with strides {x.strides}: {_HINT}, give {name}.astype(np.float32)")
    if writable and not x.flags.writeable:
        raise TypeError(f"{name} is read-only ({_dtype(x)}, strides {x.strides}), and it would be written to")
    return x, code


def _dtype(a: Array) -> str:
    return a.dtype.name if a.dtype.isnative else f"{a.dtype.name} in foreign byte order ({a.dtype.str})"


def address(a: Array) -> int:
    return int(a.__array_interface__["data"][0])


class View(NamedTuple):
    """Rows in the shape of the C library. `array` keeps the memory alive."""

    rows: Any  #: the sae_rows
    n: int
    array: Array


def _two_axes(a: Array, d: int, name: str) -> Array:
    """`a` as [n][d]; a single row may come as [d]."""
    if a.ndim == 1:
        a = a[np.newaxis]
    if a.ndim != 2:
        raise ShapeError(f"{name} has shape {a.shape}: rows are [n][{d}], give {name}.reshape(-1, {d})")
    if a.shape[1] != d:
        raise ShapeError(f"{name} has shape {a.shape}: {a.shape[1]} columns, but {d} are needed here")
    return a


def _stride(a: Array, name: str) -> int:
    """Bytes from row to row; 0 where there is no second row."""
    n, d = a.shape
    if d > 1 and n > 0 and a.strides[1] != a.itemsize:
        raise TypeError(
            f"{name} is {_dtype(a)} with strides {a.strides}: the elements of a row must be adjacent (a last stride of "
            f"{a.itemsize}), libsae copies nothing silently: give np.ascontiguousarray({name}) or {name}.contiguous()"
        )
    if n < 2:
        return 0
    if a.strides[0] == 0:
        raise TypeError(f"{name} is {_dtype(a)} with strides {a.strides}: one row repeated {n} times, give a copy or the row")
    return int(a.strides[0])


def rows(x: Rows, d: int, name: str, writable: bool = False) -> View:
    """Checks rows of `d` elements and describes them."""
    array, code = view(x, name, writable)
    a = _two_axes(array, d, name)
    n = a.shape[0]
    described = struct(_abi.sae_rows, dtype=code, x=address(a) if n else None, stride_bytes=_stride(a, name), n_rows=n)
    return View(described, n, a)


class Out(NamedTuple):
    """Where float32 results go."""

    result: Any  #: what the caller gets back: his own object, if he gave one
    address: int
    stride: int
    array: Array


def out(given: Rows | None, n: int, d: int, name: str = "out") -> Out:
    """A new float32 array [n][d], or the checked one of the caller."""
    if given is None:
        fresh = np.empty((n, d), np.float32)
        return Out(fresh, address(fresh), 0, fresh)
    array, code = view(given, name, writable=True)
    a = _two_axes(array, d, name)
    if code != _abi.SAE_F32:
        raise TypeError(f"{name} is {_dtype(a)} with strides {a.strides}: these results are float32")
    if a.shape[0] != n:
        raise ShapeError(f"{name} has shape {a.shape}, but there are {n} rows of {d}")
    stride = _stride(a, name)
    if address(a) % 4 or stride % 4:
        raise TypeError(f"{name} is float32 with strides {a.strides} at an odd address: results need aligned elements")
    return Out(given, address(a), stride, a)


def vector(x: Rows, d: int, name: str) -> Array:
    """A vector of `d` float32. It is small and only read, so float16, bfloat16 and any stride are widened here, exactly."""
    a, code = view(x, name)
    if a.shape != (d,):
        raise ShapeError(f"{name} has shape {a.shape}, but a vector of {d} is needed here")
    if code == _abi.SAE_BF16:
        a = (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.require(a, np.float32, ["C", "A"])


def matrix(x: Rows, shape: tuple[int | None, int | None], name: str) -> tuple[Array, int, bool]:
    """A matrix of weights, contiguous one way or the other: the array, its dtype, and whether it is stored transposed."""
    a, code = view(x, name)
    if a.ndim != 2 or any(want is not None and have != want for have, want in zip(a.shape, shape)):
        raise ShapeError(f"{name} has shape {a.shape}, but [{shape[0] or 'n'}][{shape[1] or 'n'}] is needed here")
    if not (a.flags.c_contiguous or a.flags.f_contiguous):
        raise TypeError(
            f"{name} is {_dtype(a)} with strides {a.strides}: weights must be contiguous, as they are or transposed; "
            f"libsae copies nothing silently: give np.ascontiguousarray({name}) or {name}.contiguous()"
        )
    return a, code, not a.flags.c_contiguous


def int32(value: Any, name: str) -> int:
    """An integer that fits; ctypes alone would cut it off without a word."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a {type(value).__name__}: give an integer")
    number = value.__index__()
    if not _INT32.min <= number <= _INT32.max:
        raise ArgError(f"{name} = {number} does not fit into 32 bits")
    return int(number)


def ints(values: Features, name: str) -> Array:
    """Feature numbers or slots as a contiguous int32 array."""
    a = np.asarray(values)
    if a.dtype == np.int32 and a.ndim == 1 and a.flags.c_contiguous and a.flags.aligned:
        return a
    if a.size == 0:
        a = a.astype(np.int32)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name} is {a.dtype.name}: give integers")
    a = np.atleast_1d(a)
    if a.ndim != 1:
        raise ShapeError(f"{name} has shape {a.shape}: give one axis")
    if a.size and not (_INT32.min <= int(a.min()) and int(a.max()) <= _INT32.max):
        raise ArgError(f"{name} holds {a.min()} .. {a.max()}: these do not fit into 32 bits")
    return np.ascontiguousarray(a, np.int32)
