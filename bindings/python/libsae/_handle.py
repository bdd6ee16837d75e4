"""C objects, counted from Python: freed when they are closed and nobody is inside a call with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Handle:
    """A C object. Used as `with handle as address:`, which keeps it alive for a call, whoever closes it meanwhile.

    `parents` are held until it is freed, as the C library does too: what Python lends to a parent (arrays of weights, a
    pool of threads) thereby stays as long as any child may use it. `keep` is what Python lends to this object itself.
    """

    __slots__ = ("__weakref__", "_address", "_closed", "_free", "_keep", "_lock", "_name", "_parents", "_users")

    def __init__(self, address: int, free: Callable[[int], None], name: str, parents: Iterable[Handle] = (), keep: Any = None) -> None:
        self._address: int | None = address
        self._free = free
        self._name = name
        self._keep = keep
        self._lock = threading.RLock()  # the collector may close a handle while its own thread holds the lock
        self._closed = False
        self._users = 1  # the owner, until close
        self._parents: list[Handle] = []
        for parent in parents:
            parent._share()
            self._parents.append(parent)

    def _share(self) -> None:
        """One more user, for callers who know that it is not freed, though it may be closed: a child of it lives."""
        with self._lock:
            self._users += 1

    @contextmanager
    def held(self) -> Iterator[int]:
        """As `with handle`, for callers who hold a child of it: it may be closed, but it is not freed."""
        self._share()
        try:
            assert self._address is not None
            yield self._address
        finally:
            self.__exit__()

    def __enter__(self) -> int:
        with self._lock:
            if self._closed or self._address is None:
                raise ValueError(f"this {self._name} is closed")
            self._users += 1
            return self._address

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._destroy()

    def close(self) -> None:
        """Gives the owner's share back; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.__exit__()

    def _destroy(self) -> None:
        address, self._address = self._address, None
        if address is not None:
            self._free(address)
        self._keep = None
        parents, self._parents = self._parents, []
        for parent in parents:
            parent.__exit__()
