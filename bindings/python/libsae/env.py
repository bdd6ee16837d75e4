"""Threads and instruction set."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Any

from . import _abi
from ._arrays import int32
from ._handle import Handle
from ._lib import create, lib, struct
from .errors import ArgError

_ISAS = {name[len("SAE_ISA_") :].lower(): value for name, value in vars(_abi).items() if name.startswith("SAE_ISA_")}


def constant(table: Mapping[Any, int], value: Any, name: str) -> int:
    """The number of a name; ArgError that lists them all when there is none."""
    if value not in table:
        raise ArgError(f"{name} = {value!r} is not one of {', '.join(map(repr, table))}")
    return table[value]


def isas() -> tuple[str, ...]:
    """Instruction sets that this build and this processor can run: ("auto", "scalar", ...). All give the same bits."""
    return tuple(name for name, value in _ISAS.items() if lib.sae_isa_available(value) == _abi.SAE_YES)


class Env:
    """Threads and instruction set, shared by all SAEs that are opened with it.

    threads  workers of one call, the calling thread included; 0 = one for each available processor. 1 starts none.
    isa      "auto" (the best there is), "scalar", "neon", "avx2" or "avx512".

    The results do not depend on either. SAEs and plans made with an env keep it alive, also after `close`. Start no
    process with `fork` while an env with threads lives.
    """

    def __init__(self, threads: int = 1, isa: str = "auto") -> None:
        n = int32(threads, "threads")
        if n < 0:
            raise ArgError(f"threads = {n}: give 1 or more, or 0 for one for each processor")
        options = struct(_abi.sae_env_options, isa=constant(_ISAS, isa, "isa"))
        parents = []
        self._threads = 1
        if n != 1:
            pool = Handle(create(lib.sae_pool_create, n), lib.sae_pool_free, "pool")
            parents.append(pool)
            with pool as address:
                self._threads = int(lib.sae_pool_threads(address))
                options.run = ctypes.cast(lib.sae_pool_run, _abi.sae_run_fn)
                options.run_user = address
                options.max_workers = self._threads
        try:
            env = create(lib.sae_env_create, ctypes.byref(options))
            self._handle = Handle(env, lib.sae_env_free, "Env", parents)
        finally:
            for pool in parents:
                pool.close()  # from here on the env holds it
        self._isa = lib.sae_isa_name(lib.sae_env_isa(env)).decode()
        self._finalizer = weakref.finalize(self, self._handle.close)

    @property
    def threads(self) -> int:
        """Workers of one call."""
        return self._threads

    @property
    def isa(self) -> str:
        """The instruction set in use, never "auto"."""
        return str(self._isa)

    def close(self) -> None:
        """Lets go of it; threads end when the last SAE and plan that use it are closed too."""
        self._finalizer()

    def __enter__(self) -> Env:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<libsae.Env {self._isa}, {self._threads} threads>"
