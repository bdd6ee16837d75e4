"""One class for each status, the built-in class that goes with it, and every status met for real."""

from __future__ import annotations

import ctypes
from ctypes import byref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN
from oracle import Oracle

import libsae
from libsae import _abi, errors
from libsae._handle import Handle
from libsae._lib import call, create, lib, struct

BUILT_IN = {
    "ARG": ValueError,
    "NOMEM": MemoryError,
    "VERSION": RuntimeError,
    "UNSUPPORTED": NotImplementedError,
    "SHAPE": ValueError,
    "FORMAT": ValueError,
    "IO": OSError,
    "HOST": RuntimeError,
    "BUSY": RuntimeError,
    "CAPACITY": ValueError,
}


def test_every_status_has_a_class() -> None:
    statuses = {n[len("SAE_E_") :]: v for n, v in vars(_abi).items() if n.startswith("SAE_E_")}
    assert set(statuses) == set(BUILT_IN)
    seen = set()
    for name, status in statuses.items():
        error = errors.from_status(status, "why")
        assert isinstance(error, libsae.SaeError)
        assert isinstance(error, BUILT_IN[name])
        assert type(error).__name__.removesuffix("Error").upper() == name
        assert getattr(libsae, type(error).__name__) is type(error)
        assert (error.status, str(error)) == (status, "why")
        seen.add(type(error))
    assert len(seen) == len(statuses)


def test_unknown_status_is_still_an_error() -> None:
    error = errors.from_status(-99, "why")
    assert type(error) is libsae.SaeError
    assert (error.status, str(error)) == (-99, "status -99: why")


def own_env(**hooks: Any) -> libsae.Env:
    """An Env with hooks of a test: Python users have none."""
    env = libsae.Env()
    address = create(lib.sae_env_create, byref(struct(_abi.sae_env_options, **hooks)))
    env._handle = Handle(address, lib.sae_env_free, "Env", keep=hooks)
    return env


def test_arg() -> None:
    with pytest.raises(libsae.ArgError):
        Oracle("standard").open().probe(np.zeros((1, 24), np.float32), [100])


def test_nomem() -> None:
    left = [3]

    def alloc(_user: Any, size: int, align: int) -> int:
        left[0] -= 1
        return libc.aligned_alloc(align, -(-size // align) * align) if left[0] >= 0 else 0

    libc = ctypes.CDLL(None)
    libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
    libc.free.argtypes = [ctypes.c_void_p]
    hooks = {"alloc": _abi.sae_alloc_fn(alloc), "dealloc": _abi.sae_free_fn(lambda u, p, n, a: libc.free(p))}
    env = own_env(**hooks)
    with pytest.raises(MemoryError) as caught:
        Oracle("jumprelu").open(env=env)
    assert type(caught.value) is libsae.NoMemError
    assert "no memory for" in str(caught.value)


def test_version() -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("known", _abi.sae_ctx_options), ("unknown", ctypes.c_uint64))

    newer = Newer()
    newer.known.struct_size = ctypes.sizeof(Newer)
    newer.unknown = 1
    sae = Oracle("standard").open()
    with sae._model as model, pytest.raises(libsae.VersionError, match="sae_ctx_options"):
        create(lib.sae_ctx_create, model, ctypes.cast(byref(newer), ctypes.POINTER(_abi.sae_ctx_options)))


def test_unsupported() -> None:
    missing = [name for name in ("neon", "avx2", "avx512") if name not in libsae.isas()]
    assert missing
    with pytest.raises(libsae.UnsupportedError, match=missing[0]):
        libsae.Env(isa=missing[0])


def test_shape() -> None:
    with pytest.raises(libsae.ShapeError, match="38"):
        libsae.open(GOLDEN / "saelens" / "jumprelu_f32", d_in=38)


def test_format(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("{", "utf-8")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    with pytest.raises(libsae.FormatError):
        libsae.open(tmp_path)


def test_io(tmp_path: Path) -> None:
    with pytest.raises(libsae.IoError) as caught:
        libsae.open(tmp_path / "none")
    assert isinstance(caught.value, FileNotFoundError)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        libsae.open(tmp_path / "loop")
    assert type(caught.value) is libsae.IoError


def test_host() -> None:
    run = _abi.sae_run_fn(lambda user, job, task, n: 1)
    o = Oracle("standard", d_sae=5000)
    sae = o.open(env=own_env(run=run, max_workers=2))
    with pytest.raises(libsae.HostError, match="parallel-for"):
        sae.encode(o.x(100))


def test_busy() -> None:
    """Through the package it cannot happen: the runner of this test enters the ctx that is calling it."""
    inner = []

    def run(_user: Any, job: int, task: Any, n: int) -> int:
        if not inner:
            inner.append(lib.sae_encode(ctx, byref(codes._struct()), byref(rows)))
        for i in range(n):
            task(job, i, 0)
        return 0

    o = Oracle("standard", d_sae=5000)
    x = o.x(100)
    rows = struct(_abi.sae_rows, dtype=_abi.SAE_F32, x=x.ctypes.data, n_rows=100)
    hook = _abi.sae_run_fn(run)
    sae = o.open(env=own_env(run=hook, max_workers=2))
    codes = sae.empty_codes(100, 100 * 5000)
    handle, _ = sae._contexts.take(0)
    with handle as ctx:
        assert lib.sae_encode(ctx, byref(codes._struct()), byref(rows)) == _abi.SAE_OK
    assert inner == [_abi.SAE_E_BUSY]
    assert type(errors.from_status(inner[0], "")) is libsae.BusyError
    np.testing.assert_array_equal(codes._indptr, o.open().encode(x).indptr)
    handle.close()


def test_capacity() -> None:
    o = Oracle("standard")
    sae = o.open()
    with pytest.raises(libsae.CapacityError, match="capacity is 1"):
        sae.encode(o.x(5), out=sae.empty_codes(5, 1))


def test_a_failed_call_says_its_own_reason_only() -> None:
    o = Oracle("standard")
    sae = o.open()
    with pytest.raises(libsae.CapacityError):
        sae.encode(o.x(5), out=sae.empty_codes(5, 1))
    assert len(sae.encode(o.x(5))) == 5
    error = struct(_abi.sae_error)
    assert lib.sae_model_check(sae._model.__enter__(), byref(error)) == 0
    sae._model.__exit__()
    assert error.text == b""
    call(lib.sae_env_create, byref(ctypes.c_void_p()), None)
