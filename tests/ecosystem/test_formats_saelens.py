"""Checkpoints that sae-lens reads itself, of random sizes and options, against sae-lens in float64: what it saves, what older versions
saved, and the formats of others by its named loaders, where they are right. Needs torch and sae-lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sae_lens")

import checkpoints as c  # noqa: E402
from checkpoints import DTYPES, SIZES, Array, Random, agree, safetensors, torch_file, write_json  # noqa: E402
from huggingface_hub.utils import EntryNotFoundError  # noqa: E402
from sae_lens.loading import pretrained_sae_loaders as loaders  # noqa: E402
from sae_lens.registry import get_sae_class, get_sae_training_class  # noqa: E402
from sae_lens.saes.sae import SAE  # noqa: E402

EACH_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
FEW_SIZES = pytest.mark.parametrize("size", SIZES[:3], ids=lambda s: f"{s[0]}x{s[1]}")
EACH_PAIR = pytest.mark.parametrize("size,dtype", c.PAIRS, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}")
NORMS = ["none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"]


def fill(sae: Any, r: Random) -> Any:
    """Random values in every parameter: sae-lens itself starts with zeros in half of them."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            d = parameter.shape[0] if name == "W_enc" else parameter.shape[-1]
            scale = d**-0.5 if parameter.ndim == 2 else 0.3
            values = r.between(0.05, 0.8, *parameter.shape) if name == "threshold" else r.normal(*parameter.shape, scale=scale)
            parameter.copy_(values.to(parameter.dtype))
        if "topk_threshold" in dict(sae.named_buffers()):
            sae.topk_threshold.fill_(0.6)
    return sae


def against(path: Path, theirs: Any, x: Array, scale: float = 1.0, shape: tuple[int, ...] | None = None, **options: Any) -> libsae.Sae:
    """libsae against a SAE of sae-lens, which gets rows of `shape`."""
    theirs = theirs.to(torch.float64)
    theirs.dtype = torch.float64
    rows = torch.from_numpy(x.astype(np.float64))
    rows = rows if shape is None else rows.reshape(shape)
    with torch.no_grad():
        z, y = theirs.encode(rows), theirs(rows)
    return agree(path, x, z.reshape(len(x), -1).numpy(), y.reshape(len(x), -1).numpy(), scale, **options)


# ---- what sae-lens saves ----

PLAIN = ["standard", "gated", "jumprelu", "topk", "abstopk"]
TRANSCODERS = ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]


