"""libsae against sae-lens: folders that sae-lens writes, in every architecture and layout that is read. Needs torch and sae-lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sae_lens")

from both_sides import D_IN, ROWS, close, compare, random_rows  # noqa: E402
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig  # noqa: E402
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig  # noqa: E402
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig  # noqa: E402
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig  # noqa: E402
from sae_lens.saes.sae import SAE  # noqa: E402
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig  # noqa: E402
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

D_SAE = 203  # no multiple of a vector, a panel or a block


def randomize(sae: Any, seed: int = 0) -> Any:
    """Fills every parameter: sae-lens itself starts with zeros in half of them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            scale = {"W_enc": D_IN**-0.5, "W_dec": D_IN**-0.5, "b_dec": 0.5, "threshold": 1.0, "log_threshold": 1.0}.get(name, 0.3)
            values = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(values.abs() if name == "threshold" else values)
    return sae


COMMON: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE}

INFERENCE: dict[str, Callable[[], Any]] = {
    "standard": lambda: StandardSAE(StandardSAEConfig(**COMMON)),
    "standard_no_b_dec": lambda: StandardSAE(StandardSAEConfig(**COMMON, apply_b_dec_to_input=False)),
    "standard_constant_norm": lambda: StandardSAE(StandardSAEConfig(**COMMON, normalize_activations="constant_norm_rescale")),
    "standard_layer_norm": lambda: StandardSAE(StandardSAEConfig(**COMMON, normalize_activations="layer_norm")),
    "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(**COMMON)),
    "jumprelu_layer_norm": lambda: JumpReLUSAE(JumpReLUSAEConfig(**COMMON, normalize_activations="layer_norm")),
    "gated": lambda: GatedSAE(GatedSAEConfig(**COMMON)),
    "topk": lambda: TopKSAE(TopKSAEConfig(**COMMON, k=11)),
    "topk_rescaled": lambda: TopKSAE(TopKSAEConfig(**COMMON, k=11, rescale_acts_by_decoder_norm=True)),
    "topk_many": lambda: TopKSAE(TopKSAEConfig(**COMMON, k=150)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", sorted(INFERENCE))
def test_inference_folder(tmp_path: Path, name: str, dtype: str) -> None:
    sae = randomize(INFERENCE[name]())
    sae.cfg.dtype = dtype
    sae.to(getattr(torch, dtype)).save_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path), dtype="float32"), random_rows())


def test_batchtopk_saved_for_inference(tmp_path: Path) -> None:
    sae = randomize(BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**COMMON, k=9)))
    sae.topk_threshold.fill_(0.7)
    sae.save_inference_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_matryoshka_saved_for_inference(tmp_path: Path) -> None:
    config = MatryoshkaBatchTopKTrainingSAEConfig(**COMMON, k=9, matryoshka_widths=[64, D_SAE])
    sae = randomize(MatryoshkaBatchTopKTrainingSAE(config))
    sae.topk_threshold.fill_(0.7)
    sae.save_inference_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_jumprelu_training_checkpoint(tmp_path: Path) -> None:
    sae = randomize(JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**COMMON)))
    sae.save_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_folded_decoder_norm(tmp_path: Path) -> None:
    sae = randomize(JumpReLUSAE(JumpReLUSAEConfig(**COMMON)))
    sae.fold_W_dec_norm()
    sae.save_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_norm_scaling_factor_is_the_fold(tmp_path: Path) -> None:
    sae = randomize(StandardSAE(StandardSAEConfig(**COMMON, normalize_activations="expected_average_only_in")))
    sae.save_model(str(tmp_path))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())  # unscaled, as sae-lens does it
    folded = SAE.load_from_disk(str(tmp_path))
    folded.fold_activation_norm_scaling_factor(0.37)
    x = random_rows()
    ours = libsae.open(str(tmp_path), norm_scaling_factor=0.37)
    codes = ours.encode(x)
    with torch.no_grad():
        z = folded.encode(torch.from_numpy(x))
        xhat = folded.decode(z).numpy()
    np.testing.assert_array_equal(np.asarray(codes.dense()) != 0, z.numpy() != 0)
    close(np.asarray(codes.dense()), z.numpy(), x)
    close(np.asarray(ours.decode(codes)), xhat, x / 0.37)  # decoding divides by the factor, rounding errors included


