"""libsae against sae-lens on SAEs that people trained: those of the optional data folder. Needs torch, sae-lens and SAE_TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import libsae
import numpy as np
import pytest

DATA = Path(os.environ.get("SAE_TEST_DATA") or "/nonexistent")
if not (DATA / "real" / "x.npy").is_file():
    pytest.skip("SAE_TEST_DATA does not name a folder with real/x.npy", allow_module_level=True)

torch = pytest.importorskip("torch")
pytest.importorskip("sae_lens")

from both_sides import Array, close, compare, random_rows  # noqa: E402
from sae_lens.saes.sae import SAE  # noqa: E402

BAND = 1e-5  # decisions nearer to their boundary may fall either way in float32


class Real:
    """One of the real SAEs on both sides, its rows, and float64 pre-activations with their distance to the decision."""

    def __init__(self, name: str) -> None:
        folder = DATA / "real" / name
        self.x: Array = np.load(DATA / "real" / "x.npy")
        stored = np.load(folder / "saelens_codes.npz")
        self.theirs = SAE.load_from_disk(str(folder))
        self.ours = libsae.open(str(folder))
        self.codes = self.ours.encode(self.x)
        self.dense: Array = np.asarray(self.codes.dense())
        self.stored = np.zeros_like(self.dense)
        rows = np.repeat(np.arange(len(self.x)), np.diff(stored["indptr"]))
        self.stored[rows, stored["indices"]] = stored["values"]
        w = {k: v.detach().double().numpy() for k, v in self.theirs.state_dict().items()}
        self.w_dec: Array = w["W_dec"]
        self.b_dec: Array = w["b_dec"]
        h = (self.x - self.b_dec) @ w["W_enc"] + w["b_enc"]
        if "threshold" in w:
            boundary = w["threshold"][None, :]
        else:
            ordered = np.sort(h, axis=1)
            k = self.theirs.cfg.k
            boundary = (ordered[:, -k, None] + ordered[:, -k - 1, None]) / 2
        self.undecided = np.abs(h - boundary) <= BAND


@pytest.fixture(scope="module", params=["minilm-l3-jumprelu", "minilm-l3-topk"])
def real(request: pytest.FixtureRequest) -> Real:
    return Real(request.param)


def test_real_codes(real: Real) -> None:
    with torch.no_grad():
        now = real.theirs.encode(torch.from_numpy(real.x)).numpy()
    for want in (real.stored, now):
        differ = (real.dense != 0) != (want != 0)
        assert not (differ & ~real.undecided).any()
        same = ~differ
        assert (np.abs(real.dense - want) <= 2e-5 * (1 + np.abs(want)))[same].all()


def test_real_decode(real: Real) -> None:
    with torch.no_grad():
        want = real.theirs.decode(torch.from_numpy(real.dense)).numpy()
    close(np.asarray(real.ours.decode(real.codes)), want, real.x)


def test_real_probe(real: Real) -> None:
    features = np.argsort(-(real.dense != 0).sum(axis=0))[:9].astype(np.int32)
    np.testing.assert_array_equal(np.asarray(real.ours.probe(real.x, features)), real.dense[:, features])


@pytest.mark.parametrize("by", ["decoder", "encoder"])
def test_real_neighbors(real: Real, by: str) -> None:
    rows = real.theirs.W_dec if by == "decoder" else real.theirs.W_enc.T
    unit = torch.nn.functional.normalize(rows.detach().double(), dim=1)
    feature = int((real.dense != 0).sum(axis=0).argmax())
    cosines = unit @ unit[feature]
    cosines[feature] = -2
    want = torch.topk(cosines, 10)
    features, got = real.ours.neighbors(feature, 10, by=by)
    np.testing.assert_allclose(np.asarray(got), want.values.numpy(), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(features), want.indices.numpy())


def test_real_steering_keeps_the_error_term(real: Real) -> None:
    """x' = decode(edited codes) + (x - decode(codes)), in float64, for a clamp and a scale of two features at once."""
    clamp, scale = (int(f) for f in np.argsort(-(real.dense != 0).sum(axis=0))[:2])
    edited = real.dense.astype(np.float64)
    edited[:, clamp] = 4.0
    edited[:, scale] *= -0.5
    want = real.x + (edited - real.dense) @ real.w_dec
    plan = libsae.Plan(
        [
            libsae.Edit.set(4.0, sae=real.ours, feature=clamp),
            libsae.Edit.scale(-0.5, sae=real.ours, feature=scale),
        ]
    )
    rows = real.x.copy()
    plan.apply(rows)
    close(rows, want, real.x)


@pytest.mark.parametrize("name", sorted(p.name for p in (DATA / "sae" / "othellogpt-saelens").glob("*/")))
def test_othello(name: str) -> None:
    folder = DATA / "sae" / "othellogpt-saelens" / name
    theirs = SAE.load_from_disk(str(folder), dtype="float32")
    compare(folder, theirs, random_rows(200, theirs.cfg.d_in, seed=5))