def made(kind: str, d: int, n: int, r: Random, training: bool = False, **more: Any) -> Any:
    cls, config = (get_sae_training_class if training else get_sae_class)(kind)
    if kind.endswith("topk"):
        more.setdefault("k", max(1, n // 3))
    return fill(cls(config(d_in=d, d_sae=n, **more)), r)


def saved(sae: Any, path: Path, dtype: str) -> Any:
    """The folder, and what sae-lens makes of it."""
    sae.cfg.dtype = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}[dtype]
    sae.to(DTYPES[dtype])
    sae.dtype = DTYPES[dtype]
    sae.save_model(str(path))
    return SAE.load_from_disk(str(path), dtype="float64")


@FEW_SIZES
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("flags", ["", "no b_dec", "rescaled"])
def test_saved(tmp_path: Path, size: tuple[int, int], kind: str, norm: str, flags: str) -> None:
    d, n = size
    if (d == 1 and norm == "layer_norm") or (flags == "rescaled" and not kind.endswith("topk")):
        pytest.skip("there is no such SAE")
    more: dict[str, Any] = {"normalize_activations": norm, "apply_b_dec_to_input": flags != "no b_dec"}
    if flags == "rescaled":
        more["rescale_acts_by_decoder_norm"] = True
    r = Random(d * n + len(kind))
    theirs = saved(made(kind, d, n, r, **more), tmp_path, sorted(DTYPES)[(d + n + len(flags)) % 4])
    sae = against(tmp_path, theirs, r.rows(d))
    assert sae.info["apply_b_dec_to_input"] == (flags != "no b_dec")


@pytest.mark.parametrize("kind", ["topk", "abstopk"])
@pytest.mark.parametrize("k", [1, 9, 26])
@pytest.mark.parametrize("rescaled", [False, True])
def test_saved_k(tmp_path: Path, kind: str, k: int, rescaled: bool) -> None:
    r = Random(k)
    sae = made(kind, 17, 26, r, k=k, rescale_acts_by_decoder_norm=rescaled)
    against(tmp_path, saved(sae, tmp_path, "f32"), r.rows(17))


@pytest.mark.parametrize("size", [(24, 41), (24, 24), (6, 3)], ids=str)
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_saved_hook_z(tmp_path: Path, size: tuple[int, int], kind: str, norm: str) -> None:
    d, n = size
    r = Random(d + n)
    sae = made(kind, d, n, r, reshape_activations="hook_z", normalize_activations=norm)
    sae.cfg.metadata.hook_name = "blocks.3.attn.hook_z"
    x = r.rows(d)
    ours = against(tmp_path, saved(sae, tmp_path, "f32"), x, shape=(len(x), 3, d // 3))
    assert ours.info["hook_name"] == "blocks.3.attn.hook_z"


@FEW_SIZES
@pytest.mark.parametrize("kind", TRANSCODERS)
@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale", "layer_norm"])
@pytest.mark.parametrize("d_out", [0, 3])
def test_saved_transcoder(tmp_path: Path, size: tuple[int, int], kind: str, norm: str, d_out: int) -> None:
    d, n = size
    if d == 1 and norm == "layer_norm":
        pytest.skip("one element has no standard deviation")
    r = Random(d + n + d_out)
    sae = made(kind, d, n, r, d_out=d + d_out, normalize_activations=norm, apply_b_dec_to_input=False)
    against(tmp_path, saved(sae, tmp_path, sorted(DTYPES)[(d + n) % 4]), r.rows(d))


@pytest.mark.parametrize("size", [(24, 41), (16, 16), (6, 3)], ids=str)
@pytest.mark.parametrize("apply", [False, True])
@pytest.mark.parametrize("rounds", [None, 1, 4])
def test_saved_matching_pursuit(tmp_path: Path, size: tuple[int, int], apply: bool, rounds: int | None) -> None:
    d, n = size
    r = Random(d + n)
    sae = made("matching_pursuit", d, n, r, apply_b_dec_to_input=apply, max_iterations=rounds, residual_threshold=0.3)
    with torch.no_grad():
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    against(tmp_path, saved(sae, tmp_path, "f32"), r.rows(d))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("diff,k", [("topk", 5), ("topk", None), ("relu", None)])
@pytest.mark.parametrize("norm", ["none", "constant_scalar_rescale"])
def test_saved_temporal(tmp_path: Path, layers: int, tied: bool, diff: str, k: int | None, norm: str) -> None:
    d, n = 18, 24
    more = {"n_heads": 2, "bottleneck_factor": 3, "sae_diff_type": diff, "kval_topk": k, "tied_weights": tied, "n_attn_layers": layers}
    if norm != "none":
        more["activation_normalization_factor"] = 0.75
    if diff == "topk" and k is None:
        pytest.skip("sae-lens cannot encode with it")
    r = Random(layers)
    sae = made("temporal", d, n, r, normalize_activations=norm, **more)
    x = r.rows(d)
    against(tmp_path, saved(sae, tmp_path, "f32"), x, shape=(1, *x.shape))


TRAINED = ["standard", "gated", "jumprelu", "topk", "abstopk"]


@EACH_PAIR
@pytest.mark.parametrize("kind", TRAINED)
def test_training_checkpoint(tmp_path: Path, size: tuple[int, int], kind: str, dtype: str) -> None:
    d, n = size
    r = Random(d + n)
    against(tmp_path, saved(made(kind, d, n, r, training=True), tmp_path, dtype), r.rows(d))


@EACH_SIZE
@pytest.mark.parametrize("kind", [*TRAINED, "batchtopk", "matryoshka_batchtopk"])
def test_saved_for_inference(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    d, n = size
    if kind.startswith("matryoshka") and n < 2:
        pytest.skip("one feature has no inner levels")
    r = Random(d + n)
    more = {"matryoshka_widths": [n // 2, n]} if kind.startswith("matryoshka") else {}
    made(kind, d, n, r, training=True, **more).save_inference_model(str(tmp_path))
    against(tmp_path, SAE.load_from_disk(str(tmp_path), dtype="float64"), r.rows(d))


def test_folded_whitening(tmp_path: Path) -> None:
    """sae-lens 6.54 folds the whitening before it saves for inference; its checkpoints carry it in a file of its own."""
    d, n = 12, 20
    r = Random(1)
    sae = made("standard", d, n, r, training=True, normalize_activations="covariance_whitening")
    sae.save_model(str(tmp_path / "trained"))
    with pytest.raises(libsae.UnsupportedError, match="covariance_whitening"):
        libsae.open(str(tmp_path / "trained"))
    matrix = r.normal(d, d)
    sae.fold_activation_whitening(r.normal(d), matrix, torch.linalg.inv(matrix))
    sae.save_inference_model(str(tmp_path / "folded"))
    against(tmp_path / "folded", SAE.load_from_disk(str(tmp_path / "folded"), dtype="float64"), r.rows(d), scale=30.0)


OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "v3": ("standard", {"hook_point": "blocks.0.hook_resid_pre", "hook_point_layer": 0, "normalize_activations": False}),
    "v3 scaled": ("standard", {"hook_point": "blocks.0.hook_resid_pre", "normalize_activations": True}),
    "v4": ("jumprelu", {"architecture": "jumprelu", "hook_name": "h", "activation_fn_str": "relu", "normalize_activations": "layer_norm"}),
    "v5": ("standard", {"architecture": "standard", "hook_name": "h", "activation_fn": "relu", "normalize_activations": None}),
    "v5 no b_dec": ("gated", {"architecture": "gated", "hook_name": "h", "apply_b_dec_to_input": False, "sae_lens_version": "5.11.0"}),
    "v5 topk": ("topk", {"architecture": "standard", "hook_name": "h", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}),
    "v5 topk renamed": ("topk", {"architecture": "topk", "hook_name": "h", "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}}),
    "v5 constant": ("topk", {"architecture": "topk", "normalize_activations": "constant_norm_rescale", "activation_fn_kwargs": {"k": 2}}),
    "v6 candidate": ("jumprelu", {"architecture": "jumprelu", "metadata": {"sae_lens_version": "6.0.0rc1", "hook_name": "h"}}),
}


@pytest.mark.parametrize("size", [(37, 131), (48, 19), (33, 33), (5, 4)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("name", sorted(OLD))
def test_older_layout(tmp_path: Path, size: tuple[int, int], name: str) -> None:
    kind, config = OLD[name]
    d, n = size
    r = Random(d + n, DTYPES[sorted(DTYPES)[(d + n) % 4]])
    state = {key: t.to(r.dtype) for key, t in made(kind, d, n, r).state_dict().items()}
    safetensors(tmp_path / "sae_weights.safetensors", state)
    write_json(tmp_path / "cfg.json", {"d_in": d, "d_sae": n, "dtype": "torch.float32", "device": "cpu", "model_name": "m", **config})
    against(tmp_path, SAE.load_from_disk(str(tmp_path), dtype="float64"), r.rows(d))


# ---- the loaders of sae-lens ----


class Hub:
    """A folder that stands for the hub: the loaders ask for files and get their local paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        path = self.root / repo_id / (subfolder or "") / filename
        if not path.exists():
            raise EntryNotFoundError(f"no {path}")
        return str(path)

    def shapes(self, repo_id: str, filename: str) -> dict[str, list[int]]:
        return {name: list(t.shape) for name, t in loaders.load_safetensors_weights(self.path(repo_id, filename)).items()}

    def load(self, loader: str, repo: str, folder: str, **overrides: Any) -> Any:
        overrides["dtype"] = "float64"
        config, state, _ = loaders.NAMED_PRETRAINED_SAE_LOADERS[loader](repo, folder, "cpu", False, overrides)
        config = loaders.handle_config_defaulting(config)
        cls, config_cls = get_sae_class(config["architecture"])
        sae = cls(config_cls.from_dict(config))
        sae.process_state_dict_for_loading(state)
        sae.load_state_dict(state)
        return sae


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda repo_id, filename, **more: hub.path(repo_id, filename, more.get("subfolder")))
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", hub.shapes)
    return hub


GEMMA = ["2b-pt-res", "9b-pt-mlp", "2b-pt-att", "2b-it-res embedding", "2b-pt-transcoders"]


@EACH_SIZE
@pytest.mark.parametrize("kind", GEMMA)
@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(hub: Hub, size: tuple[int, int], kind: str, lower: bool) -> None:
    d, n = size
    if kind.endswith("att") and d % 16:
        d = 3 * 16
    r = Random(d + n)
    w, theta = r.weights(d, n), r.between(0.05, 0.9, n)
    repo, embedding = f"google/gemma-scope-{kind.split()[0]}", kind.endswith("embedding")
    folder = f"{'embedding' if embedding else 'layer_7'}/width_16k/average_l0_9"
    arrays = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": theta}
    names = {name: name.lower() if lower else name for name in arrays}
    c.npz(hub.root / repo / folder / "params.npz", {names[name]: t.numpy() for name, t in arrays.items()}, deflated=lower)
    transcoder = kind.endswith("transcoders")
    more = {"d_out": d} if transcoder else {}
    theirs = hub.load("gemma_2_transcoder" if transcoder else "gemma_2", repo, folder, d_in=d, d_sae=n, **more)
    x = r.rows(d)
    shape = (len(x), 16, d // 16) if kind.endswith("att") else None
    sae = against(hub.root / repo / folder, theirs, x, shape=shape, scale=d**0.5 if embedding else 1.0)
    if not embedding:
        assert sae.info["hook_name"] == theirs.cfg.metadata.hook_name


@FEW_SIZES
@pytest.mark.parametrize("kind", ["resid_post", "attn_out", "mlp_out", "transcoder", "transcoder affine"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("config", [False, True])
def test_gemma_scope_2(hub: Hub, size: tuple[int, int], kind: str, dtype: str, config: bool) -> None:
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    d_out = d + 2 if kind.startswith("transcoder") else d
    w, theta, skip = r.weights(d, n, d_out), r.between(0.05, 0.9, n), r.normal(d, d_out, scale=d**-0.5)
    repo = "google/gemma-scope-2-1b-pt"
    folder = f"{kind.split()[0]}/layer_7_width_16k_l0_small{'_affine' if 'affine' in kind else ''}"
    tensors = {"w_enc": w.enc, "w_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": theta}
    safetensors(hub.root / repo / folder / "params.safetensors", tensors | ({"affine_skip_connection": skip} if "affine" in kind else {}))
    if config:
        said = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "hf_hook_point_in": "model.layers.7.output"}
        write_json(hub.root / repo / folder / "config.json", said | ({"affine_connection": True} if "affine" in kind else {}))
    against(hub.root / repo / folder, hub.load("gemma_3", repo, folder), r.rows(d))


@EACH_PAIR
def test_llama_scope(hub: Hub, size: tuple[int, int], dtype: str) -> None:
    """Without the decoder's norm, sae-lens' codes are those of the package times the input's factor."""
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    w = r.weights(d, n)
    repo, folder, average = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L1R-8x", 2.75
    factor = d**0.5 / average
    config = {"d_model": d, "d_sae": n, "act_fn": "jumprelu", "jump_relu_threshold": 0.4, "norm_activation": "dataset-wise"}
    config |= {"dataset_average_activation_norm": {"in": average, "out": average}, "sparsity_include_decoder_norm": False}
    config |= {"hook_point_in": "blocks.1.hook_resid_post", "hook_point_out": "blocks.1.hook_resid_post", "use_glu_encoder": False}
    write_json(hub.root / repo / folder / "hyperparams.json", config)
    tensors = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec}
    safetensors(hub.root / repo / folder / "checkpoints" / "final.safetensors", tensors)
    theirs = hub.load("llama_scope", repo, folder)
    theirs.fold_activation_norm_scaling_factor(factor)
    x = r.rows(d)
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(x.astype(np.float64)))
        y = theirs.decode(z).numpy()
    agree(hub.root / repo / folder, x, z.numpy() / factor, y, scale=1 / factor)


@EACH_SIZE
def test_llama_scope_r1_distill(hub: Hub, size: tuple[int, int]) -> None:
    d, n = size
    if n % d:
        n = 3 * d
    r = Random(d + n)
    w = r.weights(d, n)
    repo, folder = "fnlp/Llama-Scope-R1-Distill", "800M-Slimpajama-0-OpenR1-Math-220k/L1R"
    write_json(
        hub.root / repo / folder / "config.json", {"d_model": d, "expansion_factor": n // d, "hook_point_in": "blocks.1.hook_resid_post"}
    )
    tensors = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec}
    safetensors(hub.root / repo / folder / "sae_weights.safetensors", tensors | {"log_jumprelu_threshold": r.normal(n, scale=0.5)})
    theirs = hub.load("llama_scope_r1_distill", repo, folder)
    theirs.fold_activation_norm_scaling_factor(0.5)
    against(hub.root / repo / folder, theirs, r.rows(d), scale=2.0, norm_scaling_factor=0.5)


DL = ["AutoEncoder", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"]


@EACH_SIZE
@pytest.mark.parametrize("kind", DL)
def test_dictionary_learning(hub: Hub, size: tuple[int, int], kind: str) -> None:
    """AutoEncoderNew is the one that sae-lens reads wrongly (it subtracts the bias)."""
    d, n = size
    r = Random(d + n)
    k = max(1, n // 4)
    w = r.weights(d, n)
    linear = {"encoder.weight": w.enc.T, "decoder.weight": w.dec.T}
    plain = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    number = {"k": torch.tensor(k), "threshold": torch.tensor(0.5)}
    state = {
        "AutoEncoder": linear | {"encoder.bias": w.b_enc, "bias": w.b_dec},
        "GatedAutoEncoder": linear
        | {name: r.normal(n, scale=0.3) for name in ("gate_bias", "mag_bias", "r_mag")}
        | {"decoder_bias": w.b_dec},
        "JumpReluAutoEncoder": plain | {"threshold": r.between(0.05, 0.9, n)},
        "MatryoshkaBatchTopKSAE": plain | number | {"group_sizes": torch.tensor([n])},
    }.get(kind, linear | {"encoder.bias": w.b_enc, "b_dec": w.b_dec} | number)
    repo, folder = "canrager/lm_sae", "resid_post_layer_3/trainer_1"
    trainer = {"dict_class": kind, "activation_dim": d, "dict_size": n, "layer": 3, "lm_name": "org/lm"} | (
        {"k": k} if "TopK" in kind else {}
    )
    write_json(hub.root / repo / folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    torch_file(hub.root / repo / folder / "ae.pt", state)
    against(hub.root / repo / folder, hub.load("dictionary_learning_1", repo, folder), r.rows(d))


@EACH_PAIR
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["deepseek_r1", "goodfire"])
def test_linear_layers(hub: Hub, size: tuple[int, int], dtype: str, legacy: bool, kind: str) -> None:
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    w = r.weights(d, n)
    end = "_linear" if kind == "goodfire" else ""
    tensors = {
        f"encoder{end}.weight": w.enc.T,
        f"encoder{end}.bias": w.b_enc,
        f"decoder{end}.weight": w.dec.T,
        f"decoder{end}.bias": w.b_dec,
    }
    repo, name = {
        "deepseek_r1": ("qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"),
        "goodfire": ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
    }[kind]
    torch_file(hub.root / repo / name, tensors, legacy)
    against(hub.root / repo / name, hub.load(kind, repo, name, d_in=d, d_sae=n), r.rows(d))


@pytest.mark.parametrize("d,n", [(18, 40), (24, 24), (48, 5)])
@pytest.mark.parametrize("legacy", [False, True])
def test_connor_rob_hook_z(hub: Hub, d: int, n: int, legacy: bool) -> None:
    r = Random(d + n)
    w = r.weights(d, n)
    repo, name = "ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L3_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-05"
    write_json(hub.root / repo / f"{name}_cfg.json", {"act_size": d, "dict_size": n, "act_name": "blocks.3.attn.hook_z"})
    torch_file(hub.root / repo / f"{name}.pt", {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}, legacy)
    x = r.rows(d)
    against(
        hub.root / repo / f"{name}.pt",
        hub.load("connor_rob_hook_z", repo, f"{name}.pt"),
        x,
        shape=(len(x), 6, d // 6) if d % 6 == 0 else None,
    )


@EACH_PAIR
@pytest.mark.parametrize("k", [1, 50])
def test_qwen_scope(hub: Hub, size: tuple[int, int], dtype: str, k: int) -> None:
    d, n = size
    k = min(k, n)
    r = Random(d + n, DTYPES[dtype])
    w = r.weights(d, n)
    repo = f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{k}"
    torch_file(hub.root / repo / "layer3.sae.pt", {"W_enc": w.enc.T, "W_dec": w.dec.T, "b_enc": w.b_enc, "b_dec": w.b_dec})
    theirs = hub.load("qwen_scope", repo, "layer3.sae.pt", d_in=d, d_sae=n)
    sae = against(hub.root / repo / "layer3.sae.pt", theirs, r.rows(d))
    assert (sae.info["k"], sae.info["hook_name"]) == (k, "blocks.3.hook_resid_post")
    assert libsae.open(str(hub.root / repo), layer=3).fingerprint == sae.fingerprint


@EACH_PAIR
def test_mwhanna_transcoder(hub: Hub, size: tuple[int, int], dtype: str) -> None:
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    repo = "mwhanna/qwen3-4b-transcoders"
    for layer in (0, 1):
        w = r.weights(d, n)
        tensors = {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
        safetensors(hub.root / repo / f"layer_{layer}.safetensors", tensors)
    said = {"d_model": {"value": d}, "d_feature": {"value": n}, "batch_size": {"value": 4}}
    (hub.root / repo / "wandb-config.yaml").write_text(json.dumps(said))
    (hub.root / repo / "config.yaml").write_text("model_name: Qwen/Qwen3-4B\nfeature_input_hook: mlp.hook_in\n")
    sae = against(hub.root / repo / "layer_1.safetensors", hub.load("mwhanna_transcoder", repo, "layer_1.safetensors"), r.rows(d))
    assert sae.info["model_name"] == "Qwen/Qwen3-4B"


@EACH_SIZE
def test_mntss_clt_codes(hub: Hub, size: tuple[int, int]) -> None:
    """sae-lens adds up what a feature writes to all layers, so only its codes are right."""
    d, n = size
    r = Random(d + n)
    repo = "mntss/clt-gemma-2-2b-426k"
    for i in range(3):
        w, dec = r.weights(d, n), r.normal(n, 3 - i, d)
        safetensors(hub.root / repo / f"W_enc_{i}.safetensors", {f"W_enc_{i}": w.enc.T, f"b_enc_{i}": w.b_enc, f"b_dec_{i}": w.b_dec})
        safetensors(hub.root / repo / f"W_dec_{i}.safetensors", {f"W_dec_{i}": dec})
    (hub.root / repo / "config.yaml").write_text("model_name: m\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n")
    with pytest.warns(UserWarning, match="single layer"):
        theirs = hub.load("mntss_clt_layer_transcoder", repo, "1")
    x = r.rows(d)
    with torch.no_grad():
        z = theirs.encode(torch.from_numpy(x.astype(np.float64))).numpy()
    dense = np.asarray(libsae.open(str(hub.root / repo), layer=1).encode_dense(x))
    np.testing.assert_array_equal(dense != 0, z != 0)
    c.near(dense, z, x)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("diff", ["topk", "relu"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_temporal(hub: Hub, layers: int, tied: bool, diff: str, dtype: str) -> None:
    d, n, bottleneck = 10, 40, 4
    r = Random(layers, DTYPES[dtype])
    repo, folder = "canrager/temporalSAEs", "layer_12/temporal"
    tensors = {"D": r.normal(n, d, scale=d**-0.5), "b": r.normal(d, scale=0.3)}
    tensors |= {} if tied else {"E": r.normal(d, n, scale=d**-0.5)}
    for i in range(layers):
        for what, rows in (("k_ctx", n // bottleneck), ("q_target", n // bottleneck), ("v_ctx", n), ("c_proj", n)):
            tensors[f"attn_layers.{i}.{what}.weight"] = r.normal(rows, n, scale=n**-0.5)
            tensors[f"attn_layers.{i}.{what}.bias"] = r.normal(rows, scale=0.1)
    safetensors(hub.root / repo / folder / "latest_ckpt.safetensors", tensors)
    sae = {"exp_factor": n / d, "n_heads": 2, "n_attn_layers": layers, "bottleneck_factor": bottleneck, "sae_diff_type": diff}
    sae |= {"kval_topk": 7 if diff == "topk" else None, "tied_weights": tied, "scaling_factor": 0.3}
    said = {"llm": {"dimin": d, "name": "m"}, "sae": sae, "data": {"dtype": "float32"}}
    (hub.root / repo / folder / "conf.yaml").write_text(json.dumps(said))
    x = r.rows(d)
    against(hub.root / repo / folder, hub.load("temporal", repo, folder), x, scale=4.0, shape=(1, *x.shape))
