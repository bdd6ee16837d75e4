"""One exception class for each status, each also the built-in one that a Python user would catch."""

from __future__ import annotations

from . import _abi


class SaeError(Exception):
    """Base of all errors that libsae reports. `str(error)` is one sentence with names and numbers."""

    status: int = 0  #: the SAE_E_ number


class ArgError(SaeError, ValueError):
    """SAE_E_ARG: the call is wrong: an unknown name, an index out of range."""

    status = _abi.SAE_E_ARG


class NoMemError(SaeError, MemoryError):
    """SAE_E_NOMEM: the allocator gave nothing."""

    status = _abi.SAE_E_NOMEM


class VersionError(SaeError, RuntimeError):
    """SAE_E_VERSION: the caller was built for a newer library, or a catalog has a later schema."""

    status = _abi.SAE_E_VERSION


class UnsupportedError(SaeError, NotImplementedError):
    """SAE_E_UNSUPPORTED: valid, but not in this build or not on this processor."""

    status = _abi.SAE_E_UNSUPPORTED


class ShapeError(SaeError, ValueError):
    """SAE_E_SHAPE: sizes do not fit this SAE."""

    status = _abi.SAE_E_SHAPE


class FormatError(SaeError, ValueError):
    """SAE_E_FORMAT: the file is damaged, or says what cannot be true."""

    status = _abi.SAE_E_FORMAT


class IoError(SaeError, OSError):
    """SAE_E_IO: the system refused to open, read or map."""

    status = _abi.SAE_E_IO


class NotFoundError(IoError, FileNotFoundError):
    """SAE_E_IO of a path that does not exist."""


class HostError(SaeError, RuntimeError):
    """SAE_E_HOST: the system gave no thread, or the parallel-for failed."""

    status = _abi.SAE_E_HOST


class BusyError(SaeError, RuntimeError):
    """SAE_E_BUSY: another program writes to the catalog. (Two calls on one context at once: this package never lets that happen.)"""

    status = _abi.SAE_E_BUSY


class CapacityError(SaeError, ValueError):
    """SAE_E_CAPACITY: the arrays given as `out` are too small; the sentence says what is needed."""

    status = _abi.SAE_E_CAPACITY


_CLASSES: dict[int, type[SaeError]] = {
    cls.status: cls
    for cls in (
        ArgError,
        NoMemError,
        VersionError,
        UnsupportedError,
        ShapeError,
        FormatError,
        IoError,
        HostError,
        BusyError,
        CapacityError,
    )
}


def from_status(status: int, text: str) -> SaeError:
    """The exception for a status, ready to be raised."""
    cls = _CLASSES.get(status)
    if cls is not None:
        return cls(text)
    error = SaeError(f"status {status}: {text}")
    error.status = status
    return error
