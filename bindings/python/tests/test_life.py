"""Ends in any order, threads, leaks."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref
from typing import Any

import numpy as np
import pytest
from oracle import Oracle

import libsae
from libsae import _abi
from libsae._handle import Handle
from libsae._lib import create, lib, struct


class Ledger:
    """An allocator that knows what it has given."""

    def __init__(self) -> None:
        self.out: dict[int, tuple[int, int]] = {}
        self.given = 0
        self.wrong: list[str] = []
        libc = ctypes.CDLL(None)
        libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
        libc.free.argtypes = [ctypes.c_void_p]

        def alloc(_user: Any, size: int, align: int) -> int:
            p = libc.aligned_alloc(align, -(-size // align) * align)
            self.out[p] = (size, align)
            self.given += 1
            return p

        def free(_user: Any, p: int, size: int, align: int) -> None:
            if self.out.pop(p, None) != (size, align):
                self.wrong.append(f"{p:#x} {size} {align}")
            else:
                libc.free(p)

        self.hooks = {"alloc": _abi.sae_alloc_fn(alloc), "dealloc": _abi.sae_free_fn(free)}

    def env(self) -> libsae.Env:
        """An Env on this allocator: Python users have no such hook."""
        env = libsae.Env()
        options = struct(_abi.sae_env_options, **self.hooks)
        env._handle = Handle(create(lib.sae_env_create, byref(options)), lib.sae_env_free, "Env", keep=self.hooks)
        env._finalizer = weakref.finalize(env, env._handle.close)
        return env


def use_all(sae: libsae.Sae, x: np.ndarray) -> None:
    sae.decode(sae.encode(x))
    sae.encode_dense(x)
    for f in range(12):  # more than it remembers
        sae.probe(x, [f, 1])
    sae.neighbors(3, 2)
    sae.neighbors(3, 2, by="encoder")
    sae.prepare()


@pytest.mark.parametrize("arch", ["standard", "topk"])
def test_frees_in_any_order_and_gives_all_back(arch: str) -> None:
    o = Oracle(arch)
    x = o.x(5)
    for order in itertools.permutations(range(3)):
        for collect in (False, True):
            ledger = Ledger()
            env = ledger.env()
            sae = o.open(env=env)
            use_all(sae, x)
            plan = libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)])
            want = plan.apply(x.copy())
            assert ledger.given > 10
            things: list[Any] = [env, sae, plan]
            del env, sae, plan
            for i in order:
                if things[2] is not None:
                    np.testing.assert_array_equal(things[2].apply(x.copy()), want)
                if things[1] is not None:
                    assert len(things[1].encode(x)) == 5
                if not collect:
                    things[i].close()
                    things[i].close()
                things[i] = None
            gc.collect()
            assert ledger.out == {}
            assert ledger.wrong == []


def test_failures_give_all_back() -> None:
    o = Oracle("jumprelu")
    ledger = Ledger()
    env = ledger.env()
    x = o.x(3)
    broken = o.W_dec.copy()
    broken[1, 1] = np.nan
    for _ in range(3):
        with pytest.raises(libsae.FormatError):
            libsae.from_weights(o.W_enc, broken, architecture="jumprelu", threshold=o.vectors["threshold"], env=env, check=True)
        with pytest.raises(libsae.FormatError):
            libsae.from_weights(o.W_enc, broken, architecture="jumprelu", threshold=o.vectors["threshold"], env=env, prepare=True)
        with o.open(env=env) as sae:
            for call in (
                lambda: sae.probe(x, [100]),
                lambda: sae.neighbors(100, 1),
                lambda: sae.encode(x, out=sae.empty_codes(3, 1)),
                lambda: libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=100)]),
            ):
                with pytest.raises(libsae.SaeError):
                    call()
        gc.collect()
        assert len(ledger.out) <= 2  # the env itself
    env.close()
    assert ledger.out == {}


def test_closed_things_say_so() -> None:
    o = Oracle("standard")
    x = o.x(2)
    with o.open() as sae, libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)]) as plan, libsae.Env() as env:
        codes = sae.encode(x)
    for call in (
        lambda: sae.encode(x),
        lambda: sae.encode_dense(x),
        lambda: sae.decode(codes),
        lambda: sae.measure(x, codes),
        lambda: sae.probe(x, [1]),
        lambda: sae.neighbors(1),
        lambda: sae.pairs([1, 2]),
        lambda: sae.prepare(),
        lambda: sae.check(),
        lambda: sae.memory,
        lambda: sae.W_dec_row(1),
        lambda: libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)]),
    ):
        with pytest.raises(ValueError, match="this Sae is closed"):
            call()
    with pytest.raises(ValueError, match="this Plan is closed"):
        plan.apply(x)
    with pytest.raises(ValueError, match="this Env is closed"):
        o.open(env=env)
    assert sae.info["d_in"] == o.d_in


def test_a_closed_env_serves_what_was_made_with_it() -> None:
    o = Oracle("standard", d_sae=3000)
    x = o.x(200)
    env = libsae.Env(threads=3)
    sae = o.open(env=env)
    want = sae.encode(x).dense()
    env.close()
    np.testing.assert_array_equal(sae.encode(x).dense(), want)
    assert libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)]).apply(x.copy()).shape == x.shape


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task"))


def test_threads_end_with_the_last_user() -> None:
    before = threads_of_this_process()
    o = Oracle("topk")
    sae = o.open(threads=4)
    assert threads_of_this_process() == before + 3
    plan = libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)])
    sae.close()
    assert plan.apply(o.x(2)).shape == (2, 24)
    plan.close()
    del sae
    gc.collect()
    assert threads_of_this_process() == before
    assert libsae.Env(threads=0).threads >= 1
    gc.collect()
    assert threads_of_this_process() == before


def test_borrowed_weights_stay_alive() -> None:
    """As long as the last who may read them: here a top-k plan."""
    o = Oracle("topk")
    x = o.x(5)
    W_enc, W_dec = o.W_enc.copy(), o.W_dec.copy()
    alive = [weakref.ref(W_enc), weakref.ref(W_dec)]
    sae = libsae.from_weights(W_enc, W_dec, architecture="topk", k=3)
    plan = libsae.Plan([libsae.Edit.scale(2.0, sae=sae, feature=2)])
    del W_enc, W_dec
    gc.collect()
    want = plan.apply(x.copy())
    sae.close()
    del sae
    gc.collect()
    assert all(r() is not None for r in alive)
    np.testing.assert_array_equal(plan.apply(x.copy()), want)
    plan.close()
    assert all(r() is None for r in alive)


def test_many_threads_share_one_sae() -> None:
    o = Oracle("jumprelu", d_in=64, d_sae=1000)
    sae = o.open(threads=2)
    plan = libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)])
    xs = [o.x(n) for n in range(1, 41)]
    want = [(sae.encode(x).dense(), sae.probe(x, [len(x), 3]), plan.apply(x.copy()), sae.neighbors(len(x), 4)) for x in xs]

    def work(i: int) -> None:
        x = xs[i % len(xs)]
        codes, probed, steered, near = want[i % len(xs)]
        np.testing.assert_array_equal(sae.encode(x).dense(), codes)
        np.testing.assert_array_equal(sae.probe(x, [len(x), 3]), probed)
        np.testing.assert_array_equal(plan.apply(x.copy()), steered)
        np.testing.assert_array_equal(sae.neighbors(len(x), 4).features, near.features)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert 1 <= len(sae._contexts._free) <= 8


def test_threads_run_at_once() -> None:
    """Python's lock is not held inside a call: another thread goes on."""
    o = Oracle("standard", d_in=256, d_sae=8000)
    sae = o.open(isa="scalar")
    x = o.x(60)
    done = threading.Event()
    worker = threading.Thread(target=lambda: (sae.encode(x), done.set()))
    worker.start()
    ticks = 0
    while not done.is_set():
        ticks += 1
        done.wait(0.0005)
    worker.join()
    assert ticks > 5


