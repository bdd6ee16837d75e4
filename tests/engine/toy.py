"""Small random Llamas and SAEs in the formats that the engine reads, and the NumPy pass that judges it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import llama
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

Array = np.ndarray
# Order of the tensors in llama2.c's file; "rope" is dead weight there.
ORDER = ("emb", "n1", "q", "k", "v", "o", "n2", "w1", "w2", "w3", "norm", "rope", "head")
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
Hook = Callable[[Array], Array]


class Oracle(llama.Llama):
    """The world's NumPy pass with hooks: `hooks["blocks.1.hook_attn_out"](x)` gives what goes on in place of x."""

    eps = 1e-5

    def run(self, ids: list[int], hooks: dict[str, Hook] | None = None) -> Array:
        x = self.embed(np.array([ids]))
        hooks = hooks or {}

        def at(layer: int, name: str, z: Array) -> Array:
            return hooks.get(f"blocks.{layer}.hook_{name}", lambda y: y)(z)

        where = np.arange(len(ids))[None]
        for layer in range(self.n_layers):
            x = x + at(layer, "attn_out", self._attention(layer, self.norm(x) * self.t["n1"][layer], None, where))
            y = self.norm(x) * self.t["n2"][layer]
            gate = y @ self.t["w1"][layer].T
            x = x + at(layer, "mlp_out", (gate / (1 + np.exp(-gate)) * (y @ self.t["w3"][layer].T)) @ self.t["w2"][layer].T)
            x = at(layer, "resid_post", x)
        return (self.norm(x) @ self.unembedding.T)[0]

    def scale_rope(self, theta: float, factor: float, low: float, high: float, original: int) -> None:
        """Llama 3.1's frequencies, as transformers' _compute_llama3_parameters has them."""
        frequency = theta ** -(np.arange(0, self.head, 2) / self.head)
        wave = 2 * np.pi / frequency
        smooth = (original / wave - low) / (high - low)
        between = (1 - smooth) * frequency / factor + smooth * frequency
        frequency = np.where(wave > original / low, frequency / factor, np.where(wave < original / high, frequency, between))
        angle = np.outer(np.arange(self.context), frequency)
        self._cos, self._sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def seen(self, ids: list[int], name: str) -> Array:
        """The rows at a hook, [positions][dim]."""
        rows: list[Array] = []

        def keep(x: Array) -> Array:
            rows.append(x[0].copy())
            return x

        self.run(ids, {name: keep})
        return rows[0]

    def norm(self, x: Array) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps))


