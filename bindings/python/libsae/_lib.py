"""Finds the C library, declares its functions, and refuses one that does not belong to this package."""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, sizeof
from pathlib import Path
from typing import Any

from . import _abi
from .errors import from_status

SONAME = f"libsae.so.{_abi.SAE_VERSION_MAJOR}"
VERSION = (_abi.SAE_VERSION_MAJOR, _abi.SAE_VERSION_MINOR, _abi.SAE_VERSION_PATCH)


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def places() -> list[tuple[str, str]]:
    """Where the library is looked for, best first: what to load, and why there."""
    beside = Path(__file__).resolve().parent / SONAME
    found = []
    named = os.environ.get("LIBSAE_LIBRARY")
    if named:
        return [(named, "named by the environment variable LIBSAE_LIBRARY")]
    if beside.exists():
        found.append((str(beside), "installed beside the Python package"))
    found.append((SONAME, "found by the system's loader"))
    return found


def check_version(lib: Any, path: str, why: str) -> None:
    """ImportError unless the library is of the same major.minor as the generated declarations."""
    lib.sae_version.restype = ctypes.c_uint32
    number = lib.sae_version()
    version = (number >> 16, number >> 8 & 255, number & 255)
    if version[:2] != VERSION[:2]:
        raise ImportError(
            f"the Python package libsae is of version {dotted(VERSION)}, but {path} ({why}) is libsae {dotted(version)}. "
            "Most likely one of the two was updated without the other, or an older installation comes first: reinstall "
            "both from one source tree (make install; pip install ./bindings/python), or let LIBSAE_LIBRARY name the "
            "library that belongs to this package."
        )


def declare(lib: Any, path: str) -> None:
    """Sets result and argument types of every function."""
    for name, (result, *arguments) in _abi.FUNCTIONS.items():
        try:
            function = getattr(lib, name)
        except AttributeError:
            raise ImportError(f"{path} lacks {name}: it is not libsae {dotted(VERSION)} as it was released") from None
        function.restype = result
        function.argtypes = arguments


def load(path: str | os.PathLike[str] | None = None) -> tuple[ctypes.CDLL, str]:
    """Loads `path`, or else the first that is there of: LIBSAE_LIBRARY, beside the package, the system's. Returns the
    library and where it came from. Raises ImportError."""
    tried = []
    for place, why in [(os.fspath(path), "given by the caller")] if path else places():
        try:
            lib = ctypes.CDLL(place)
        except OSError as error:
            tried.append(f"{place} ({why}): {error}")
            continue
        if not hasattr(lib, "sae_version"):
            raise ImportError(f"{place} ({why}) is not libsae: it has no sae_version")
        check_version(lib, place, why)
        declare(lib, place)
        return lib, place
    raise ImportError(
        "the C library of libsae was not found: " + "; ".join(tried) + ". `pip install ./bindings/python` builds a "
        "package that carries it; otherwise run `make install`, or let LIBSAE_LIBRARY name the file."
    )


lib, path = load()


def struct(cls: Any, **fields: Any) -> Any:
    """A zeroed structure with its size set, and these fields."""
    return cls(struct_size=sizeof(cls), **fields)


def check(status: int, error: Any) -> None:
    """Raises what a call that fills a sae_error reported."""
    if status:
        text = error.text or lib.sae_status_text(status)
        raise from_status(status, text.decode("utf-8", "replace"))


def call(function: Any, *args: Any) -> None:
    """Calls a function whose last argument is a sae_error, and raises when it fails."""
    error = struct(_abi.sae_error)
    check(function(*args, byref(error)), error)


def create(function: Any, *args: Any) -> int:
    """Calls a constructor: the address of what it made."""
    out = ctypes.c_void_p()
    call(function, byref(out), *args)
    assert out.value is not None
    return out.value
