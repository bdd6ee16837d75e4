"""Rows are read and written where they are, in three types and any row stride; all else is refused by name."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from oracle import CAST, Oracle, bf16, widen

import libsae
from libsae import _arrays


@pytest.fixture(scope="module")
def o() -> Oracle:
    return Oracle("standard")


@pytest.fixture(scope="module")
def sae(o: Oracle) -> libsae.Sae:
    return o.open()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_no_copy_is_made(dtype: str) -> None:
    x = CAST[dtype](np.ones((5, 8), np.float32))
    v = _arrays.rows(x, 8, "x")
    assert v.rows.x == x.ctypes.data
    assert np.shares_memory(v.array, x)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_writes_are_visible(sae: libsae.Sae, o: Oracle, dtype: str) -> None:
    x = CAST[dtype](o.x(5))
    before = x.copy()
    plan = libsae.Plan([libsae.Edit.add(1.0, vector=np.ones(o.d_in, np.float32))])
    assert plan.apply(x) is x
    np.testing.assert_allclose(widen(x), widen(before) + 1, atol=0.02)
    y = np.empty_like(x)
    assert sae.decode(sae.encode(x), out=y) is y
    np.testing.assert_allclose(widen(y), sae.decode(sae.encode(x)), rtol=0.01)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_dtypes_and_strides_give_the_same_codes(sae: libsae.Sae, o: Oracle, dtype: str) -> None:
    x = CAST[dtype](o.x(9))
    want = sae.encode(widen(x)).dense()
    wide = np.zeros((9, o.d_in + 5), x.dtype)
    wide[:, 2 : 2 + o.d_in] = x
    tall = np.zeros((18, o.d_in), x.dtype)
    tall[::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(x.dtype).reshape(x.shape)
    odd[...] = x
    assert odd.ctypes.data % 2 == 1
    backwards = x[::-1].copy()[::-1]
    assert backwards.strides[0] < 0
    readonly = x.copy()
    readonly.flags.writeable = False
    for rows in (x, wide[:, 2 : 2 + o.d_in], tall[::2], odd, backwards, readonly):
        np.testing.assert_array_equal(sae.encode(rows).dense(), want)
        np.testing.assert_array_equal(sae.encode_dense(rows), want)
        np.testing.assert_array_equal(sae.probe(rows, range(o.d_sae)), want)
    np.testing.assert_array_equal(sae.encode(x[::-1]).dense(), want[::-1])
    np.testing.assert_array_equal(sae.encode(x[4]).dense(), want[4:5])
    np.testing.assert_array_equal(sae.encode(x[:0]).dense(), want[:0])


def test_steering_writes_through_strides(o: Oracle) -> None:
    wide = np.zeros((6, o.d_in + 3), np.float32)
    plan = libsae.Plan([libsae.Edit.add(2.0, vector=np.ones(o.d_in, np.float32))])
    plan.apply(wide[::-2, 1 : 1 + o.d_in])
    want = np.zeros_like(wide)
    want[::-2, 1 : 1 + o.d_in] = 2
    np.testing.assert_array_equal(wide, want)


def test_ml_dtypes_bfloat16_is_known(o: Oracle) -> None:
    x = o.x(3).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(o.open().encode(x).dense(), o.open().encode(bf16(x.astype(np.float32))).dense())


class Lender:
    """Something that is no array but has one."""

    def __init__(self, a: np.ndarray) -> None:
        self.a = a

    @property
    def __array_interface__(self) -> Any:
        return self.a.__array_interface__


def test_array_interface_is_borrowed() -> None:
    x = np.ones((4, 8), np.float32)
    assert _arrays.rows(Lender(x), 8, "x").rows.x == x.ctypes.data


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda x: x.astype(np.float64), TypeError, ["x is float64", "strides (192, 8)", "astype(np.float32)"]),
        (lambda x: x.astype(np.int32), TypeError, ["x is int32"]),
        (lambda x: x.astype(">f4"), TypeError, ["float32 in foreign byte order (>f4)"]),
        (np.asfortranarray, TypeError, ["x is float32 with strides (4, 20)", "ascontiguousarray"]),
        (lambda x: np.repeat(x, 2, axis=1)[:, ::2], TypeError, ["strides (192, 8)"]),
        (lambda x: x[:, ::-1], TypeError, ["strides (96, -4)"]),
        (lambda x: np.broadcast_to(x[0], x.shape), TypeError, ["one row repeated 5 times"]),
        (lambda x: x.tolist(), TypeError, ["x is a list"]),
        (lambda x: None, TypeError, ["x is a NoneType"]),
        (lambda x: x[:, 1:], libsae.ShapeError, ["(5, 23)", "23 columns", "24"]),
        (lambda x: x[np.newaxis], libsae.ShapeError, ["(1, 5, 24)", "reshape(-1, 24)"]),
        (lambda x: x[0, 0], libsae.ShapeError, ["shape ()"]),
    ],
)
def test_what_is_no_row_is_refused(sae: libsae.Sae, make: Any, error: type[Exception], words: list[str]) -> None:
    x = make(np.ones((5, 24), np.float32))
    for call in (sae.encode, sae.encode_dense, lambda rows: sae.probe(rows, [0])):
        with pytest.raises(error) as caught:
            call(x)
        for word in words:
            assert word in str(caught.value)


def test_writing_is_refused_where_it_would_do_harm(sae: libsae.Sae, o: Oracle) -> None:
    plan = libsae.Plan([libsae.Edit.add(1.0, vector=np.ones(o.d_in, np.float32))])
    x = np.zeros((4, o.d_in), np.float32)
    x.flags.writeable = False
    with pytest.raises(TypeError, match=r"x is read-only \(float32, strides \(96, 4\)\)"):
        plan.apply(x)
    assert not x.any()
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (3, o.d_in), (16, 4))
    with pytest.raises(libsae.ArgError, match="may not overlap"):
        plan.apply(overlapping)


def test_out_is_used_and_returned(sae: libsae.Sae, o: Oracle) -> None:
    x = o.x(6)
    big = np.full((12, o.d_sae + 4), 7.0, np.float32)
    part = big[::2, 1 : 1 + o.d_sae]
    assert sae.encode_dense(x, out=part) is part
    np.testing.assert_array_equal(part, sae.encode_dense(x))
    assert (big[1::2] == 7).all()
    assert (big[:, 0] == 7).all()
    for call in (lambda to: sae.encode(x).dense(out=to), lambda to: sae.probe(x, range(o.d_sae), out=to)):
        part[...] = 5
        assert call(part) is part
        np.testing.assert_array_equal(part, sae.encode_dense(x))
        assert (big[1::2] == 7).all()
    single = np.empty(o.d_sae, np.float32)
    assert sae.encode_dense(x[0], out=single) is single
    np.testing.assert_array_equal(single, part[0])


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.empty((6, 100)), TypeError, "out is float64"),
        (np.empty((6, 100), np.float16), TypeError, "these results are float32"),
        (np.empty((5, 100), np.float32), libsae.ShapeError, "there are 6 rows of 100"),
        (np.empty((6, 99), np.float32), libsae.ShapeError, "99 columns"),
        (np.empty((100, 6), np.float32).T, TypeError, r"strides \(4, 24\)"),
        (np.empty(2401, np.uint8)[1:].view(np.float32).reshape(6, 100), TypeError, "aligned"),
    ],
)
def test_wrong_out_is_refused(sae: libsae.Sae, o: Oracle, out: np.ndarray, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sae.encode_dense(o.x(6), out=out)


def test_integers_do_not_wrap(sae: libsae.Sae, o: Oracle) -> None:
    x = o.x(2)
    for call in (
        lambda: sae.probe(x, [2**32]),
        lambda: sae.neighbors(2**32, 3),
        lambda: sae.neighbors(1, 2**32 + 3),
        lambda: sae.read("W_dec", 2**32, 1),
        lambda: sae.W_dec_row(2**32),
        lambda: libsae.Plan([libsae.Edit.set(1.0, sae=sae, feature=2**32)]),
        lambda: libsae.Plan([], d=2**32),
        lambda: libsae.Env(threads=2**32 + 1),
    ):
        with pytest.raises(libsae.ArgError, match="32 bits"):
            call()
    for call in (lambda: sae.probe(x, [1.5]), lambda: sae.probe(x, [True]), lambda: sae.read("W_dec", 1.0)):
        with pytest.raises(TypeError, match="integer"):
            call()
