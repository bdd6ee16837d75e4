"""What libsae saves, in sae-lens and NumPy: folders load there and give the codes of the original. Needs torch and sae-lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sae_lens")

from sae_lens.saes.sae import SAE  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
# What sae-lens itself loads: of the old layouts and training checkpoints it wants other doors.
FIXTURES = [p for p in sorted((GOLDEN / "saelens").iterdir()) if (p / "cfg.json").exists() and "checkpoint" not in p.name]


def everything(sae: Any, x: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        return sae.encode(x), sae(x)


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda p: p.name)
def test_folders_load_in_sae_lens(folder: Path, tmp_path: Path) -> None:
    libsae.open(folder).save(tmp_path / "through.sae")
    libsae.open(tmp_path / "through.sae").save(tmp_path / "saved")
    x = torch.from_numpy(np.load(folder / "x.npy"))
    if "hook_z" in folder.name:
        x = x.reshape(len(x), -1, 12)
    if "temporal" in folder.name:
        x = x[None]
    theirs, ours = (SAE.load_from_disk(str(f), dtype="float32") for f in (folder, tmp_path / "saved"))
    assert type(theirs) is type(ours)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name
    for got, want in zip(everything(ours, x), everything(theirs, x)):
        assert torch.equal(torch.nan_to_num(got), torch.nan_to_num(want))
    assert ours.cfg.metadata.hook_name == theirs.cfg.metadata.hook_name
    assert ours.cfg.metadata.model_name == theirs.cfg.metadata.model_name
    cfg, was = (json.loads((f / "cfg.json").read_text("utf-8")) for f in (tmp_path / "saved", folder))
    if was.get("metadata", {}).get("sae_lens_version", "").startswith("6."):
        assert cfg["metadata"] == was["metadata"]


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_folders_load_in_sae_lens(dtype: str, tmp_path: Path) -> None:
    libsae.open(GOLDEN / "saelens" / "jumprelu_f32").save(tmp_path / "saved", dtype=dtype)
    theirs = SAE.load_from_disk(str(tmp_path / "saved"))
    assert theirs.W_enc.dtype == {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    ours = libsae.open(tmp_path / "saved").read("W_enc")
    np.testing.assert_array_equal(theirs.W_enc.detach().float().numpy().T, ours)


def test_models_from_memory_load_in_sae_lens(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    w_enc, w_dec, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 20), (20, 8), (9, 8)))
    sae = libsae.from_weights(w_enc, w_dec, architecture="jumprelu", threshold=np.full(20, 0.5, np.float32))
    sae.save(tmp_path / "saved")
    theirs = SAE.load_from_disk(str(tmp_path / "saved"))
    with torch.no_grad():
        codes = theirs.encode(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(codes, sae.encode(x).dense(), rtol=1e-5, atol=1e-5)
