"""llama.cpp from a prebuilt package, its headers from the same package's source, and host.c compiled against both."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xllamacpp

ROOT = Path(__file__).resolve().parents[2]
WORLD = ROOT / "examples" / "world" / "files"
BUILD = Path(os.environ.get("B", "build")).resolve()
FLAGS = "-O2 -Wall -Wextra -Wpedantic -Wshadow -Werror -fPIC -shared"
sys.path[:0] = [str(ROOT / "examples" / "world"), str(ROOT / "examples" / "llamacpp")]

Array = np.ndarray
I32 = np.int32


def compile_against_llama(out: Path, *sources: Path, cc: str = "cc -std=c11") -> None:
    """A shared library, whose llama.cpp is in the process that loads it."""
    include = ["-I", str(ROOT / "include"), "-isystem", str(Path(sys.prefix) / "include" / "llama.cpp")]
    link = [f"-L{BUILD}", "-lsae", f"-Wl,-rpath,{BUILD}"]
    subprocess.run([*shlex.split(cc), *shlex.split(FLAGS), "-o", str(out), *map(str, sources), *include, *link], check=True)


class Edit(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("slot", ctypes.c_int32),
        ("op", ctypes.c_int32),
        ("unit", ctypes.c_int32),
        ("value", ctypes.c_float),
        ("max_act", ctypes.c_float),
        ("model", ctypes.c_void_p),
        ("vector", ctypes.c_void_p),
        ("feature", ctypes.c_int32),
        ("reserved", ctypes.c_uint32),
    ]


ADD, SET = 1, 2


class Options(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p)] + [(n, ctypes.c_int32) for n in ("n_ubatch", "n_seq", "callback", "unified", "copy", "exact")]


def address(a: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if a is None else a.ctypes.data)


class Host:
    """One context of llama.cpp. Nothing is watched or edited until it is told where (tap) and what (add, clamp, watch)."""

    def __init__(
        self,
        lib: ctypes.CDLL,
        gguf: Path,
        n_ubatch: int = 512,
        n_seq: int = 1,
        callback: bool = True,
        unified: bool = False,
        copy: bool = False,
        exact: bool = True,
    ) -> None:
        self._lib, self._keep = lib, []
        self._options = Options(os.fsencode(gguf), n_ubatch, n_seq, callback, unified, copy, exact)
        self._h = ctypes.c_void_p(lib.host_open(ctypes.byref(self._options)))
        assert self._h
        self.n_vocab = lib.host_vocab(self._h)
        self.width = lib.host_width(self._h)

    def close(self) -> None:
        self._lib.host_close(self._h)

    @property
    def said(self) -> str:
        return ctypes.string_at(self._lib.host_said(self._h)).decode()

    def tap(self, name: str, layer: int, d: int | None = None) -> None:
        text = ctypes.create_string_buffer(name.encode())
        self._keep.append(text)
        self._lib.host_tap(self._h, text, layer, self.width if d is None else d)

    def steer(self, edits: Sequence[dict[str, Any]], n_slots: int = 1, sae: Path | None = None) -> None:
        array = (Edit * max(1, len(edits)))()
        for to, edit in zip(array, edits):
            to.struct_size = ctypes.sizeof(Edit)
            for key, value in edit.items():
                setattr(to, key, value.ctypes.data if key == "vector" else value)
        folder = os.fsencode(sae) if sae else None
        assert self._lib.host_steer(self._h, n_slots, folder, array, ctypes.c_int64(len(edits))) == 0, self.said

    def watch(self, sae: Path, features: Sequence[int], n_rows: int) -> Array:
        """The codes by row of each batch that is decoded from now on; NaN where no row came."""
        which, codes = np.array(features, I32), np.full((n_rows, len(features)), np.nan, np.float32)
        self._keep.append(codes)
        got = self._lib.host_watch(self._h, os.fsencode(sae), address(which), ctypes.c_int64(len(which)), address(codes))
        assert got == 0, self.said
        return codes

    def copy(self, n_rows: int) -> Array:
        """The rows of each batch as they come to the tap from now on."""
        rows = np.full((n_rows, self.width), np.nan, np.float32)
        self._keep.append(rows)
        self._lib.host_copy(self._h, address(rows))
        return rows

    def decode(
        self,
        tokens: Sequence[int],
        pos: Sequence[int] | None = None,
        seq: Sequence[int] | None = None,
        output: Sequence[int] | None = None,
        slot: Sequence[int] | None = None,
        described: int | None = None,
    ) -> tuple[int, Array]:
        """Status and the logits of the rows that have an output, by default all."""
        n = len(tokens)
        t, p = np.array(tokens, I32), np.array(range(n) if pos is None else pos, I32)
        s = np.array([*([0] * n if seq is None else seq), 0], I32)  # one more, for a description that is too long
        o = np.array([*([1] * n if output is None else output), 0], np.int8)
        slots = None if slot is None else np.array(slot, I32)
        logits = np.zeros((int(o.sum()), self.n_vocab), np.float32)
        status = self._lib.host_decode(
            self._h,
            n,
            address(t),
            address(p),
            address(s),
            address(o),
            address(slots),
            n if described is None else described,
            address(logits),
        )
        return status, logits

    def logits(self, tokens: Sequence[int], **more: Any) -> Array:
        self.forget()
        status, logits = self.decode(tokens, **more)
        assert status == 0, self.said
        return logits

    def greedy(self, tokens: Sequence[int], n: int, slot: int = 0) -> list[int]:
        """The n most probable tokens after these, with keys and values kept."""
        self.forget()
        status, logits = self.decode(tokens, output=[0] * (len(tokens) - 1) + [1], slot=[slot] * len(tokens))
        out: list[int] = []
        while status == 0 and len(out) < n:
            out.append(int(logits[-1].argmax()))
            status, logits = self.decode(out[-1:], pos=[len(tokens) + len(out) - 1], slot=[slot])
        assert status == 0, self.said
        return out

    def forget(self) -> None:
        self._lib.host_forget(self._h)

    def control(self, data: Array, first: int, last: int) -> None:
        self._keep.append(data)
        assert self._lib.host_control(self._h, address(data), ctypes.c_size_t(data.size), first, last) == 0

    def counts(self, tap: int = 0) -> dict[str, int]:
        out = np.zeros(6, np.int64)
        self._lib.host_counts(self._h, tap, address(out))
        return dict(zip(("asks", "unannounced", "hits", "seen", "edited", "left"), map(int, out)))

    def tensor(self, kind: int, shape: Sequence[int], data: Array, row_bytes: int = 0, announced: bool = True) -> int:
        """Shows the first tap a tensor of that ggml type and shape (innermost first); `data` becomes what the tap left."""
        ne, room = np.array([*shape, 1][:3], np.int64), np.zeros(data.nbytes + 64, np.uint8)
        aligned = room[-room.ctypes.data % 64 :][: data.nbytes]  # ggml insists
        aligned[:] = data.reshape(-1).view(np.uint8)
        size = ctypes.c_size_t(data.nbytes)
        status = self._lib.host_tensor(self._h, kind, address(ne), ctypes.c_int64(row_bytes), address(aligned), size, announced)
        data.reshape(-1).view(np.uint8)[:] = aligned
        return status

    def begin_twice(self) -> int:
        return self._lib.host_begin_twice(self._h)

    def tokens(self, text: str) -> list[int]:
        out = np.zeros(256, I32)
        n = self._lib.host_tokens(self._h, text.encode(), address(out), len(out))
        assert n > 0
        return list(map(int, out[:n]))


@pytest.fixture(scope="session")
def llama() -> ctypes.CDLL:
    """The package's extension module, which is a whole llama.cpp, with its functions for every library that is loaded later."""
    return ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "world.gguf"
    script = ROOT / "examples" / "llamacpp" / "convert.py"
    subprocess.run([sys.executable, str(script), str(WORLD / "world.bin"), str(WORLD / "tokenizer.bin"), str(out)], check=True)
    return out


@pytest.fixture(scope="session")
def library(llama: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("host") / "host.so"
    compile_against_llama(out, ROOT / "tests" / "llamacpp" / "host.c")
    lib = ctypes.CDLL(str(out))
    lib.host_open.restype = lib.host_said.restype = ctypes.c_void_p
    return lib


@pytest.fixture
def host(library: ctypes.CDLL, world: Path) -> Any:
    """Makes hosts and closes them."""
    hosts: list[Host] = []

    def make(**options: Any) -> Host:
        hosts.append(Host(library, world, **options))
        return hosts[-1]

    maker: Callable[..., Host] = make
    yield maker
    for h in hosts:
        h.close()
