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


STORAGES = ["f32", "stored", "int8 rows", "int8 blocks"]


def dequantised(w: np.ndarray, storage: str) -> np.ndarray:
    """What the weights become: of a row, or of every 32 weights of one, scale = max |w| / 127."""
    block = 32 if storage == "int8 blocks" else w.shape[1]
    out = w.copy()
    for k in range(0, w.shape[1], block):
        part = w[:, k : k + block]
        scale = np.abs(part).max(1, keepdims=True) / np.float32(127)
        out[:, k : k + block] = np.rint(part / scale) * scale
    return out


@pytest.mark.parametrize("w_dtype", CAST)
@pytest.mark.parametrize("storage", STORAGES)
def test_storages_stand_for_f32_numbers(w_dtype: str, storage: str) -> None:
    w, b, x = CAST[w_dtype](draw(200, 70)), draw(200), draw(33, 70)
    layer = Gemm(w, b, storage=storage)
    plain = widen(w) if storage in ("f32", "stored") else dequantised(widen(w), storage)
    np.testing.assert_array_equal(layer.run(x), Gemm(plain, b).run(x))
    kept = "f32" if storage == "stored" and w_dtype == "f32" else storage
    assert layer.storage == kept
    assert layer.packed_bytes < {"f32": 5, "stored": 2.5, "int8 rows": 1.5, "int8 blocks": 1.7}[kept] * 200 * 70
    assert repr(layer) == f"<libsae.Gemm [200][70], native{'' if kept == 'f32' else ', ' + kept}>"


def test_quantised_by_others() -> None:
    q, x = RNG.integers(-128, 128, (20, 96)).astype(np.int8), draw(9, 96)
    rows, blocks = draw(20), draw(20, 3).astype(np.float16)
    by_rows, by_blocks = q * rows[:, None], q * np.repeat(blocks.astype(np.float32), 32, 1)
    np.testing.assert_array_equal(Gemm(q, storage="int8 rows", scales=rows).run(x), Gemm(by_rows).run(x))
    np.testing.assert_array_equal(Gemm(q, storage="int8 blocks", scales=blocks).run(x), Gemm(by_blocks).run(x))
    q8_0 = np.zeros((20, 3), np.dtype([("d", "<f2"), ("qs", "i1", 32)]))
    q8_0["d"], q8_0["qs"] = blocks, q.reshape(20, 3, 32)
    layer = Gemm(q8_0["qs"], storage="int8 blocks", scales=q8_0["d"])
    assert layer.n_in == 96
    np.testing.assert_array_equal(layer.run(x), Gemm(by_blocks).run(x))


def test_gates_residuals_thresholds() -> None:
    up, gate, b, c, x, r = draw(50, 30), draw(50, 30), draw(50), draw(50), draw(9, 30), draw(9, 50)
    layer = Gemm(up, b, gate=gate, gate_bias=c)
    h, g = Gemm(up, b).run(x), Gemm(gate, c).run(x).astype(np.float64)
    y = layer.run(x)
    np.testing.assert_allclose(y, g / (1 + np.exp(-g)) * h, rtol=3e-7)
    np.testing.assert_array_equal(layer.run(x, residual=r), y + r)
    np.testing.assert_array_equal(layer.run(x, threshold=b), np.where(y <= b, 0, y))
    half, out = r.astype(np.float16), r.copy()
    np.testing.assert_array_equal(layer.run(x, residual=half, threshold=b), np.where(y + half <= b, 0, y + half))
    assert layer.run(x, out=out, residual=out) is out
    np.testing.assert_array_equal(out, y + r)
    scales = draw(50)
    q = RNG.integers(-128, 128, (2, 50, 30)).astype(np.int8)
    kept = Gemm(q[0], storage="int8 rows", scales=scales, gate=q[1], gate_scales=scales)
    np.testing.assert_array_equal(kept.run(x), Gemm(q[0] * scales[:, None], gate=q[1] * scales[:, None]).run(x))


def test_refused_storages() -> None:
    w, q, s = draw(5, 64), np.zeros((5, 64), np.int8), draw(5)
    with pytest.raises(libsae.ArgError, match="'int4' is not one of 'f32', 'stored', 'int8 rows', 'int8 blocks'"):
        Gemm(w, storage="int4")
    with pytest.raises(TypeError, match="int8"):
        Gemm(w, storage="int8 rows", scales=s)
    with pytest.raises(libsae.ShapeError, match=r"scales have shape \(4,\), but \(5,\)"):
        Gemm(q, storage="int8 rows", scales=s[:4])
    with pytest.raises(libsae.ShapeError, match=r"scales have shape \(5,\), but \(5, 2\)"):
        Gemm(q, storage="int8 blocks", scales=s)
    with pytest.raises(libsae.ShapeError, match="as far apart"):
        Gemm(q.reshape(5, 2, 32), storage="int8 blocks", scales=draw(5, 2))
    with pytest.raises(libsae.ShapeError, match="rows unbroken"):
        Gemm(q[:, ::2], storage="int8 rows", scales=s)
    with pytest.raises(libsae.ArgError, match="scales are those of int8"):
        Gemm(q, storage="f32", scales=draw(5, 2))
    with pytest.raises(libsae.ShapeError, match="differ in n_out: 4 and 5"):
        Gemm(w, gate=w[:4])
    with pytest.raises(libsae.ShapeError, match="differ in dtype"):
        Gemm(w, gate=w.astype(np.float16))
    with pytest.raises(libsae.ArgError, match="there is none"):
        Gemm(w, gate_bias=s)
    w[3, 7] = np.inf
    with pytest.raises(libsae.ArgError, match="row 3"):
        Gemm(w, storage="int8 rows")
    with pytest.raises(libsae.ShapeError, match="residual has 1 rows, y has 2"):
        Gemm(w).run(draw(2, 64), residual=draw(1, 5))
    if libsae.has_blis():
        with pytest.raises(libsae.UnsupportedError, match="f32 weights alone"):
            Gemm(w, storage="int8 blocks", backend="blis")


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
