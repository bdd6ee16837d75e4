"""torch tensors in CPU memory: read, written and steered where they are, in float32, float16 and bfloat16."""

from __future__ import annotations

import threading
from typing import Any

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")

D, N, ROWS = 24, 100, 9
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def draw(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / D**0.5


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    return {"W_enc": draw(D, N, seed=1), "W_dec": draw(N, D, seed=2), "b_enc": draw(N, seed=3), "b_dec": draw(D, seed=4)}


@pytest.fixture(scope="module")
def sae(weights: dict[str, Any]) -> libsae.Sae:
    return libsae.from_weights(**weights)


def x_of(dtype: Any) -> Any:
    return (draw(ROWS, D, seed=5) * 5).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_decode_probe_measure(sae: libsae.Sae, weights: dict[str, Any], dtype: Any) -> None:
    x = x_of(dtype)
    want = torch.relu(x.double() @ weights["W_enc"].double() + weights["b_enc"].double())
    codes = sae.encode(x)
    np.testing.assert_allclose(codes.dense(), want, atol=1e-5)
    np.testing.assert_array_equal(sae.encode(x.float()).dense(), codes.dense())
    np.testing.assert_array_equal(sae.probe(x, torch.tensor([7, 3])), codes.dense()[:, [7, 3]])
    y = want @ weights["W_dec"].double() + weights["b_dec"].double()
    for out_dtype in DTYPES:
        out = torch.empty(ROWS, D, dtype=out_dtype)
        assert sae.decode(codes, out=out) is out
        torch.testing.assert_close(out.double(), y, atol=TOLERANCE[out_dtype], rtol=TOLERANCE[out_dtype])
        assert torch.equal(out, torch.from_numpy(sae.decode(codes)).to(out_dtype))  # rounded once, to nearest
    error, _ = sae.measure(x, codes)
    np.testing.assert_allclose(error, ((x.double() - y) ** 2).sum(1), rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_row_stride(sae: libsae.Sae, dtype: Any) -> None:
    x = x_of(dtype)
    want = sae.encode(x).dense()
    wide = torch.zeros(2 * ROWS, D + 3, dtype=dtype)
    wide[::2, 2 : 2 + D] = x
    np.testing.assert_array_equal(sae.encode(wide[::2, 2 : 2 + D]).dense(), want)
    np.testing.assert_array_equal(sae.encode(x[4]).dense(), want[4:5])
    np.testing.assert_array_equal(sae.encode(x[:0]).dense(), want[:0])
    np.testing.assert_array_equal(sae.encode(x.clone().requires_grad_()).dense(), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_tensors(sae: libsae.Sae, dtype: Any) -> None:
    x = x_of(dtype)
    dense = torch.full((ROWS, N + 2), 7.0)
    part = dense[:, 1 : 1 + N]
    assert sae.encode_dense(x, out=part) is part
    np.testing.assert_array_equal(part.numpy(), sae.encode_dense(x))
    assert (dense[:, 0] == 7).all()
    assert (dense[:, -1] == 7).all()
    if dtype is not torch.float32:
        with pytest.raises(TypeError, match="these results are float32"):
            sae.encode_dense(x, out=torch.empty(ROWS, N, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_steering_in_place(sae: libsae.Sae, weights: dict[str, Any], dtype: Any) -> None:
    x = x_of(dtype)
    v = draw(D, seed=9).to(dtype)
    edits = [libsae.Edit.set(2.0, sae=sae, feature=11), libsae.Edit.add(3.0, vector=v)]
    z = torch.relu(x.double() @ weights["W_enc"].double() + weights["b_enc"].double())[:, 11]
    want = x.double() + (2.0 - z)[:, None] * weights["W_dec"][11].double() + 3.0 * v.double()
    place, version = x.data_ptr(), x.clone()
    assert libsae.Plan(edits).apply(x) is x
    assert x.data_ptr() == place
    torch.testing.assert_close(x.double(), want, atol=TOLERANCE[dtype] * 2, rtol=TOLERANCE[dtype])
    hidden = version.reshape(1, ROWS, D)  # [batch][position][d], as a hook sees it
    libsae.Plan(edits).apply(hidden.view(-1, D), slots=torch.tensor([0, -1] * 4 + [0]))
    assert torch.equal(hidden[0, ::2], x[::2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_borrowed(weights: dict[str, Any], dtype: Any) -> None:
    """Also as a torch.nn.Linear has them: transposed, biases in the type of the model."""
    x = x_of(torch.float32)
    w = {name: t.to(dtype) for name, t in weights.items()}
    want = libsae.from_weights(**{name: t.float() for name, t in w.items()}).encode(x).dense()
    linear = torch.nn.Linear(D, N, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(w["W_enc"].T)
    sae = libsae.from_weights(linear.weight.T, w["W_dec"], w["b_enc"], w["b_dec"])
    assert sae.info["dtype"] == {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    np.testing.assert_array_equal(sae.encode(x).dense(), want)
    with torch.no_grad():
        linear.weight.zero_()  # the very memory that sae reads
    assert (sae.encode(x).dense() == np.maximum(w["b_enc"].float().numpy(), 0)).all()
    np.testing.assert_array_equal(sae.neighbors(w["W_dec"][3], 1).features, [3])


def test_refusals(sae: libsae.Sae) -> None:
    x = x_of(torch.float32)
    plan = libsae.Plan([libsae.Edit.add(1.0, vector=torch.ones(D))])
    for bad, words in (
        (x.double(), r"x is torch\.float64 with strides \(24, 1\).*x\.float\(\)"),
        (x.T.contiguous().T, r"float32 with strides \(4, 36\)"),
        (x.to("meta"), "x is on meta"),
        (x.to_sparse(), "to_dense"),
        (torch._neg_view(x), "resolve_neg"),
        (x[:1].expand(ROWS, D), "one row repeated 9 times"),
    ):
        with pytest.raises(TypeError, match=words):
            sae.encode(bad)
    with pytest.raises(TypeError, match="requires grad.*detach"):
        plan.apply(x.clone().requires_grad_())
    y = x.clone().requires_grad_()
    plan.apply(y.detach())
    torch.testing.assert_close(y.detach(), x + 1)
    with pytest.raises(libsae.ShapeError, match=r"\(1, 9, 24\).*reshape\(-1, 24\)"):
        sae.encode(x[None])


def test_threads_of_torch_and_of_libsae_live_together(weights: dict[str, Any]) -> None:
    sae = libsae.from_weights(**weights, threads=3)
    x = draw(500, D, seed=6)
    want = sae.encode(x).dense()
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                np.testing.assert_array_equal(sae.encode(x).dense(), want)
                (x @ weights["W_enc"]).sum()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
