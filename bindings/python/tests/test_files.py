"""Published SAEs: the fixtures of tests/golden by their own rule, the options of open, and files that must be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN

import libsae

FIXTURES = sorted((GOLDEN / "saelens").glob("*/"))
ALL = json.loads((GOLDEN / "golden.json").read_text("utf-8"))["fixtures"]
BAD = json.loads((GOLDEN / "bad" / "manifest.json").read_text("utf-8"))["entries"]
JUMPRELU = GOLDEN / "saelens" / "jumprelu_f32"


def options_of(folder: Path) -> dict[str, Any]:
    """What the fixture is, as its writer tells it beside cfg.json."""
    return json.loads((folder / "fixture.json").read_text("utf-8"))["options"]


def by_the_rule(got: np.ndarray, want: np.ndarray, x: np.ndarray) -> None:
    scale = np.maximum(1.0, np.linalg.norm(x.astype(np.float64), axis=1) / np.sqrt(x.shape[1]))[:, None]
    assert (np.abs(got.astype(np.float64) - want) <= 1e-5 * (1 + np.abs(want)) * scale).all()


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda p: p.name)
def test_fixture(folder: Path) -> None:
    x, z, xhat = (np.load(folder / f"{name}.npy") for name in ("x", "z64", "xhat64"))
    options = options_of(folder)
    sae = libsae.open(folder, check=True, norm_scaling_factor=options.get("norm_scaling_factor"))
    cfg = json.loads((folder / "cfg.json").read_text("utf-8"))
    assert sae.info["d_in"] == cfg["d_in"]
    assert sae.info["d_sae"] == cfg["d_sae"]
    assert json.loads(sae.info["config"]) == cfg
    assert sae.info["apply_b_dec_to_input"] == options["apply_b_dec_to_input"]
    assert sae.info["normalize_activations"] == options.get("normalize_activations", "none")
    assert sae.info["norm_scaling_factor"] == pytest.approx(options.get("norm_scaling_factor", 1.0))
    assert sae.info["path"].endswith("sae_weights.safetensors")
    codes = sae.encode(x)
    dense = codes.dense()
    rows = ~np.isnan(z[:, 0])  # a zero row under constant_norm_rescale has no codes
    np.testing.assert_array_equal(dense[rows] != 0, z[rows] != 0)
    assert not dense[~rows].any()
    by_the_rule(dense[rows], z[rows], x[rows])
    by_the_rule(sae.forward(x)[rows], xhat[rows], x[rows])
    if not cfg["architecture"].endswith("skip_transcoder") and cfg["architecture"] != "temporal":
        by_the_rule(sae.decode(codes)[rows], xhat[rows], x[rows])


def place(folder: Path, files: list[str]) -> Path:
    """The folder that holds the checkpoint, or its only file."""
    first = folder / files[0]
    if len(files) == 1:
        return first
    return first.parent.parent if first.parent.name == "checkpoints" else first.parent


@pytest.mark.parametrize("path", [f["path"] for f in ALL])
def test_every_format(path: str) -> None:
    folder = GOLDEN / path
    about = json.loads((folder / "fixture.json").read_text("utf-8"))
    x, z, xhat = (np.load(folder / f"{name}.npy") for name in ("x", "z64", "xhat64"))
    options = {name: about["options"][name] for name in ("layer", "norm_scaling_factor") if name in about["options"]}
    if path.startswith("qwen_scope/"):
        options["k"] = about["options"]["k"]
    with libsae.open(place(folder, about["files"]), d_in=x.shape[1], d_out=xhat.shape[1], **options) as sae:
        dense = sae.encode(x).dense()
        rows = ~np.isnan(z[:, 0])
        np.testing.assert_array_equal(dense[rows] != 0, z[rows] != 0)
        by_the_rule(dense[rows], z[rows], x[rows])
        by_the_rule(sae(x)[rows], xhat[rows], x[rows])


def test_open_takes_paths_and_options() -> None:
    for path in (str(JUMPRELU), JUMPRELU, JUMPRELU / "sae_weights.safetensors", bytes(JUMPRELU)):
        assert libsae.open(path).info["architecture"] == "jumprelu"
    sae = libsae.open(JUMPRELU, d_in=37, d_out=37, copy=True, check=True, threads=2, isa="scalar", prepare=True)
    assert sae.memory.mapped_bytes == 0
    assert (sae.env.threads, sae.env.isa) == (2, "scalar")
    assert "panels" in sae.memory.prepared
    for name in ("apply_b_dec_to_input", "apply_b_dec"):
        assert libsae.open(JUMPRELU, **{name: False}).info["apply_b_dec_to_input"] is False
        assert libsae.open(JUMPRELU, **{name: True}).info["apply_b_dec_to_input"] is True
    with pytest.raises(TypeError, match="one option, and they differ"):
        libsae.open(JUMPRELU, apply_b_dec=True, apply_b_dec_to_input=False)
    normalised = libsae.open(JUMPRELU, normalize_activations="expected_average_only_in", norm_scaling_factor=0.5)
    assert (normalised.info["normalize_activations"], normalised.info["norm_scaling_factor"]) == ("expected_average_only_in", 0.5)
    assert libsae.open(GOLDEN / "saelens" / "topk", k=3).info["k"] == 3


def test_options_that_do_not_fit() -> None:
    for options, error, words in (
        ({"d_in": 38}, libsae.ShapeError, "38"),
        ({"architecture": "mlp"}, (libsae.ArgError, libsae.UnsupportedError), "mlp"),
        ({"normalize_activations": "l2"}, (libsae.ArgError, libsae.UnsupportedError), "l2"),
        ({"k": 0}, libsae.ArgError, "k = 0"),
        ({"d_in": 2**33}, libsae.ArgError, "32 bits"),
        ({"norm_scaling_factor": 0}, libsae.ArgError, "norm_scaling_factor = 0"),
        ({"isa": "mmx"}, libsae.ArgError, "'mmx' is not one of 'auto', 'scalar'"),
        ({"threads": -1}, libsae.ArgError, "threads = -1"),
        ({"threads": 2, "env": libsae.Env()}, TypeError, "not both"),
        ({"architecture": "a\0b"}, libsae.ArgError, "is not a name"),
    ):
        with pytest.raises(error, match=words):
            libsae.open(JUMPRELU, **options)
    with pytest.raises(TypeError):
        libsae.open(JUMPRELU, speed="fast")
    with pytest.raises(libsae.ArgError, match="NUL"):
        libsae.open("a\0b")


def test_warnings_are_sentences() -> None:
    sae = libsae.open(GOLDEN / "saelens" / "jumprelu_expected_average_only_in")
    assert any("norm_scaling_factor" in w or "expected_average_only_in" in w for w in sae.info["warnings"])
    assert libsae.open(JUMPRELU).info["warnings"] == ()


@pytest.mark.parametrize("entry", [e for e in BAD if e["expect"] == "refuse"], ids=lambda e: e["name"])
def test_bad_file_is_refused(entry: dict[str, str]) -> None:
    path = GOLDEN / "bad" / entry["path"]
    assert path.exists()
    with pytest.raises(libsae.SaeError) as caught:
        libsae.open(path, check=True)
    assert type(caught.value) in (libsae.FormatError, libsae.ShapeError, libsae.UnsupportedError, libsae.IoError)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("folder", sorted((GOLDEN / "refused").glob("*/")), ids=lambda p: p.name)
def test_other_architectures_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(NotImplementedError) as caught:
        libsae.open(folder)
    assert isinstance(caught.value, libsae.UnsupportedError)
    assert json.loads((folder / "cfg.json").read_text("utf-8"))["architecture"] in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        libsae.open(tmp_path / "nothing")
    assert isinstance(caught.value, libsae.NotFoundError)
    assert "nothing" in str(caught.value)
    with pytest.raises(libsae.SaeError):
        libsae.open(tmp_path)


def test_a_temporal_sae_takes_long_sequences() -> None:
    folder = GOLDEN / "saelens/temporal"
    x = np.random.default_rng(3).standard_normal((1500, 24)).astype(np.float32)
    with libsae.open(folder) as sae:
        short = sae.encode_dense(x[:1000])
        np.testing.assert_array_equal(sae.encode_dense(x)[:1000], short)  # a row knows the rows before it alone
        np.testing.assert_array_equal(sae.encode(x[:1100]).dense()[:1000], short)
        np.testing.assert_array_equal(sae.forward(x)[:9], sae.forward(x[:9]))
        with pytest.raises(libsae.ShapeError, match="70000 rows are one sequence"):
            sae.encode(np.zeros((70000, 24), np.float32))
