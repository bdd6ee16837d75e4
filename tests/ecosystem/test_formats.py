"""Checkpoints of every format, with random sizes, types, containers and options, against a float64 evaluation of the published formula.

What sae-lens reads itself is in test_formats_saelens.py. Needs torch and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import checkpoints as c  # noqa: E402
from checkpoints import DTYPES, F32, SIZES, Array, Random, agree, f64, jump, relu, safetensors, topk, torch_file, write_json  # noqa: E402

EACH_SIZE = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
FEW_SIZES = pytest.mark.parametrize("size", SIZES[:3], ids=lambda s: f"{s[0]}x{s[1]}")
EACH_PAIR = pytest.mark.parametrize("size,dtype", c.PAIRS, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}")


# ---- sparsify ----


@EACH_SIZE
@pytest.mark.parametrize("flags", ["", "skip", "transcode", "skip transcode", "signed", "groupmax", "old"])
def test_sparsify(tmp_path: Path, size: tuple[int, int], flags: str) -> None:
    d, n = size
    k = (1, max(1, n // 5), n)[(d + len(flags)) % 3]
    if flags == "groupmax" and n % k:
        k = 1
    r = Random(d * n + k, list(DTYPES.values())[(d + k) % 4])
    w = r.weights(d, n)
    skip = r.normal(d, d, scale=d**-0.5)
    tensors = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}
    config: dict[str, Any] = {"d_in": d, "k": k, "num_latents": n, "expansion_factor": 32, "normalize_decoder": True, "multi_topk": False}
    if flags == "old":
        config |= {"signed": False}
    else:
        config |= {
            "activation": "groupmax" if flags == "groupmax" else "topk",
            "transcode": "transcode" in flags,
            "signed": flags == "signed",
        }
    config |= {"skip_connection": "skip" in flags}
    if "skip" in flags:
        tensors["W_skip"] = skip
    write_json(tmp_path / "layers.3" / "cfg.json", config)
    safetensors(tmp_path / "layers.3" / "sae.safetensors", tensors)
    x = r.rows(d)
    x64 = x.astype(np.float64)
    h = (x64 - (0 if "transcode" in flags else f64(w.b_dec))) @ f64(w.enc) + f64(w.b_enc)
    if flags == "signed":
        z = topk(h, k, np.abs(h))
    elif flags == "groupmax":
        groups = relu(h).reshape(len(x), k, -1)
        z = topk(groups.reshape(-1, groups.shape[-1]), 1).reshape(len(x), n)
    else:
        z = topk(relu(h), k)
    y = z @ f64(w.dec) + f64(w.b_dec) + (x64 @ f64(skip).T if "skip" in flags else 0)
    sae = agree(tmp_path / "layers.3", x, z, y)
    assert sae.info["hook_name"] == "layers.3"
    assert libsae.open(str(tmp_path), layer=3).fingerprint == sae.fingerprint


# ---- OpenAI ----


@EACH_PAIR
@pytest.mark.parametrize("kind", ["relu", "relu first files", "topk", "topk as written", "tied", "tied as written", "identity"])
def test_openai(tmp_path: Path, size: tuple[int, int], dtype: str, kind: str) -> None:
    d, n = size
    if d == 1 and "relu" not in kind:
        pytest.skip("one element has no standard deviation")
    k = max(1, n // 3)
    r = Random(d + n, DTYPES[dtype])
    w = r.weights(d, n)
    dec = w.enc.T if kind.startswith("tied") else w.dec
    state: dict[str, Any] = {"pre_bias": w.b_dec, "encoder.weight": w.enc.T, "latent_bias": w.b_enc, "decoder.weight": w.dec.T}
    state["stats_last_nonzero"] = torch.zeros(n, dtype=torch.int64)
    if kind.startswith("tied"):
        state.pop("decoder.weight")
        if kind == "tied as written":
            state["decoder.linear.weight"] = state["encoder.weight"]
    if kind != "relu first files":
        state["activation"] = "ReLU" if "relu" in kind else "TopK"
    if "relu" not in kind:
        state["activation_state_dict"] = {"k": k, "postact_fn": "Identity" if kind == "identity" else "ReLU"}
    if "as written" in kind:
        state |= {"activation.k": k, "activation.postact_fn": "ReLU"}
    torch_file(tmp_path / "3.pt", state, legacy=kind == "relu first files")
    x = r.rows(d)
    xn, mean, std = (x.astype(np.float64), 0.0, 1.0) if "relu" in kind else c.layer_norm(x.astype(np.float64))
    h = (xn - f64(w.b_dec)) @ f64(w.enc) + f64(w.b_enc)
    z = relu(h) if "relu" in kind else topk(h, k) if kind == "identity" else relu(topk(h, k))
    y = (z @ f64(dec) + f64(w.b_dec)) * std + mean
    agree(tmp_path / "3.pt", x, z, y)


# ---- Llama Scope, first release ----


@FEW_SIZES
@pytest.mark.parametrize("act", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("flags", ["", "norm", "bias", "norm bias", "no bias", "unscaled"])
def test_llama_scope(tmp_path: Path, size: tuple[int, int], act: str, flags: str) -> None:
    d, n = size
    k = max(1, n // 4)
    r = Random(d - n, list(DTYPES.values())[(d + len(flags)) % 4])
    w = r.weights(d, n)
    average = {"in": 4.5, "out": 6.25}
    config = {
        "d_model": d,
        "d_sae": n,
        "act_fn": act,
        "top_k": k,
        "jump_relu_threshold": 0.0 if act == "relu" or d == n else 0.4,  # lm_saes keeps the k largest of a topk all the same
        "norm_activation": "inference" if flags == "unscaled" else "dataset-wise",
        "dataset_average_activation_norm": average,
        "sparsity_include_decoder_norm": "norm" in flags,
        "use_decoder_bias": flags != "no bias",
        "apply_decoder_bias_to_pre_encoder": "bias" in flags.replace("no bias", ""),
        "use_glu_encoder": False,
        "hook_point_in": "blocks.1.hook_resid_post",
        "hook_point_out": "blocks.1.hook_resid_post",
    }
    write_json(tmp_path / "hyperparams.json", config)
    tensors = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec}
    if flags == "no bias":
        tensors.pop("decoder.bias")
    where = "sae_weights.safetensors" if d == n else "checkpoints/pruned.safetensors" if d < n else "checkpoints/final.safetensors"
    if d == 5:  # a torch file
        torch_file(tmp_path / "checkpoints" / "final.pt", {"sae": tensors, "version": "0.1"})
    else:
        safetensors(tmp_path / where, tensors)
    s_in, s_out = (1.0, 1.0) if flags == "unscaled" else (d**0.5 / average["in"], d**0.5 / average["out"])
    enc, b_enc, dec = f64(w.enc), f64(w.b_enc) / s_in, f64(w.dec) * (s_in / s_out)
    b_dec = np.zeros(d) if flags == "no bias" else f64(w.b_dec) / s_out
    if "norm" in flags:
        norm = np.linalg.norm(dec, axis=1)
        enc, b_enc, dec = enc * norm, b_enc * norm, dec / norm[:, None]
    x = r.rows(d)
    h = (x - (b_dec if config["apply_decoder_bias_to_pre_encoder"] else 0)) @ enc + b_enc
    threshold = config["jump_relu_threshold"]
    z = jump(h, threshold) if act == "jumprelu" else relu(h) if act == "relu" else relu(topk(h, k))
    agree(tmp_path, x, z, z @ dec + b_dec)
    if act == "topk" and d != n:  # as sae-lens reads it
        z = jump(h, 0.4)
        agree(tmp_path, x, z, z @ dec + b_dec, architecture="jumprelu")


# ---- llamascopium ----


def scopium(kind: str, d: int, n: int, act: str, norm: str, include: bool, **more: Any) -> dict[str, Any]:
    return {
        "sae_type": kind,
        "d_model": d,
        "expansion_factor": n / d + 1e-9,
        "use_decoder_bias": True,
        "act_fn": act,
        "norm_activation": norm,
        "sparsity_include_decoder_norm": include,
        "top_k": max(1, n // 4),
        **more,
    }


def averages(hooks: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    values = {hook: 3.0 + 0.75 * i for i, hook in enumerate(hooks)}
    return {f"dataset_average_activation_norm.{hook}": torch.tensor(value) for hook, value in values.items()}, values


ACTS = {
    "relu": lambda h, t, k: relu(h),
    "jumprelu": lambda h, t, k: jump(h, t),
    "topk": lambda h, t, k: topk(relu(h), k),
}


@FEW_SIZES
@pytest.mark.parametrize("act", ["relu", "jumprelu", "topk", "ReLU"])
@pytest.mark.parametrize("norm", ["inference", "token-wise", "dataset-wise"])
@pytest.mark.parametrize("include", [True, False])
def test_llamascopium_sae(tmp_path: Path, size: tuple[int, int], act: str, norm: str, include: bool) -> None:
    d, n = size
    r = Random(7 * d + n, list(DTYPES.values())[n % 4])
    w = r.weights(d, n)
    hooks = ["in", "out"] if norm != "token-wise" else ["in", "in"]
    config = scopium("sae", d, n, act, norm, include, hook_point_in=hooks[0], hook_point_out=hooks[1], use_decoder_bias=d != 48)
    log_theta = r.normal(n, scale=0.5)
    scales, average = averages(sorted(set(hooks)))
    tensors = {"W_E": w.enc, "b_E": w.b_enc, "W_D": w.dec, **scales}
    if d != 48:
        tensors["b_D"] = w.b_dec
    if act == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = log_theta
    write_json(tmp_path / "config.json", config)
    safetensors(tmp_path / "sae_weights.safetensors", tensors)
    x = r.rows(d)
    x64 = x.astype(np.float64)
    s_in = s_out = np.ones((len(x), 1))
    if norm == "token-wise":
        s_in = s_out = d**0.5 / np.linalg.norm(x64, axis=1, keepdims=True)
    if norm == "dataset-wise":
        s_in, s_out = (s_in * d**0.5 / average[hook] for hook in hooks)
    size_of = np.linalg.norm(f64(w.dec), axis=1) if include else 1.0
    h = ((x64 * s_in) @ f64(w.enc) + f64(w.b_enc)) * size_of
    z = ACTS[act.lower()](h, np.exp(f64(log_theta)), config["top_k"]) / size_of
    y = (z @ f64(w.dec) + (f64(w.b_dec) if d != 48 else 0.0)) / s_out
    agree(tmp_path, x, z, y, scale=float((1 / s_out).max()))


@pytest.mark.parametrize("size", [(19, 38), (16, 16)], ids=str)
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("act", ["relu", "jumprelu"])
@pytest.mark.parametrize("norm", ["inference", "dataset-wise"])
@pytest.mark.parametrize("include", [True, False])
def test_llamascopium_crosscoder(tmp_path: Path, size: tuple[int, int], heads: int, act: str, norm: str, include: bool) -> None:
    """The package counts decoder norms whatever the configuration says, and has one threshold for all heads."""
    d, n = size
    r = Random(d + n + heads, list(DTYPES.values())[heads % 3])
    w = [r.weights(d, n) for _ in range(heads)]
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(heads)]
    scales, average = averages(hooks)
    log_theta = r.normal(n, scale=0.5)
    tensors = {name: torch.stack([getattr(one, attr) for one in w]) for name, attr in STACKED.items()} | scales
    if act == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = log_theta
    write_json(tmp_path / "config.json", scopium("crosscoder", d, n, act, norm, include, hook_points=hooks))
    safetensors(tmp_path / "sae_weights.safetensors", tensors)
    x = r.rows(heads * d)
    s = [d**0.5 / average[hook] if norm == "dataset-wise" else 1.0 for hook in hooks]
    h = sum((x[:, i * d : (i + 1) * d].astype(np.float64) * s[i]) @ f64(w[i].enc) + f64(w[i].b_enc) for i in range(heads))
    z, y = [], []
    for i in range(heads):
        length = np.linalg.norm(f64(w[i].dec), axis=1)
        z.append(ACTS[act](h * length, np.exp(f64(log_theta)), 0) / length)
        y.append((z[-1] @ f64(w[i].dec) + f64(w[i].b_dec)) / s[i])
    sae = agree(tmp_path, x, np.hstack(z), np.hstack(y), scale=1 / min(s))
    assert (sae.info["n_in"], sae.info["n_out"]) == (heads, heads)


STACKED = {"W_E": "enc", "b_E": "b_enc", "W_D": "dec", "b_D": "b_dec"}


@pytest.mark.parametrize("size", [(19, 38), (16, 16)], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("act", ["relu", "jumprelu", "layertopk"])
@pytest.mark.parametrize("norm", ["inference", "dataset-wise"])
@pytest.mark.parametrize("include", [True, False])
def test_llamascopium_clt(tmp_path: Path, size: tuple[int, int], layers: int, act: str, norm: str, include: bool) -> None:
    d, n = size
    r = Random(d + n + layers, list(DTYPES.values())[layers % 3])
    w = [r.weights(d, n) for _ in range(layers)]
    dec = [torch.stack([r.normal(n, d, scale=d**-0.5) for _ in range(to + 1)]) for to in range(layers)]
    ins, outs = ([f"blocks.{i}.{where}" for i in range(layers)] for where in ("hook_resid_mid", "hook_mlp_out"))
    scales, average = averages(ins + outs)
    log_theta = r.normal(layers, n, scale=0.5)
    tensors = {"W_E": torch.stack([one.enc for one in w]), "b_E": torch.stack([one.b_enc for one in w]), **scales}
    tensors |= {f"W_D.{to}": dec[to] for to in range(layers)} | {f"b_D.{to}": w[to].b_dec for to in range(layers)}
    if act == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = log_theta
    more = {"hook_points_in": ins, "hook_points_out": outs, "use_decoder_bias": include}  # the bias is there, and added, whatever it says
    config = scopium("clt", d, n, act, norm, include, **more)
    write_json(tmp_path / "config.json", config)
    safetensors(tmp_path / "sae_weights.safetensors", tensors)
    x = r.rows(layers * d)
    s_in, s_out = ([d**0.5 / average[hook] if norm == "dataset-wise" else 1.0 for hook in hooks] for hooks in (ins, outs))
    h = np.hstack([(x[:, i * d : (i + 1) * d].astype(np.float64) * s_in[i]) @ f64(w[i].enc) + f64(w[i].b_enc) for i in range(layers)])
    length = np.ones(layers * n)
    if include:
        length = np.sqrt(np.hstack([sum((f64(dec[to][i]) ** 2).sum(axis=1) for to in range(i, layers)) for i in range(layers)]))
    kind = "topk" if act == "layertopk" else act
    z = ACTS[kind](h * length, np.exp(f64(log_theta)).reshape(-1), config["top_k"]) / length
    y = [(sum(z[:, i * n : (i + 1) * n] @ f64(dec[to][i]) for i in range(to + 1)) + f64(w[to].b_dec)) / s_out[to] for to in range(layers)]
    sae = agree(tmp_path, x, z, np.hstack(y), scale=1 / min(s_out))
    assert (sae.info["n_in"], sae.info["n_out"], sae.info["n_blocks"]) == (layers, layers, layers)
    enc = np.asarray(sae.W_enc_row(n * layers - 1))  # reads its own layer alone
    np.testing.assert_array_equal(enc[: -d if layers > 1 else 0], 0.0)
    np.testing.assert_allclose(enc[-d:], f64(w[-1].enc)[:, -1], rtol=1e-6)
    np.testing.assert_allclose(sae.W_dec_row(n)[d : 2 * d] if layers > 1 else 0, f64(dec[1][1])[0] if layers > 1 else 0, rtol=1e-6)


@pytest.mark.parametrize(
    "change", [{"act_fn": "batchtopk"}, {"norm_activation": "batch-wise"}, {"use_glu_encoder": True}, {"sae_type": "lorsa"}]
)
def test_llamascopium_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    w = Random(1).weights(8, 16)
    config = scopium("sae", 8, 16, "relu", "inference", True, hook_point_in="a", hook_point_out="a")
    write_json(tmp_path / "config.json", config | change)
    safetensors(tmp_path / "sae_weights.safetensors", {"W_E": w.enc, "b_E": w.b_enc, "W_D": w.dec, "b_D": w.b_dec})
    with pytest.raises(libsae.UnsupportedError, match=str(next(iter(change.values()))) if "use_glu_encoder" not in change else "gated"):
        libsae.open(str(tmp_path))


# ---- circuit-tracer ----


@EACH_PAIR
@pytest.mark.parametrize("act", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_set(tmp_path: Path, size: tuple[int, int], dtype: str, act: str, skip: bool) -> None:
    d, n = size
    k = max(1, n // 3)
    r = Random(d * 3 + n, DTYPES[dtype])
    x = r.rows(d)
    layers = []
    for layer in range(3):
        w, s, theta = r.weights(d, n), r.normal(d, d, scale=d**-0.5), r.normal(n, scale=0.5)
        tensors = {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
        tensors |= {"W_skip": s} if skip else {}
        tensors |= {"activation_function.threshold": theta} if act == "jumprelu" else {}
        safetensors(tmp_path / f"layer_{layer}.safetensors", tensors)
        layers.append((w, s, theta))
    config = "model_name: m\nmodel_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    (tmp_path / "config.yaml").write_text(config + (f"activation: topk\nk: {k}\n" if act == "topk" else ""))
    with pytest.raises(libsae.ArgError, match="layer"):
        libsae.open(str(tmp_path))
    for layer, (w, s, theta) in enumerate(layers):
        h = x.astype(np.float64) @ f64(w.enc) + f64(w.b_enc)
        z = relu(h) if act == "relu" else jump(h, f64(theta)) if act == "jumprelu" else topk(h, k)
        y = z @ f64(w.dec) + f64(w.b_dec) + (x.astype(np.float64) @ f64(s).T if skip else 0)
        sae = agree(tmp_path, x, z, y, layer=layer)
        assert sae.info["hook_name"] == f"blocks.{layer}.hook_resid_mid"


@pytest.mark.parametrize("size", [(19, 38), (16, 16)], ids=str)
@pytest.mark.parametrize("layers,dtype", [(1, "f32"), (2, "bf16"), (3, "f64"), (12, "f16")])
@pytest.mark.parametrize("act", ["relu", "jumprelu"])
@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_clt(tmp_path: Path, size: tuple[int, int], layers: int, dtype: str, act: str, skip: bool) -> None:
    d, n = size
    r = Random(d + n * layers, DTYPES[dtype])
    x = r.rows(layers * d)
    z, skips, theta_of, decoders, biases = [], [], [], [], []
    for i in range(layers):
        w, s, theta, dec = r.weights(d, n), r.normal(d, d, scale=d**-0.5), r.normal(n, scale=0.4), r.normal(n, layers - i, d, scale=d**-0.5)
        tensors = {f"W_enc_{i}": w.enc.T, f"b_enc_{i}": w.b_enc, f"b_dec_{i}": w.b_dec}
        tensors |= {f"threshold_{i}": theta} if act == "jumprelu" else {}
        tensors |= {f"W_skip_{i}": s} if skip else {}
        safetensors(tmp_path / f"W_enc_{i}.safetensors", tensors)
        safetensors(tmp_path / f"W_dec_{i}.safetensors", {f"W_dec_{i}": dec})
        mine = x[:, i * d : (i + 1) * d].astype(np.float64)
        h = mine @ f64(w.enc) + f64(w.b_enc)
        z.append(relu(h) if act == "relu" else jump(h, f64(theta)))
        skips.append(mine @ f64(s) if skip else 0.0)
        decoders.append(f64(dec))
        biases.append(f64(w.b_dec))
        theta_of.append(theta)
    (tmp_path / "config.yaml").write_text("model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\n")
    y = [sum(z[s] @ decoders[s][:, to - s] for s in range(to + 1)) + biases[to] + skips[to] for to in range(layers)]
    sae = agree(tmp_path, x, np.hstack(z), np.hstack(y))
    assert (sae.info["d_in"], sae.info["d_sae"], sae.info["n_in"]) == (layers * d, layers * n, layers)
    if layers > 1:
        one = libsae.open(str(tmp_path), layer=1)
        np.testing.assert_array_equal(np.asarray(one.encode_dense(x[:, d : 2 * d])), np.asarray(sae.encode_dense(x))[:, n : 2 * n])


# ---- Gemma Scope 2 ----


@pytest.mark.parametrize("size", [(19, 38), (16, 16)], ids=str)
@pytest.mark.parametrize("layers,dtype", [(1, "f32"), (2, "bf16"), (3, "f64"), (3, "f16")])
@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2_clt(tmp_path: Path, size: tuple[int, int], layers: int, dtype: str, affine: bool) -> None:
    d, n = size
    r = Random(d + n * layers, DTYPES[dtype])
    x = r.rows(layers * d)
    z, decoders, biases, skips = [], [], [], []
    for i in range(layers):
        w, s, theta, dec = r.weights(d, n), r.normal(d, d, scale=d**-0.5), r.between(0.1, 1.0, n), r.normal(n, layers, d, scale=d**-0.5)
        tensors = {"w_enc": w.enc, "w_dec": dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": theta}
        safetensors(tmp_path / f"params_layer_{i}.safetensors", tensors | ({"affine_skip_connection": s} if affine else {}))
        mine = x[:, i * d : (i + 1) * d].astype(np.float64)
        z.append(jump(mine @ f64(w.enc) + f64(w.b_enc), f64(theta)))
        decoders.append(f64(dec))
        biases.append(f64(w.b_dec))
        skips.append(mine @ f64(s) if affine else 0.0)
    y = [sum(z[s] @ decoders[s][:, to] for s in range(to + 1)) + biases[to] + skips[to] for to in range(layers)]
    agree(tmp_path, x, np.hstack(z), np.hstack(y))


# ---- dictionary_learning ----


def dl_state(kind: str, r: Random, d: int, n: int, k: int) -> tuple[dict[str, Any], Callable[[Array], tuple[Array, Array]]]:
    """The state dict of a class, and its encode and decode."""
    w, theta = r.weights(d, n), r.between(0.1, 1.0, n)
    gate, mag, r_mag = r.normal(n, scale=0.3), r.normal(n, scale=0.3), r.normal(n, scale=0.3)
    linear = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T}
    plain = {"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}
    number = {"k": torch.tensor(k, dtype=torch.int32), "threshold": torch.tensor(0.6)}
    gated = {"decoder_bias": w.b_dec, "encoder.weight": w.enc.T, "r_mag": r_mag, "gate_bias": gate, "mag_bias": mag}
    states = {
        "AutoEncoder": linear | {"bias": w.b_dec},
        "AutoEncoderNew": linear | {"decoder.bias": w.b_dec},
        "GatedAutoEncoder": gated | {"decoder.weight": w.dec.T},
        "JumpReluAutoEncoder": plain | {"threshold": theta},
        "AutoEncoderTopK": linear | {"b_dec": w.b_dec} | number,
        "BatchTopKSAE": linear | {"b_dec": w.b_dec} | number,
        "MatryoshkaBatchTopKSAE": plain | number | {"group_sizes": torch.tensor([n // 2, n - n // 2])},
    }

    def run(x: Array) -> tuple[Array, Array]:
        centred = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
        u = (x.astype(np.float64) - (f64(w.b_dec) if centred else 0)) @ f64(w.enc)
        h = u + f64(w.b_enc)
        z = relu(h)
        if kind == "GatedAutoEncoder":
            z = np.where(u + f64(gate) > 0, relu(np.exp(f64(r_mag)) * u + f64(mag)), 0.0)
        elif kind == "JumpReluAutoEncoder":
            z = jump(h, f64(theta))
        elif kind == "AutoEncoderTopK":
            z = topk(relu(h), k)
        elif kind.endswith("TopKSAE"):
            z = jump(relu(h), float(np.float32(0.6)))
        return z, z @ f64(w.dec) + f64(w.b_dec)

    return states[kind], run


DL = [
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
]


def dl_config(kind: str, d: int, n: int, k: int) -> dict[str, Any]:
    trainer = {"dict_class": kind, "activation_dim": d, "dict_size": n, "layer": 5, "lm_name": "org/lm", "submodule_name": "resid_5"}
    return {"trainer": trainer | ({"k": k} if "TopK" in kind else {}), "buffer": {"ctx_len": 128}}


@EACH_PAIR
@pytest.mark.parametrize("kind", DL)
def test_dictionary_learning(tmp_path: Path, size: tuple[int, int], dtype: str, kind: str) -> None:
    d, n = size
    k = max(1, n // 3)
    r = Random(d + 5 * n, DTYPES[dtype])
    state, run = dl_state(kind, r, d, n, k)
    folder = tmp_path / "trainer_0"
    write_json(folder / "config.json", dl_config(kind, d, n, k))
    torch_file(folder / "ae.pt", state, legacy=(d + n) % 2 == 0)
    x = r.rows(d)
    sae = agree(folder, x, *run(x))
    assert sae.info["hook_name"] == "resid_5"
    same = sae.fingerprint
    optimizer = {"state": {0: {"exp_avg": torch.zeros(d, n)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    write_json(tmp_path / "backup" / "config.json", dl_config(kind, d, n, k))
    torch_file(tmp_path / "backup" / "ae.pt", {"step": 7, "ae": state, "optimizer": optimizer, "config": {"k": k}, "norm_factor": 1.5})
    assert libsae.open(str(tmp_path / "backup")).fingerprint == same
    for step in (500, 1000):  # as training.py writes them: the configuration is one folder up
        torch_file(folder / "checkpoints" / f"ae_{step}.pt", state)
    assert libsae.open(str(folder / "checkpoints" / "ae_1000.pt")).fingerprint == same
    with pytest.raises(libsae.SaeError, match="ae_1000.pt"):  # which of the two?
        libsae.open(str(folder / "checkpoints"))
    assert libsae.open(str(folder / "checkpoints"), layer="ae_500").fingerprint == same


# ---- crosscoder_learning ----


@pytest.mark.parametrize("size", [(19, 38), (16, 16)], ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["CrossCoder", "BatchTopKCrossCoder"])
@pytest.mark.parametrize("normaliser", ["absent", "nan", "set"])
@pytest.mark.parametrize("counted", ["CROSSCODER", "SAE"])
def test_crosscoder_learning(tmp_path: Path, size: tuple[int, int], layers: int, kind: str, normaliser: str, counted: str) -> None:
    d, n = size
    r = Random(d + n + layers)
    enc, dec, b_enc, b_dec = (r.normal(*shape, scale=0.3) for shape in ((layers, d, n), (layers, n, d), (n,), (layers, d)))
    state: dict[str, Any] = {"encoder.weight": enc, "encoder.bias": b_enc, "decoder.weight": dec, "decoder.bias": b_dec}
    state["code_normalization_id"] = torch.tensor({"CROSSCODER": 1, "SAE": 2}[counted])
    mean, by = r.normal(layers, d), r.between(0.5, 2.0, layers)
    if normaliser != "absent":
        state |= {
            "activation_mean": mean,
            "activation_std": torch.ones(layers, d),
            "activation_global_scale": by,
            "target_rms": torch.tensor(1.0),
        }
    if normaliser == "nan":
        state |= {
            name: torch.full_like(state[name], float("nan")) for name in ("activation_mean", "activation_std", "activation_global_scale")
        }
    if kind != "CrossCoder":
        state |= {"threshold": torch.tensor(0.7), "k": torch.tensor(4)}
    config = {"dict_class": kind, "activation_dim": d, "dict_size": n, "code_normalization": counted, "num_layers": layers}
    if layers == 2:
        write_json(tmp_path / "config.json", {"trainer": config, "buffer": {}})
        torch_file(tmp_path / "model_final.pt", state)
    else:
        write_json(tmp_path / "config.json", config)
        safetensors(tmp_path / "model.safetensors", state)
    x = r.rows(layers * d)
    x64 = x.astype(np.float64).reshape(len(x), layers, d)
    xn = (x64 - f64(mean)) * f64(by)[:, None] if normaliser == "set" else x64
    h = relu(np.einsum("bld,ldn->bn", xn, f64(enc)) + f64(b_enc))
    lengths = np.linalg.norm(f64(dec), axis=2)
    c_of = lengths.sum(axis=0) if counted == "CROSSCODER" else np.sqrt((lengths**2).sum(axis=0))
    z = h if kind == "CrossCoder" else np.where(h * c_of > float(np.float32(0.7)), h, 0.0)
    y = np.einsum("bn,lnd->bld", z, f64(dec)) + f64(b_dec)
    y = y / (f64(by)[:, None] + 1e-8) + f64(mean) if normaliser == "set" else y
    sae = agree(tmp_path, x, z, y.reshape(len(x), -1))
    assert (sae.info["n_in"], sae.info["n_out"]) == (layers, layers)


# ---- files known by their tensors ----


@EACH_PAIR
@pytest.mark.parametrize("legacy", [False, True])
def test_apollo(tmp_path: Path, size: tuple[int, int], dtype: str, legacy: bool) -> None:
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    w = r.weights(d, n)
    state = {"encoder.0.weight": w.enc.T, "encoder.0.bias": w.b_enc, "decoder.weight": w.dec.T, "decoder.bias": w.b_dec}
    torch_file(tmp_path / "sae.pt", state, legacy)
    x = r.rows(d)
    z = relu(x.astype(np.float64) @ f64(w.enc) + f64(w.b_enc))
    y = z @ (f64(w.dec) / np.linalg.norm(f64(w.dec), axis=1, keepdims=True)) + f64(w.b_dec)
    agree(tmp_path / "sae.pt", x, z, y)


@EACH_SIZE
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk", "abstopk", "gated", "transcoder", "skip_transcoder"])
def test_gguf(tmp_path: Path, size: tuple[int, int], dtype: str, kind: str) -> None:
    d, n = size
    d_out = d + 3 if "transcoder" in kind else d
    k = max(1, n // 3)
    r = Random(d + n, DTYPES[dtype])
    w, theta, skip = r.weights(d, n, d_out), r.between(0.1, 1.0, n), r.normal(d_out, d, scale=d**-0.5)
    tensors = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    gate, mag, r_mag = r.normal(n, scale=0.3), r.normal(n, scale=0.3), r.normal(n, scale=0.3)
    if kind == "gated":
        tensors.pop("b_enc")
        tensors |= {"b_gate": gate, "b_mag": mag, "r_mag": r_mag}
    tensors |= {"threshold": theta} if kind == "jumprelu" else {}
    tensors |= {"W_skip": skip} if kind == "skip_transcoder" else {}
    keys: dict[str, Any] = {"general.architecture": "sae", "sae.architecture": kind, "sae.hook_name": "blocks.1.hook_resid_post"}
    if kind.endswith("topk"):
        keys["sae.k"] = k
    c.gguf(tmp_path / "one.gguf", keys, tensors)
    x = r.rows(d)
    x64 = x.astype(np.float64)
    u = (x64 - (0 if "transcoder" in kind else f64(w.b_dec))) @ f64(w.enc)
    h = u + f64(w.b_enc)
    z = {"jumprelu": jump(h, f64(theta)), "topk": relu(topk(h, k)), "abstopk": topk(h, k, np.abs(h))}.get(kind, relu(h))
    if kind == "gated":
        z = np.where(u + f64(gate) > 0, relu(np.exp(f64(r_mag)) * u + f64(mag)), 0.0)
    y = z @ f64(w.dec) + f64(w.b_dec) + (x64 @ f64(skip).T if kind == "skip_transcoder" else 0)
    agree(tmp_path / "one.gguf", x, z, y)


# ---- npz ----


@EACH_SIZE
@pytest.mark.parametrize("deflated,fortran,dtype", [(False, False, "f64"), (True, False, "f32"), (False, True, "f32"), (True, True, "f16")])
def test_gemma_scope_npz(tmp_path: Path, size: tuple[int, int], deflated: bool, fortran: bool, dtype: str) -> None:
    d, n = size
    r = Random(d + n, DTYPES[dtype])
    w, theta = r.weights(d, n), r.between(0.1, 1.0, n)
    arrays = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": theta}
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_4" / "width_16k" / "average_l0_7"
    c.npz(folder / "params.npz", {name: t.numpy() for name, t in arrays.items()}, deflated, fortran)
    x = r.rows(d)
    z = jump(x.astype(np.float64) @ f64(w.enc) + f64(w.b_enc), f64(theta))
    sae = agree(folder, x, z, z @ f64(w.dec) + f64(w.b_dec))
    assert sae.info["hook_name"] == "blocks.4.hook_resid_post"
    assert libsae.open(str(folder / "params.npz")).fingerprint == sae.fingerprint


# ---- steering ----


def test_steering_a_cross_layer_transcoder_of_one_layer(tmp_path: Path) -> None:
    """A plan adds what the feature writes, where rows in and out are one hook point."""
    d, n = 20, 41
    r = Random(3)
    w = r.weights(d, n)
    tensors = {"W_E": w.enc[None], "b_E": w.b_enc[None], "W_D": w.dec[None], "b_D": w.b_dec[None]}
    write_json(tmp_path / "config.json", scopium("crosscoder", d, n, "relu", "inference", True, hook_points=["a"]))
    safetensors(tmp_path / "sae_weights.safetensors", tensors)
    sae = libsae.open(str(tmp_path))
    x = r.rows(d)
    with libsae.Plan([libsae.Edit.add(2.5, feature=7)], sae=sae) as plan:
        got = plan.apply(x.copy())
    c.near(got, x.astype(np.float64) + 2.5 * f64(w.dec)[7], x)


def test_configurations_are_kept(tmp_path: Path) -> None:
    w = Random(1, F32).weights(8, 16)
    config = {"d_in": 8, "num_latents": 16, "k": 3}
    write_json(tmp_path / "cfg.json", config)
    safetensors(tmp_path / "sae.safetensors", {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec})
    assert json.loads(libsae.open(str(tmp_path)).info["config"]) == config
