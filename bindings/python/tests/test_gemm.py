"""Linear layers against float64, and what they refuse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import CAST, widen

import libsae
from libsae import Gemm

BACKENDS = ["native", "auto", *(["blis"] if libsae.has_blis() else [])]
RNG = np.random.default_rng(1)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("w_dtype", CAST)
@pytest.mark.parametrize("x_dtype", CAST)
def test_products(backend: str, w_dtype: str, x_dtype: str) -> None:
    w, b, x = CAST[w_dtype](draw(200, 70)), draw(200), CAST[x_dtype](draw(33, 70))
    layer = Gemm(w, b, backend=backend)
    exact = widen(x).astype(np.float64) @ widen(w).T.astype(np.float64)
    np.testing.assert_allclose(layer.run(x), exact + b, atol=2e-5)
    np.testing.assert_allclose(Gemm(w, backend=backend).run(x), exact, atol=2e-5)
    assert (layer.n_out, layer.n_in) == (200, 70)
    assert layer.backend == ("blis" if backend == "blis" else "native")
    assert layer.packed_bytes >= 4 * 200 * 70


def test_auto_takes_blis_for_scalar_kernels() -> None:
    layer = Gemm(draw(3, 4), backend="auto", env=libsae.Env(isa="scalar"))
    assert layer.backend == ("blis" if libsae.has_blis() else "native")
    assert repr(layer) == f"<libsae.Gemm [3][4], {layer.backend}>"


def test_views_and_out() -> None:
    w, x, out = draw(60, 40), draw(9, 50), np.zeros((9, 40), np.float32)
    layer = Gemm(w[::2, 8:], env=libsae.Env(threads=2))
    plain = Gemm(np.ascontiguousarray(w[::2, 8:])).run(np.ascontiguousarray(x[::-1, 10:42]))
    assert layer.run(x[::-1, 10:42], out=out[:, 4:34]).base is out
    np.testing.assert_array_equal(out[:, 4:34], plain)
    assert not out[:, :4].any()
    assert not out[:, 34:].any()
    np.testing.assert_array_equal(layer.run(x[0, 10:42]), plain[-1:])
    assert layer.run(x[:0, :32]).shape == (0, 30)


def test_batches_and_threads_give_the_same_bits() -> None:
    layer = Gemm(draw(300, 500), draw(300))
    x = draw(600, 500)
    want = layer.run(x)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(layer.run, [x[i : i + n] for i, n in ((0, 1), (1, 5), (6, 94), (100, 500))]))
    np.testing.assert_array_equal(np.concatenate(parts), want)


def test_refusals() -> None:
    w, x = draw(5, 8), draw(3, 8)
    layer = Gemm(w)
    with pytest.raises(libsae.ShapeError, match=r"weight has shape \(5,\)"):
        Gemm(w[:, 0])
    with pytest.raises(libsae.ShapeError, match="bias has shape"):
        Gemm(w, draw(4))
    with pytest.raises(libsae.ArgError, match="n_out = 0"):
        Gemm(w[:0])
    with pytest.raises(libsae.ArgError, match="stride_bytes = -32"):
        Gemm(w[::-1])
    with pytest.raises(libsae.ArgError, match="'gpu' is not one of 'native', 'blis', 'auto'"):
        Gemm(w, backend="gpu")
    with pytest.raises(TypeError, match="float64"):
        Gemm(w.astype(np.float64))
    with pytest.raises(TypeError, match="adjacent"):
        Gemm(w[:, ::2])
    with pytest.raises(libsae.ShapeError, match="7 columns, but 8"):
        layer.run(x[:, :7])
    with pytest.raises(libsae.ShapeError, match="there are 3 rows of 5"):
        layer.run(x, out=np.zeros((2, 5), np.float32))
    both = np.zeros((6, 8), np.float32)
    with pytest.raises(libsae.ArgError, match="x and y overlap"):
        layer.run(both[:3], out=both[2:5, :5])
    if not libsae.has_blis():
        with pytest.raises(libsae.UnsupportedError, match="no BLIS"):
            Gemm(w, backend="blis")


def test_closing() -> None:
    env = libsae.Env()
    with Gemm(draw(5, 8), env=env) as layer:
        env.close()
        assert layer.run(draw(3, 8)).shape == (3, 5)
    with pytest.raises(ValueError, match="closed"):
        layer.run(draw(3, 8))
