"""Neighbours and pairs against float64."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Oracle, bf16, widen

import libsae


@pytest.fixture(scope="module")
def o() -> Oracle:
    return Oracle("standard")


@pytest.fixture(scope="module")
def sae(o: Oracle) -> libsae.Sae:
    return o.open()


def cosines(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    return rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))


@pytest.mark.parametrize("by", ["decoder", "encoder"])
def test_neighbors(sae: libsae.Sae, o: Oracle, by: str) -> None:
    rows = o.W_dec if by == "decoder" else o.W_enc.T
    want = cosines(rows, rows[17])
    order = np.argsort(-want, kind="stable")
    features, cos = sae.neighbors(17, 6, by=by)
    np.testing.assert_array_equal(features, order[order != 17][:6])
    np.testing.assert_allclose(cos, want[features], atol=1e-6)
    features, cos = sae.neighbors(np.ascontiguousarray(rows[17]), 6, by=by)
    np.testing.assert_array_equal(features, order[:6])
    assert cos[0] == pytest.approx(1.0)
    assert sae.neighbors(np.int64(17), k=2, by=by).features.tolist() == order[order != 17][:2].tolist()
    assert len(sae.neighbors(17, k=1000, by=by).features) == o.d_sae - 1


@pytest.mark.parametrize("by", ["decoder", "encoder"])
def test_prepared_neighbors(o: Oracle, by: str) -> None:
    with o.open() as plain, o.open() as prepared:
        before = prepared.neighbors(17, 6, by=by)
        prepared.prepare_neighbors(by=by)
        prepared.prepare_neighbors(by)
        for feature in range(o.d_sae):
            want, got = plain.neighbors(feature, 6, by=by), prepared.neighbors(feature, 6, by=by)
            np.testing.assert_array_equal(got.features, want.features)
            assert got.cosines.tobytes() == want.cosines.tobytes()
        assert before.features.tolist() == prepared.neighbors(17, 6, by=by).features.tolist()
    with pytest.raises(ValueError, match="closed"):
        prepared.prepare_neighbors()


def test_query_vectors_of_all_types(sae: libsae.Sae, o: Oracle) -> None:
    for query in (o.W_dec[5].astype(np.float16), bf16(o.W_dec[5]), o.W_enc[:, 3].repeat(2)[::2]):
        features, cos = sae.neighbors(query, 4)
        want = cosines(o.W_dec, widen(query))
        np.testing.assert_array_equal(features, np.argsort(-want)[:4])
        np.testing.assert_allclose(cos, want[features], atol=1e-6)


def test_pairs(sae: libsae.Sae, o: Oracle) -> None:
    ids = [3, 99, 3, 40]
    rows = o.W_dec[ids].astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(sae.pairs(ids), unit @ unit.T, atol=1e-6)
    np.testing.assert_allclose(sae.pairs(ids, "angle"), np.arccos(np.clip(unit @ unit.T, -1, 1)), atol=1e-6)
    np.testing.assert_allclose(sae.pairs(ids, measure="l2"), np.linalg.norm(rows[:, None] - rows, axis=2), atol=1e-6)
    rows = o.W_enc.T[ids].astype(np.float64)
    np.testing.assert_allclose(sae.pairs(ids, "l2", by="encoder"), np.linalg.norm(rows[:, None] - rows, axis=2), atol=1e-6)
    out = np.empty((4, 4), np.float32)
    assert sae.pairs(ids, out=out) is out


def test_refusals(sae: libsae.Sae, o: Oracle) -> None:
    with pytest.raises(libsae.ArgError, match="'middle' is not one of 'decoder', 'encoder'"):
        sae.neighbors(1, by="middle")
    with pytest.raises(libsae.ArgError, match="100"):
        sae.neighbors(100)
    with pytest.raises(libsae.ArgError):
        sae.neighbors(1, k=0)
    with pytest.raises(libsae.ArgError):
        sae.neighbors(1, k=-5)
    with pytest.raises(libsae.ArgError, match="length 0"):
        sae.neighbors(np.zeros(o.d_in, np.float32))
    with pytest.raises(libsae.ShapeError, match=r"vector has shape \(3,\), but a vector of 24"):
        sae.neighbors(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="vector is float64"):
        sae.neighbors(np.ones(o.d_in))
    with pytest.raises(TypeError, match="vector is a float"):
        sae.neighbors(1.0)
    with pytest.raises(libsae.ArgError, match="'dot' is not one of"):
        sae.pairs([1, 2], "dot")
    with pytest.raises(libsae.ArgError):
        sae.pairs([1, 100])