def test_hook_z_rows_are_flat(tmp_path: Path) -> None:
    heads = 6
    sae = randomize(StandardSAE(StandardSAEConfig(**COMMON, reshape_activations="hook_z")))
    sae.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    sae.save_model(str(tmp_path))
    x = random_rows()
    theirs = SAE.load_from_disk(str(tmp_path))
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(x).reshape(ROWS, heads, D_IN // heads)).numpy()
    dense = np.asarray(libsae.open(str(tmp_path)).encode(x).dense())
    np.testing.assert_array_equal(dense != 0, z != 0)
    close(dense, z, x)


# ---- older layouts ----


def save_old(folder: Path, sae: Any, config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    save_file({name: value.detach().contiguous() for name, value in sae.state_dict().items()}, str(folder / "sae_weights.safetensors"))
    (folder / "cfg.json").write_text(json.dumps({**COMMON, "dtype": "torch.float32", "device": "cpu", "model_name": "m", **config}))


OLD: dict[str, Any] = {
    "v3": ("standard", {"hook_point": "blocks.0.hook_resid_pre", "hook_point_layer": 0, "normalize_activations": False}),
    "v3_no_b_dec": ("standard", {"hook_name": "h", "apply_b_dec_to_input": False, "activation_fn_str": "relu"}),
    "v4": ("jumprelu", {"architecture": "jumprelu", "hook_name": "h", "activation_fn_str": "relu", "normalize_activations": "layer_norm"}),
    "v5_topk": ("topk", {"architecture": "standard", "hook_name": "h", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 11}}),
    "v5_named_topk": ("topk", {"architecture": "topk", "hook_name": "h", "activation_fn_kwargs": {"k": 7}}),
    "v5_gated": ("gated", {"architecture": "gated", "hook_name": "h", "sae_lens_version": "5.11.0"}),
    "v5_hook_z": ("standard", {"architecture": "standard", "hook_name": "blocks.0.attn.hook_z", "reshape_activations": "none"}),
}


@pytest.mark.parametrize("name", sorted(OLD))
def test_older_layout(tmp_path: Path, name: str) -> None:
    kind, config = OLD[name]
    save_old(tmp_path, randomize(INFERENCE[kind]()), config)
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_log_threshold(tmp_path: Path) -> None:
    """Old training checkpoints, which sae-lens reads in its training class only."""
    sae = randomize(INFERENCE["jumprelu"]())
    save_old(tmp_path, sae, {"architecture": "jumprelu", "hook_name": "h"})
    weights = load_file(str(tmp_path / "sae_weights.safetensors"))
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, str(tmp_path / "sae_weights.safetensors"))
    sae.threshold.data = weights["log_threshold"].exp()
    compare(tmp_path, sae, random_rows())


def test_scaling_factor_of_ones_is_dropped(tmp_path: Path) -> None:
    save_old(tmp_path, randomize(INFERENCE["standard"]()), {"hook_name": "h", "finetuning_scaling_factor": False})
    weights = load_file(str(tmp_path / "sae_weights.safetensors"))
    save_file({**weights, "scaling_factor": torch.ones(D_SAE)}, str(tmp_path / "sae_weights.safetensors"))
    compare(tmp_path, SAE.load_from_disk(str(tmp_path)), random_rows())


def test_finetuning_scaling_factor_scales_the_decoder(tmp_path: Path) -> None:
    """sae-lens 5 multiplies the codes before decoding; sae-lens 6 cannot load such a file any more."""
    sae = randomize(INFERENCE["standard"]())
    scale = torch.rand(D_SAE) + 0.5
    save_old(tmp_path, sae, {"hook_name": "h", "finetuning_scaling_factor": True})
    weights = load_file(str(tmp_path / "sae_weights.safetensors"))
    save_file({**weights, "scaling_factor": scale}, str(tmp_path / "sae_weights.safetensors"))
    x = random_rows()
    ours = libsae.open(str(tmp_path))
    codes = ours.encode(x)
    with torch.no_grad():
        z = sae.encode(torch.from_numpy(x))
        xhat = (z * scale) @ sae.W_dec + sae.b_dec
    close(np.asarray(codes.dense()), z.numpy(), x)
    close(np.asarray(ours.decode(codes)), xhat.numpy(), x)


# ---- what is refused ----


def test_training_checkpoint_names_the_way_out(tmp_path: Path) -> None:
    BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**COMMON, k=9)).save_model(str(tmp_path))
    with pytest.raises(libsae.UnsupportedError, match="save_inference_model"):
        libsae.open(str(tmp_path))