def random(kv_heads: int = 2, tied: bool = True, dtype: str = "F32", theta: float = 10000.0, seed: int = 0) -> Oracle:
    """dim 24, 4 heads of 6, 3 layers, 300 tokens, 48 positions; weights that a tensor of `dtype` holds exactly."""
    rng = np.random.default_rng(seed)
    dim, hidden, layers, heads, vocab, context = 24, 40, 3, 4, 300, 48
    kv = dim // heads * kv_heads
    sizes = {
        "emb": (vocab, dim),
        "q": (layers, dim, dim),
        "k": (layers, kv, dim),
        "v": (layers, kv, dim),
        "o": (layers, dim, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "rope": (context, dim // heads),
    }
    t = {k: rng.standard_normal(s) / np.sqrt(s[-1]) for k, s in sizes.items()}
    t["emb"] *= 4
    t |= {k: 1 + 0.2 * rng.standard_normal(s) for k, s in {"n1": (layers, dim), "n2": (layers, dim), "norm": (dim,)}.items()}
    if not tied:
        t["head"] = rng.standard_normal((vocab, dim))
    t = {k: v.astype(DTYPES[dtype]).astype(np.float32) for k, v in t.items()}
    return Oracle((dim, hidden, layers, heads, kv_heads, vocab, context), t, theta)


def header(m: Oracle) -> list[int]:
    vocab = -m.n_vocab if "head" in m.t else m.n_vocab
    return [m.dim, m.hidden, m.n_layers, m.n_heads, m.n_kv_heads, vocab, m.context]


def write_bin(m: Oracle, path: Path) -> Path:
    data = b"".join(m.t[k].tobytes() for k in ORDER if k in m.t)
    path.write_bytes(struct.pack("<7i", *header(m)) + data)
    return path


def _halves(w: Array, heads: int) -> Array:
    """Rows 2i and 2i + 1 of a head go to i and i + half, as transformers wants them."""
    out, n_in = w.shape
    return w.reshape(heads, out // heads // 2, 2, n_in).swapaxes(1, 2).reshape(out, n_in)


def hf_tensors(m: Oracle) -> dict[str, Array]:
    out = {"model.embed_tokens.weight": m.t["emb"], "model.norm.weight": m.t["norm"]}
    if "head" in m.t:
        out["lm_head.weight"] = m.t["head"]
    names = {"v": "self_attn.v_proj", "o": "self_attn.o_proj", "w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj"}
    names |= {"n1": "input_layernorm", "n2": "post_attention_layernorm"}
    for i in range(m.n_layers):
        for k, name in names.items():
            out[f"model.layers.{i}.{name}.weight"] = m.t[k][i]
        out[f"model.layers.{i}.self_attn.q_proj.weight"] = _halves(m.t["q"][i], m.n_heads)
        out[f"model.layers.{i}.self_attn.k_proj.weight"] = _halves(m.t["k"][i], m.n_kv_heads)
    return out


def hf_config(m: Oracle, theta: float = 10000.0) -> dict[str, object]:
    return {
        "model_type": "llama",
        "hidden_size": m.dim,
        "intermediate_size": m.hidden,
        "num_hidden_layers": m.n_layers,
        "num_attention_heads": m.n_heads,
        "num_key_value_heads": m.n_kv_heads,
        "vocab_size": m.n_vocab,
        "max_position_embeddings": m.context,
        "rms_norm_eps": m.eps,
        "rope_theta": theta,
        "hidden_act": "silu",
        "tie_word_embeddings": "head" not in m.t,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "_name_or_path": "toys/toy",
    }


def write_hf(m: Oracle, folder: Path, dtype: str = "F32", theta: float = 10000.0, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({k: np.ascontiguousarray(v.astype(DTYPES[dtype])) for k, v in hf_tensors(m).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**hf_config(m, theta), **config}))
    return folder


def write_tokenizer(path: Path, n: int = 300, extra: tuple[str, ...] = ()) -> Path:
    """Three special tokens, 256 bytes, and pieces made of "a", "b", "c", blanks and "é" that merge in the order of their scores."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += [" ", "a", "b", "c", "é", " a", "ab", "bc", "abc", " ab", "cé", " abc", *extra]
    pieces += [f"piece{i}" for i in range(n - len(pieces))]
    with path.open("wb") as f:
        f.write(struct.pack("<i", max(len(p.encode()) for p in pieces)))
        for i, p in enumerate(pieces[:n]):
            f.write(struct.pack("<fi", 0.0 if i < 259 else float(259 - i), len(p.encode())) + p.encode())
    return path


def write_sae(
    folder: Path, d_in: int = 24, d_sae: int = 32, hook: str = "blocks.1.hook_resid_post", model: str = "", seed: int = 5
) -> dict[str, Array]:
    """A JumpReLU SAE as SAELens saves it; gives its tensors."""
    rng = np.random.default_rng(seed)
    t = {
        "W_enc": rng.standard_normal((d_in, d_sae)),
        "W_dec": rng.standard_normal((d_sae, d_in)),
        "b_enc": rng.standard_normal(d_sae),
        "b_dec": rng.standard_normal(d_in),
        "threshold": np.full(d_sae, 0.3),
    }
    tensors = {k: v.astype(np.float32) for k, v in t.items()}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    meta = {"sae_lens_version": "6.54.12", "hook_name": hook, "model_name": model}
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "apply_b_dec_to_input": True}
    config |= {"normalize_activations": "none", "metadata": {k: v for k, v in meta.items() if v}}
    (folder / "cfg.json").write_text(json.dumps(config))
    return tensors


def codes(t: dict[str, Array], x: Array) -> Array:
    h = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    return np.where(h > t["threshold"], np.maximum(h, 0), 0)
