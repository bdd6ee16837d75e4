"""Encode, decode, probe and measure against float64; codes as objects; options."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ARCHITECTURES, Oracle, close, widen

import libsae

CASES = [Oracle(arch, dtype=dtype) for arch in ARCHITECTURES for dtype in ("f32", "f16", "bf16")]
CASES += [Oracle(arch, norm="constant_norm_rescale") for arch in ARCHITECTURES]


@pytest.fixture(params=CASES, ids=lambda o: f"{o.arch}-{o.dtype}-{o.norm}")
def o(request: pytest.FixtureRequest) -> Oracle:
    return request.param


def test_against_float64(o: Oracle) -> None:
    sae = o.open()
    x = o.x(70)
    z = o.codes(x)
    codes = sae.encode(x)
    assert codes.indptr.dtype == np.int64
    assert codes.indices.dtype == np.int32
    assert codes.values.dtype == np.float32
    assert codes.shape == (70, o.d_sae)
    assert 0 < len(codes.values) < z.size
    assert codes.indptr[-1] == len(codes.indices) == len(codes.values)
    dense = codes.dense()
    np.testing.assert_array_equal(dense != 0, z != 0)
    close(dense, z)
    np.testing.assert_array_equal(sae.encode_dense(x), dense)

    y = sae.decode(codes)
    close(y, o.decode(z, x), 5e-5)
    features = [5, 0, 99, 5, 42]
    np.testing.assert_array_equal(sae.probe(x, features), dense[:, features])
    close(sae.probe(x, features, pre=True), o.pre(x)[:, features])

    error, fvu = sae.measure(x, codes)
    close(error, ((x - y.astype(np.float64)) ** 2).sum(1), 1e-4)
    assert fvu == pytest.approx(error.astype(np.float64).sum() / ((x - x.mean(0, dtype=np.float64)) ** 2).sum(), rel=1e-5)


def test_scipy_takes_the_three_arrays(o: Oracle) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sae = o.open()
    codes = sae.encode(o.x(11))
    m = sparse.csr_matrix((codes.values, codes.indices, codes.indptr), shape=codes.shape)
    np.testing.assert_array_equal(m.toarray(), codes.dense())
    np.testing.assert_array_equal(codes.to_scipy().toarray(), codes.dense())
    assert np.shares_memory(sparse.csr_matrix(codes.csr, shape=codes.shape).data, codes.values)
    back = libsae.Codes.from_scipy(m.tocoo())
    np.testing.assert_array_equal(back.dense(), codes.dense())
    if codes.row_scale is None:
        np.testing.assert_array_equal(sae.decode(back), sae.decode(codes))


def test_row_factors_are_there_when_needed() -> None:
    o = Oracle("standard", norm="constant_norm_rescale")
    sae = o.open()
    codes = sae.encode(o.x(4))
    assert codes.row_scale is not None
    assert codes.row_scale.shape == codes.row_shift.shape == (4,)
    assert Oracle("standard").open().encode(o.x(4)).row_scale is None
    bare = libsae.Codes(codes.indptr, codes.indices, codes.values, o.d_sae)
    with pytest.raises(libsae.ArgError, match="row_scale and row_shift"):
        sae.decode(bare)
    whole = libsae.Codes(codes.indptr, codes.indices, codes.values, o.d_sae, codes.row_scale, codes.row_shift)
    np.testing.assert_array_equal(sae.decode(whole), sae.decode(codes))


def test_capacity_grows_by_itself() -> None:
    o = Oracle("standard", d_sae=400)
    o.vectors["b_enc"] += 5
    sae = o.open()
    codes = sae.encode(o.x(20))
    assert len(codes.values) > 20 * 64
    again = sae.encode(o.x(200))
    assert len(again._values) >= len(again.values) > 200 * 64


def test_codes_are_reused() -> None:
    o = Oracle("jumprelu")
    sae = o.open()
    x = o.x(30)
    want = sae.encode(x)
    room = sae.empty_codes(40, 4000)
    assert sae.encode(x, out=room) is room
    assert len(room) == 30
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(room, name), getattr(want, name))
    np.testing.assert_array_equal(sae.decode(room), sae.decode(want))
    assert sae.encode(x[:3], out=room) is room
    np.testing.assert_array_equal(room.dense(), want.dense()[:3])
    sae.encode(x, out=room)
    assert len(room) == 30


def test_reused_codes_that_do_not_fit() -> None:
    o = Oracle("jumprelu", norm="constant_norm_rescale")
    sae = o.open()
    x = o.x(30)
    small = sae.empty_codes(30, 10)
    with pytest.raises(libsae.CapacityError, match=rf"{len(sae.encode(x).values)} codes in 30 rows, but capacity is 10"):
        sae.encode(x, out=small)
    assert len(small.values) == 0
    with pytest.raises(libsae.CapacityError, match="room for 30 rows, x has 31"):
        sae.encode(o.x(31), out=small)
    with pytest.raises(libsae.ArgError, match="row_scale"):
        sae.encode(x, out=libsae.Codes.empty(30, 4000, o.d_sae))
    with pytest.raises(libsae.ShapeError, match="for 7 features"):
        sae.encode(x, out=libsae.Codes.empty(30, 4000, 7))
    with pytest.raises(TypeError, match="give Codes"):
        sae.encode(x, out=np.empty((30, 100), np.float32))


def test_nonfinite_is_inactive_and_counted() -> None:
    o = Oracle("standard")
    sae = o.open()
    x = o.x(3)
    x[1] = np.nan
    codes = sae.encode(x)
    assert codes.nonfinite == o.d_sae
    assert len(codes.row(1)[0]) == 0
    assert sae.encode(o.x(3)).nonfinite == 0


def test_codes_as_objects() -> None:
    codes = libsae.Codes(np.array([0, 2, 2]), np.array([1, 3], np.int32), np.array([0.5, 2], np.float32), 4)
    np.testing.assert_array_equal(codes.dense(), [[0, 0.5, 0, 2], [0, 0, 0, 0]])
    assert len(codes) == 2
    assert [a.tolist() for a in codes.row(0)] == [[1, 3], [0.5, 2]]
    assert [a.tolist() for a in codes.row(-1)] == [[], []]
    with pytest.raises(IndexError):
        codes.row(2)
    indptr, indices, values = np.array([0, 2]), np.array([1, 3], np.int32), np.array([0.5, 2], np.float32)
    with pytest.raises(TypeError, match="indices is int64"):
        libsae.Codes(indptr, indices.astype(np.int64), values, 4)
    with pytest.raises(TypeError, match="values is a list"):
        libsae.Codes(indptr, indices, [0.5, 2], 4)
    for bad in ([0, 3], [1, 2], [0, 2, 1]):
        with pytest.raises(libsae.ArgError, match="indptr goes from"):
            libsae.Codes(np.array(bad), indices, values, 4)
    with pytest.raises(libsae.ShapeError, match="indices 2, values 1"):
        libsae.Codes(np.array([0, 1]), indices, values[:1], 4)


def test_decode_refuses_codes_that_are_none() -> None:
    o = Oracle("standard")
    sae = o.open()
    codes = libsae.Codes(np.array([0, 2]), np.array([3, 3], np.int32), np.ones(2, np.float32), o.d_sae)
    with pytest.raises(libsae.ArgError, match="must ascend"):
        sae.decode(codes)
    codes.indices[1] = 100
    with pytest.raises(libsae.ArgError, match="name feature 100"):
        sae.decode(codes)
    with pytest.raises(libsae.ShapeError, match="have 1 rows, the rows given are 2"):
        sae.measure(o.x(2), codes)


def test_same_bits_for_any_isa_threads_batch_and_form() -> None:
    o = Oracle("jumprelu", d_in=65, d_sae=333)
    x = o.x(130)
    base = o.open(isa="scalar")
    want = base.encode(x)
    y, near = base.decode(want), base.neighbors(3, 9)
    for isa in libsae.isas():
        for threads in (1, 3):
            for prepare in (None, "rows", "panels", "screen", True):
                sae = o.open(isa=isa, threads=threads, prepare=prepare)
                got = sae.encode(x)
                for name in ("indptr", "indices", "values"):
                    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
                np.testing.assert_array_equal(sae.decode(got), y)
                np.testing.assert_array_equal(sae.encode(x[17]).dense()[0], want.dense()[17])
                np.testing.assert_array_equal(sae.neighbors(3, 9).cosines, near.cosines)


def test_prepare_and_memory() -> None:
    o = Oracle("standard")
    sae = o.open()
    assert sae.memory.prepared == ()
    assert sae.memory.panels_bytes > 0
    sae.prepare("panels")
    assert sae.memory.prepared == ("panels",)
    sae.prepare()
    assert "panels" in sae.memory.prepared
    assert o.open(prepare=("panels",)).memory.prepared == ("panels",)
    with pytest.raises(libsae.ArgError, match="'turbo' is not one of 'rows', 'panels'"):
        sae.prepare("turbo")


def test_tensors_are_read() -> None:
    for dtype in ("f32", "f16", "bf16"):
        o = Oracle("jumprelu", dtype=dtype)
        sae = o.open()
        W_enc, W_dec = widen(o.W_enc).T, widen(o.W_dec)
        np.testing.assert_array_equal(sae.read("W_enc"), W_enc)
        np.testing.assert_array_equal(sae.read("W_dec", 7, 3), W_dec[7:10])
        np.testing.assert_array_equal(sae.read("b_enc", 98), o.vectors["b_enc"][98:])
        np.testing.assert_array_equal(sae.read("threshold"), o.vectors["threshold"])
        np.testing.assert_array_equal(sae.read("b_dec"), o.vectors["b_dec"])
        np.testing.assert_array_equal(sae.W_dec_row(9), W_dec[9])
        np.testing.assert_array_equal(sae.W_enc_row(9), W_enc[9])
        np.testing.assert_array_equal(sae.W_dec_rows([9, 0, 9]), W_dec[[9, 0, 9]])
        np.testing.assert_array_equal(sae.W_enc_rows([9, 0, 9]), W_enc[[9, 0, 9]])
        out = np.empty((2, o.d_in), np.float32)
        assert sae.read("W_dec", 1, 2, out=out) is out
        np.testing.assert_array_equal(out, W_dec[1:3])
    with pytest.raises(libsae.ArgError, match="W_dec has 100 rows: 3 from row 98 on"):
        sae.read("W_dec", 98, 3)
    with pytest.raises(libsae.ArgError, match="features 0 .. 99"):
        sae.W_dec_row(-1)
    with pytest.raises(libsae.ArgError, match="'W' is not one of"):
        sae.read("W")


def test_weights_are_borrowed_in_either_layout() -> None:
    o = Oracle("standard")
    x = o.x(5)
    want = o.open().encode(x).dense()
    W_enc, W_dec = np.asfortranarray(o.W_enc), np.asfortranarray(o.W_dec)
    for enc in (o.W_enc, W_enc):
        for dec in (o.W_dec, W_dec):
            sae = libsae.from_weights(enc, dec, o.vectors["b_enc"], o.vectors["b_dec"], apply_b_dec_to_input=True)
            np.testing.assert_array_equal(sae.encode(x).dense(), want)
            close(sae.decode(sae.encode(x)), o.decode(o.codes(x), x), 5e-5)
    mine = o.W_enc.copy()
    borrowed = libsae.from_weights(mine, o.W_dec)
    copied = libsae.from_weights(mine, o.W_dec, copy=True)
    before = copied.encode(x).dense()
    mine *= 2
    assert (borrowed.encode(x).dense() == 2 * before).all()
    np.testing.assert_array_equal(copied.encode(x).dense(), before)


def test_architectures_that_compete_and_keep_signs() -> None:
    o = Oracle("standard", d_sae=96)
    x = o.x(9)
    h = o.pre(x)
    rank = np.argsort(np.argsort(-np.abs(h), axis=1), axis=1)
    largest = np.argsort(np.argsort(-h, axis=1), axis=1)
    groups = h.reshape(9, 8, 12)
    best = np.where(groups == groups.max(axis=2, keepdims=True), np.maximum(groups, 0), 0).reshape(9, 96)
    make = libsae.from_weights
    common = {"apply_b_dec_to_input": True, **o.vectors}
    close(make(o.W_enc, o.W_dec, architecture="abstopk", k=7, **common).encode_dense(x), np.where(rank < 7, h, 0))
    close(make(o.W_enc, o.W_dec, architecture="groupmax", k=8, **common).encode_dense(x), best)
    signed = make(o.W_enc, o.W_dec, architecture="topk", k=90, keep_negative=True, **common)
    assert signed.info["keeps_negative"] and (signed.encode_dense(x) < 0).any()
    close(signed.encode_dense(x), np.where(largest < 90, h, 0))
    norms = np.linalg.norm(o.W_dec.astype(np.float64), axis=1)
    scaled = np.argsort(np.argsort(-h * norms, axis=1), axis=1)
    unscaled = make(o.W_enc, o.W_dec, architecture="topk", k=5, rescale_by_decoder_norm=True, return_unscaled=True, **common)
    want = np.where((scaled < 5) & (h > 0), h, 0)
    close(unscaled.encode_dense(x), want)
    close(unscaled.forward(x), o.decode(want, x), 5e-5)


def test_matching_pursuit_and_skip() -> None:
    o = Oracle("standard")
    x, W = o.x(4), o.W_dec.astype(np.float64)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    dictionary = W.astype(np.float32)
    left, codes = x.astype(np.float64), np.zeros((4, o.d_sae))
    for _ in range(6):
        dots = left @ W.T
        best = dots.argmax(axis=1)
        value = np.maximum(dots[range(4), best], 0)
        codes[range(4), best] += value
        left = left - value[:, None] * W[best]
    skip = o.rng.standard_normal((o.d_in, o.d_in)).astype(np.float32)
    sae = libsae.from_weights(None, dictionary, architecture="matching_pursuit", k=6, W_skip=skip)
    close(sae.encode_dense(x), codes)
    close(sae.forward(x), codes @ W + x.astype(np.float64) @ skip.T, 1e-4)
    np.testing.assert_array_equal(sae.read("W_skip", 3, 2), skip[3:5])
    assert sae.info["has_skip"] and sae.info["k"] == 6
    with pytest.raises(libsae.UnsupportedError, match="sae_forward"):
        sae.measure(x, sae.encode(x))
    with pytest.raises(TypeError, match="contiguous by output"):
        libsae.from_weights(None, dictionary, architecture="matching_pursuit", W_skip=np.asfortranarray(skip))
    with pytest.raises(libsae.ArgError, match="no W_enc"):
        libsae.from_weights(o.W_enc, dictionary, architecture="matching_pursuit")
    with pytest.raises(libsae.ArgError, match="W_enc is None"):
        libsae.from_weights(None, dictionary)


def test_weights_that_do_not_fit() -> None:
    o = Oracle("jumprelu")
    W_enc, W_dec, threshold = o.W_enc, o.W_dec, o.vectors["threshold"]
    make = libsae.from_weights
    with pytest.raises(libsae.ShapeError, match=r"W_dec has shape \(24, 100\), but \[100\]"):
        make(W_enc, W_enc)
    with pytest.raises(TypeError, match="both must have one type"):
        make(W_enc, W_dec.astype(np.float16))
    with pytest.raises(TypeError, match=r"W_enc is float32 with strides \(800, 8\)"):
        make(np.repeat(W_enc, 2, 1)[:, ::2], W_dec)
    with pytest.raises(libsae.ShapeError, match=r"b_enc has shape \(99,\), but a vector of 100"):
        make(W_enc, W_dec, np.zeros(99, np.float32))
    with pytest.raises(libsae.ArgError, match="threshold"):
        make(W_enc, W_dec, architecture="jumprelu")
    with pytest.raises(libsae.ArgError, match="'relu' is not one of 'standard', 'jumprelu', 'topk', 'gated'"):
        make(W_enc, W_dec, architecture="relu")
    with pytest.raises(libsae.ShapeError, match="k = 0"):
        make(W_enc, W_dec, architecture="topk")
    broken = W_dec.copy()
    broken[3, 4] = np.inf
    make(W_enc, broken, threshold=threshold, architecture="jumprelu")
    with pytest.raises(libsae.FormatError, match=r"W_dec.*3.*4"):
        make(W_enc, broken, threshold=threshold, architecture="jumprelu", check=True)


def test_info_is_a_mapping() -> None:
    info = Oracle("topk", dtype="bf16").open().info
    assert info["architecture"] == "topk"
    assert (info["d_in"], info["d_sae"], info["d_out"], info["k"]) == (24, 100, 24, 7)
    assert info["dtype"] == info["w_dec_dtype"] == "bf16"
    assert info["apply_b_dec_to_input"] is True
    assert info["format"] == "memory"
    assert set(info) == set(dict(info))
    assert len(info) == len(list(info))
    assert "d_sae" in repr(info)
    with pytest.raises(KeyError):
        info["d"]
    with pytest.raises(TypeError):
        info["d_in"] = 3


def test_a_sae_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"libsae\.open"):
        libsae.Sae()
