"""Saving: every format gives the SAE back to the bit, and what it cannot say is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN

import libsae

SAELENS = GOLDEN / "saelens"


def same(a: libsae.Sae, b: libsae.Sae, x: np.ndarray) -> None:
    assert a.fingerprint == b.fingerprint
    one, two = a.encode(x), b.encode(x)
    for name in ("indptr", "indices", "values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("name", ["jumprelu_fp16", "standard_bf16", "topk_rescale_by_decoder_norm", "gated", "standard_layer_norm"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    sae = libsae.open(SAELENS / name)
    x = np.load(SAELENS / name / "x.npy")
    for path in (tmp_path / "a.sae", tmp_path / "folder"):
        assert sae.save(path) is None
        with libsae.open(path, check=True) as back:
            same(sae, back, x)
            for key in ("hook_name", "model_name", "k", "w_enc_dtype", "normalize_activations"):
                assert back.info[key] == sae.info[key], key
            assert back.info["format"] == ("sae" if path.suffix else "saelens")


def test_gemma_scope(tmp_path: Path) -> None:
    sae = libsae.open(SAELENS / "jumprelu_fp16")
    sae.save(tmp_path / "params.npz")
    with np.load(tmp_path / "params.npz") as arrays:
        assert sorted(arrays) == ["W_dec", "W_enc", "b_dec", "b_enc", "threshold"]
        np.testing.assert_array_equal(arrays["W_enc"].T, sae.read("W_enc"))
        np.testing.assert_array_equal(arrays["W_dec"], sae.read("W_dec"))
        np.testing.assert_array_equal(arrays["threshold"], sae.read("threshold"))
    same(sae, libsae.open(tmp_path / "params.npz"), np.load(SAELENS / "jumprelu_fp16" / "x.npy"))


def test_dtype_and_catalog(tmp_path: Path) -> None:
    sae = libsae.open(SAELENS / "topk")
    sae.save(tmp_path / "a.sae", dtype="bf16", catalog="labels.catalog")
    back = libsae.open(tmp_path / "a.sae")
    assert (back.info["dtype"], back.info["catalog"]) == ("bf16", "labels.catalog")
    assert back.fingerprint != sae.fingerprint
    back.save(tmp_path / "wide.sae", dtype="f32")
    assert libsae.open(tmp_path / "wide.sae").fingerprint == back.fingerprint


def test_screen(tmp_path: Path) -> None:
    sae = libsae.open(SAELENS / "jumprelu_f32")
    sae.save(tmp_path / "a.sae", screen=True)
    back = libsae.open(tmp_path / "a.sae", check=True)
    assert sae.memory.screen_stored_bytes == 0 and "screen" not in sae.memory.prepared
    assert 0 < back.memory.screen_stored_bytes <= back.memory.screen_bytes and "screen" in back.memory.prepared
    same(sae, back, np.load(SAELENS / "jumprelu_f32" / "x.npy"))
    with pytest.raises(libsae.UnsupportedError, match="a screen is to be kept"):
        sae.save(tmp_path / "folder", screen=True)


def test_from_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    w_enc, w_dec = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 20), (20, 8)))
    sae = libsae.from_weights(w_enc, w_dec, architecture="topk", k=3)
    sae.save(tmp_path / "a.sae")
    same(sae, libsae.open(tmp_path / "a.sae"), rng.standard_normal((5, 8)).astype(np.float32))


def test_refusals(tmp_path: Path) -> None:
    sae = libsae.open(SAELENS / "topk")
    path = tmp_path / "a.sae"
    sae.save(path)
    with pytest.raises(libsae.IoError, match="is there already"):
        sae.save(path)
    sae.save(path, overwrite=True)
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "a.npz", {}, libsae.UnsupportedError, "is not jumprelu"),
        (tmp_path / "a", {"format": "onnx"}, libsae.ArgError, "not one of sae, saelens, gemma_scope"),
        (tmp_path / "b.sae", {"dtype": "f64"}, libsae.ArgError, "f64"),
        (tmp_path / "a", {"format": "sae"}, libsae.ArgError, "ends in .sae"),
        (tmp_path / "a", {"catalog": "x"}, libsae.UnsupportedError, "catalog"),
        ("a\0.sae", {}, libsae.ArgError, "NUL"),
        (tmp_path / "nowhere" / "a.sae", {}, libsae.IoError, "No such file"),
    ]
    for to, options, error, text in cases:
        with pytest.raises(error, match=text):
            sae.save(to, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.sae"]