def test_close_while_others_are_inside() -> None:
    o = Oracle("jumprelu", d_in=64, d_sae=2000)
    x = o.x(50)
    for _ in range(20):
        ledger = Ledger()
        env = ledger.env()
        sae = o.open(env=env)
        want = sae.encode(x).dense()
        started = threading.Barrier(5)
        wrong: list[BaseException] = []

        def work(sae: libsae.Sae = sae, want: np.ndarray = want, started: Any = started, wrong: Any = wrong) -> None:
            started.wait()
            try:
                while True:
                    np.testing.assert_array_equal(sae.encode(x).dense(), want)
                    sae.probe(x, [1, 2])
                    sae.neighbors(1, 2)
            except ValueError as error:
                if "closed" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        started.wait()
        sae.close()
        for t in threads:
            t.join()
        env.close()
        assert wrong == []
        assert ledger.out == {}
        assert ledger.wrong == []


def rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow() -> None:
    o = Oracle("jumprelu", d_in=64, d_sae=1000)
    x = o.x(64)

    def once() -> None:
        sae = o.open(copy=True, threads=2)
        use_all(sae, x)
        libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2)]).apply(x.copy())
        with pytest.raises(TypeError):
            sae.encode(x.astype(np.float64))
        with pytest.raises(libsae.ArgError):
            sae.probe(x, [-1])

    for _ in range(20):
        once()
    gc.collect()
    before = rss()
    for _ in range(150):
        once()
    gc.collect()
    assert rss() - before < 8 << 20  # one SAE of these is 0.5 MB
