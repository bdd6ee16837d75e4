"""A stand-in for the `SAE` of sae-lens 6: code that is written for sae-lens runs on libsae.

    from libsae.saelens import SAE                  # instead of: from sae_lens import SAE

    sae = SAE.load_from_disk("path/to/sae")         # everything that libsae.open reads
    acts = sae.encode(x)                            # x [..., d_in] -> [..., d_sae], CPU tensors
    x_hat = sae.decode(acts)

It is a torch module, and one of transformer_lens where that is installed: hook points, run_with_hooks, run_with_cache,
`HookedSAETransformer.add_sae` and the helpers of sae_lens.evals work. What is different:

  - It is for reading SAEs: there is no gradient through it (a backward pass says so), and no training.
  - Weights are read when they are first asked for, as copies: writing to `sae.W_dec` does not change what encode and decode do.
  - Sums are float32 whatever the dtype, which is that of inputs and results alone.
  - It lives in CPU memory.

Needs torch. `sae.sae` is the libsae.Sae behind it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._arrays import Array
from .codes import Codes
from .errors import ArgError, ShapeError, UnsupportedError
from .model import Info, Sae
from .model import open as open_sae

try:
    import torch
except ImportError as error:
    raise ImportError(
        "libsae.saelens needs torch, which is not installed: pip install torch (the rest of libsae works without it)"
    ) from error

try:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedTransformer import HookedRootModule
except ImportError:
    HookPoint = torch.nn.Identity
    HookedRootModule = torch.nn.Module

Tensor = torch.Tensor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# What sae-lens 5 and older kept beside the sizes, and sae-lens 6 in "metadata".
_METADATA = (
    "context_size",
    "dataset_path",
    "exclude_special_tokens",
    "hf_hook_name",
    "hf_hook_name_out",
    "hook_head_index",
    "hook_head_index_out",
    "hook_name",
    "hook_name_out",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "model_name",
    "neuronpedia_id",
    "prepend_bos",
    "sae_lens_training_version",
    "sae_lens_version",
    "seqpos_slice",
)
_FOLDABLE = ("standard", "jumprelu", "gated")
_OWN = {"jumprelu": ("threshold",), "gated": ("b_gate", "b_mag", "r_mag")}  # weights that not every SAE has


class Metadata:
    """What is known of how the SAE is used: attributes or items, None where nothing is known."""

    def __init__(self, **items: Any) -> None:
        self.__dict__.update(items)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself looks for, to copy or to pickle
            raise AttributeError(name)
        return None

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: str) -> bool:
        return key in self.__dict__

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where nothing is known."""
        return self.__dict__.get(key, default)

    def keys(self) -> Any:
        """The names that are known."""
        return self.__dict__.keys()

    def values(self) -> Any:
        """Their values."""
        return self.__dict__.values()

    def items(self) -> Any:
        """Names and values."""
        return self.__dict__.items()

    def to_dict(self) -> dict[str, Any]:
        """Names and values, as a dict of its own."""
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return f"Metadata({self.__dict__!r})"


class Config:
    """The attributes of sae-lens' SAEConfig. `k` and `rescale_acts_by_decoder_norm` are there for top-k SAEs alone, `d_out` is always."""

    def __init__(self, info: Info, dtype: torch.dtype | None) -> None:
        stored = _stored(info)
        self.d_in: int = info["d_in"]
        self.d_sae: int = info["d_sae"]
        self.d_out: int = info["d_out"]
        name = str(stored.get("dtype", "")).replace("torch.", "")
        self.dtype = _name(dtype) if dtype else name if name in _DTYPES else _STORED[info["dtype"]]
        self.device = "cpu"
        self.apply_b_dec_to_input: bool = info["apply_b_dec_to_input"]
        scaled = info["norm_scaling_factor"] not in (0.0, 1.0)  # as if folded into the weights, as sae-lens does it
        self.normalize_activations: str = "none" if scaled else info["normalize_activations"]
        self.metadata = _metadata(info, stored)
        flat = "hook_z" if "metadata" not in stored and "hook_z" in info["hook_name"] else "none"
        self.reshape_activations: str = stored.get("reshape_activations", flat)
        self._architecture: str = info["architecture"]
        if info["k"]:
            self.k: int = info["k"]
            self.rescale_acts_by_decoder_norm: bool = info["rescale_by_decoder_norm"]

    def architecture(self) -> str:
        """ "standard", "jumprelu", "topk", "gated", ..."""
        return self._architecture

    def to_dict(self) -> dict[str, Any]:
        """As sae-lens stores it in cfg.json."""
        items = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        if self.d_out == self.d_in:
            del items["d_out"]
        return {**items, "metadata": self.metadata.to_dict(), "architecture": self._architecture}

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"


def _stored(info: Info) -> dict[str, Any]:
    """cfg.json, where sae-lens has written it."""
    if info["format"] != "saelens":
        return {}
    config = json.loads(info["config"])
    old = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
    return {old.get(key, key): value for key, value in config.items()}


def _metadata(info: Info, stored: dict[str, Any]) -> Metadata:
    if "metadata" in stored:
        items = dict(stored["metadata"])
    else:
        items = {key: stored[key] for key in _METADATA if key in stored}
        items.setdefault("prepend_bos", True)
    for key in ("model_name", "hook_name", "hook_name_out"):
        if info.get(key):
            items.setdefault(key, info[key])
    return Metadata(**items)


def _name(dtype: torch.dtype | str) -> str:
    name = str(dtype).replace("torch.", "")
    if name not in _DTYPES:
        raise ArgError(f"dtype = {name}: libsae takes and gives float32, bfloat16 and float16")
    return name


def _check_device(device: Any, what: str) -> None:
    if torch.device(device).type != "cpu":
        raise TypeError(f'{what} is on {device}: libsae works in CPU memory, keep the SAE there (device="cpu") and give it x.cpu()')


def _hooked(point: torch.nn.Module) -> bool:
    return bool(point._forward_hooks or point._backward_hooks or point._forward_pre_hooks or point._backward_pre_hooks)


class _NoGradient(torch.autograd.Function):
    """Ends autograd with a sentence instead of with a gradient that lacks a part."""

    @staticmethod
    def forward(_: Any, source: Tensor, result: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(_: Any, *__: Any) -> Any:
        raise NotImplementedError(
            "there is no gradient through libsae.saelens.SAE: use sae_lens.SAE where one is needed, or detach() what goes in or comes out"
        )


def _cut(result: Tensor, source: Tensor) -> Tensor:
    if not (source.requires_grad and torch.is_grad_enabled()):
        return result
    cut: Tensor = _NoGradient.apply(source, result)  # type: ignore[no-untyped-call]
    return cut


def _of_file(info: Info, name: str) -> Array:
    """A tensor that only sae-lens calls by this name, out of its safetensors file, as float32."""
    if info["format"] != "saelens":
        raise UnsupportedError(f"{name} of this SAE is not known: it is read of files of sae-lens alone, this one is {info['format']}")
    with open(info["path"], "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin, end = header[name]["data_offsets"]
        file.seek(begin, os.SEEK_CUR)
        raw = file.read(end - begin)
    stored = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[header[name]["dtype"]]).reshape(header[name]["shape"])
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _csr(acts: Array, normalised: bool) -> Codes:
    """Rows of activations as sparse codes; what un-normalises a row is left to the caller."""
    n, d_sae = acts.shape
    where = np.flatnonzero(acts)
    indptr = np.searchsorted(where, np.arange(n + 1, dtype=np.int64) * d_sae).astype(np.int64)
    indices = (where - np.repeat(np.arange(n) * d_sae, np.diff(indptr))).astype(np.int32)
    per_row = (np.ones(n, np.float32), np.zeros(n, np.float32)) if normalised else (None, None)
    return Codes(indptr, indices, acts.reshape(-1)[where], d_sae, *per_row)


class SAE(HookedRootModule):  # type: ignore[misc]
    """An SAE with the attributes and methods of sae-lens' SAE, computed by libsae.

    Made by `load_from_disk`, `from_pretrained`, or of a libsae.Sae that is there already. `dtype` is that of what goes in and comes out:
    "float32", "bfloat16", "float16"; by default what the file says."""

    def __init__(self, sae: Sae, dtype: torch.dtype | str | None = None) -> None:
        super().__init__()
        self.sae = sae
        self.cfg = Config(sae.info, None if dtype is None else _DTYPES[_name(dtype)])
        self.dtype: torch.dtype = _DTYPES[self.cfg.dtype]
        self.device = torch.device("cpu")
        self.use_error_term = False
        self._kind = self.cfg.architecture()
        self._unscaled = sae.info["returns_unscaled"]  # h * norm decides, but h is the code: decoder rows are as they are
        self._skips = bool(sae.info["has_skip"])
        self._in_order = self._kind == "temporal"  # the codes of a row depend on the rows of its sequence before it
        self._rescales = self._kind == "topk" and sae.info["rescale_by_decoder_norm"] and not self._unscaled
        self._normalised = sae.info["normalize_activations"] in ("constant_norm_rescale", "layer_norm")
        self._per_row: tuple[Tensor, Tensor] | None = None  # scale and shift that the next decode un-normalises by
        self._fold: Tensor | None = None  # [d_sae] decoder norms that fold_W_dec_norm has moved to the encoder
        self._tensors: dict[str, torch.nn.Parameter] = {}
        self.d_head: int | None = None  # of the rows encoded last
        self._add_hooks()
        if self.cfg.reshape_activations == "hook_z":
            self.turn_on_forward_pass_hook_z_reshaping()
        else:
            self.turn_off_forward_pass_hook_z_reshaping()

    def _add_hooks(self) -> None:
        self.hook_sae_input = HookPoint()
        self.hook_sae_acts_pre = HookPoint()
        self.hook_sae_acts_post = HookPoint()
        self.hook_sae_output = HookPoint()
        self.hook_sae_recons = HookPoint()
        self.hook_sae_error = HookPoint()
        if HookedRootModule is not torch.nn.Module:
            self.setup()
        theirs = sys.modules.get("sae_lens")
        if theirs is not None:  # its helpers ask isinstance(sae, SAE)
            theirs.SAE.register(type(self))

    # ---- loading ----

    @classmethod
    def load_from_disk(
        cls,
        path: str | os.PathLike[str],
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        fold_W_dec_norm: bool = False,
        **options: Any,
    ) -> SAE:
        """Opens what libsae.open opens; `options` are those of libsae.open, such as `threads` and `prepare`."""
        _check_device(device, "device")
        return cls._loaded(open_sae(path, **options), dtype, fold_W_dec_norm)

    @classmethod
    def from_pretrained(
        cls,
        release: str,
        sae_id: str,
        device: str = "cpu",
        dtype: torch.dtype | str | None = "float32",
        fold_W_dec_norm: bool = False,
        **options: Any,
    ) -> SAE:
        """Downloads what libsae.hub.from_pretrained finds, and opens it; `options` are those of that function."""
        _check_device(device, "device")
        from . import hub  # only this needs a network

        return cls._loaded(hub.from_pretrained(release, sae_id, **options), dtype, fold_W_dec_norm)

    @classmethod
    def from_pretrained_with_cfg_and_sparsity(cls, release: str, sae_id: str, **options: Any) -> tuple[SAE, dict[str, Any], None]:
        """The SAE, its configuration, and None: how often each feature is active is not downloaded."""
        sae = cls.from_pretrained(release, sae_id, **options)
        return sae, sae.cfg.to_dict(), None

    @classmethod
    def _loaded(cls, sae: Sae, dtype: torch.dtype | str | None, fold: bool) -> SAE:
        self = cls(sae, dtype)
        if fold:
            self.fold_W_dec_norm()
        return self

    # ---- encode and decode ----

    def encode(self, x: Tensor) -> Tensor:
        """Activations [..., d_sae] of x [..., d_in], or of [..., n_heads, d_head] while hook_z is reshaped. Of a temporal SAE these are the
        novel codes of the sequences x [..., tokens, d_in]."""
        sae_in = self.hook_sae_input(self._taken(x))
        rows = self._flat(sae_in, self.cfg.d_in, "x")
        acts = self._encode(rows, sae_in)
        hooked = _hooked(self.hook_sae_acts_pre)
        seen = (self._pre(rows) if hooked else acts).reshape(*sae_in.shape[:-1], self.cfg.d_sae).to(self.dtype)
        seen = _cut(seen, sae_in)
        return self.hook_sae_acts_post(self._activate(seen, self.hook_sae_acts_pre) if hooked else seen)

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Reconstruction [..., d_out] of activations [..., d_sae], without what a skip connection adds or a temporal SAE predicts. An SAE
        that normalises rows scales back those encoded last."""
        if feature_acts.is_sparse:
            feature_acts = feature_acts.to_dense()
        rows = self._flat(feature_acts, self.cfg.d_sae, "feature_acts")
        decoded = torch.from_numpy(self._decode(rows)).reshape(*feature_acts.shape[:-1], self.cfg.d_out).to(self.dtype)
        recons = self.hook_sae_recons(_cut(decoded, feature_acts))
        return self._given(self._unnormalise(recons))

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x)), what a skip connection adds or a temporal SAE predicts; and, with `use_error_term`, what that leaves of x."""
        points = (self.hook_sae_input, self.hook_sae_acts_pre, self.hook_sae_acts_post, self.hook_sae_recons)
        if self.dtype is torch.float32 and not any(map(_hooked, points)):  # nobody looks: the sparse codes never become dense
            sae_out = _cut(self._reconstruct(x), x)
        else:
            sae_out = self.decode(self.encode(x)) + self._beside(x)
        if self.use_error_term:
            with torch.no_grad():
                sae_error = self.hook_sae_error(x - self._reconstruct(x))
            sae_out = sae_out + sae_error
        return self.hook_sae_output(sae_out)

    def _taken(self, x: Tensor) -> Tensor:
        """x in the dtype of the SAE, heads side by side."""
        _check_device(x.device, "x")
        x = x.to(self.dtype)
        if not self.hook_z_reshaping_mode:
            return x
        self.d_head = x.shape[-1]
        return x.flatten(-2, -1)

    def _given(self, y: Tensor) -> Tensor:
        """y with its heads apart again."""
        if not self.hook_z_reshaping_mode:
            return y
        if self.d_head is None:
            raise RuntimeError("this SAE gives [..., n_heads, d_head], and d_head is that of the rows encoded last: encode first")
        return y.unflatten(-1, (-1, self.d_head))

    @staticmethod
    def _flat(x: Tensor, d: int, name: str) -> Tensor:
        """Rows for the library: contiguous, and without a history."""
        _check_device(x.device, name)
        if x.ndim == 0 or x.shape[-1] != d:
            raise ShapeError(f"{name} has shape {tuple(x.shape)}: its last axis must be {d} for this SAE")
        return x.detach().reshape(-1, d).contiguous()

    def _sequences(self, rows: Tensor, x: Tensor) -> Iterator[slice]:
        """Which rows belong together: each sequence [tokens, d_in] of x where order matters, else all."""
        if self._in_order and x.ndim < 2:
            raise ShapeError(f"x has shape {tuple(x.shape)}: a temporal SAE takes sequences [..., tokens, {self.cfg.d_in}]")
        each = max(x.shape[-2], 1) if self._in_order else max(len(rows), 1)
        return (slice(first, first + each) for first in range(0, len(rows), each))

    @torch.no_grad()
    def _beside(self, x: Tensor) -> Any:
        """What forward adds to the decoded codes: x W_skip^T, or what a temporal SAE predicts."""
        if self._skips:
            return self._taken(x) @ self.W_skip.T
        if not self._in_order:
            return 0
        x = self._taken(x)
        decoded = [self.sae.decode(self.sae.encode(rows)) for rows in self._by_sequence(x)]
        return self._reconstruct(x) - torch.from_numpy(np.concatenate(decoded)).reshape(x.shape).to(self.dtype)

    def _by_sequence(self, x: Tensor) -> list[Tensor]:
        rows = self._flat(x, self.cfg.d_in, "x")
        return [rows[which] for which in self._sequences(rows, x)] or [rows]

    def _encode(self, rows: Tensor, x: Tensor) -> Tensor:
        acts = torch.empty(rows.shape[0], self.cfg.d_sae)
        if self._in_order:
            for which in self._sequences(rows, x):
                self.sae.encode_dense(rows[which], out=acts[which])
        elif self._normalised:
            codes = self.sae.encode(rows)
            self._per_row = torch.from_numpy(codes.row_scale), torch.from_numpy(codes.row_shift)
            codes.dense(out=acts)
        else:
            self.sae.encode_dense(rows, out=acts)
        return acts if self._fold is None or self._rescales else acts.mul_(self._fold)

    def _decode(self, rows: Tensor) -> Array:
        """What the library decodes, normalised still."""
        codes = _csr(rows.float().numpy(), self._normalised)
        if self._fold is not None and not self._rescales:
            codes.values[...] /= self._fold.numpy()[codes.indices]
        decoded: Array = self.sae.decode(codes)
        return decoded

    def _unnormalise(self, y: Tensor) -> Tensor:
        if not self._normalised:
            return y
        n = y.numel() // y.shape[-1]
        if self._per_row is None or len(self._per_row[0]) != n:
            encoded = 0 if self._per_row is None else len(self._per_row[0])
            kind = self.cfg.normalize_activations
            raise RuntimeError(
                f"{n} rows are decoded after {encoded} were encoded: with {kind} a row is scaled back as it was scaled, encode them first"
            )
        scale, shift = (v.reshape(*y.shape[:-1], 1) for v in self._per_row)
        self._per_row = None
        return (y * scale + shift).to(self.dtype)

    def _reconstruct(self, x: Tensor) -> Tensor:
        """The SAE's output without hooks."""
        x = self._taken(x)
        if self._skips or self._in_order:
            y = np.concatenate([self.sae.forward(rows) for rows in self._by_sequence(x)])
        else:
            y = self.sae.decode(self.sae.encode(self._flat(x, self.cfg.d_in, "x")))
        return self._given(torch.from_numpy(y).reshape(*x.shape[:-1], self.cfg.d_out).to(self.dtype))

    # ---- pre-activations, for those who hook them ----

    def _pre(self, rows: Tensor) -> Tensor:
        """What hook_sae_acts_pre shows: before the activation function, for gated SAEs the magnitude."""
        kind = self._kind
        if kind not in (*_FOLDABLE, "topk") or self.sae.info.get("keeps_negative") or self._unscaled:
            raise UnsupportedError(
                f"hook_sae_acts_pre of {self.get_name()}: not for {kind} SAEs of this kind, hook the other points by name"
            )
        pre = torch.empty(rows.shape[0], self.cfg.d_sae)
        self.sae.probe(rows, np.arange(self.cfg.d_sae, dtype=np.int32), pre=True, out=pre)
        if self._rescales:  # what is probed is what decides, h * norm
            return pre.div_(self.get_W_dec_norm())
        return pre if self._fold is None else pre.mul_(self._fold)

    def _activate(self, h: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Activations of pre-activations, which `change` sees and may replace."""
        kind = self._kind
        if kind == "gated":  # h is the gate's: the magnitude has the same dot, another scale and another bias
            magnitude = change((h - self.b_gate) * self.r_mag.exp() + self.b_mag)
            return magnitude.relu() * (h > 0)
        h = change(h)
        if kind == "topk":
            h = h * self.get_W_dec_norm() if self._rescales else h
            values, indices = torch.topk(h, self.cfg.k, dim=-1, sorted=False)
            return torch.zeros_like(h).scatter_(-1, indices, values.relu())
        return h.relu() * (h > self.threshold) if kind == "jumprelu" else h.relu()

    # ---- weights ----

    @property
    def W_enc(self) -> torch.nn.Parameter:
        """[d_in][d_sae], a copy."""
        return self._tensor("W_enc")

    @property
    def W_dec(self) -> torch.nn.Parameter:
        """[d_sae][d_out], a copy."""
        return self._tensor("W_dec")

    @property
    def b_enc(self) -> torch.nn.Parameter | None:
        """[d_sae], a copy; None of a gated or temporal SAE."""
        return None if self._kind in ("gated", "temporal") else self._tensor("b_enc")

    @property
    def b_dec(self) -> torch.nn.Parameter:
        """[d_out], a copy."""
        return self._tensor("b_dec")

    def __getattr__(self, name: str) -> Any:
        if name in _OWN.get(self.__dict__.get("_kind", ""), ()):  # threshold, b_gate, ...: where the architecture has them
            return self._tensor(name)
        if name == "W_skip" and self.__dict__.get("_skips"):
            return self._tensor(name)
        return super().__getattr__(name)

    def _names(self) -> tuple[str, ...]:
        shared = ("W_enc", "W_dec", "b_dec")
        own = (*_OWN.get(self._kind, ()), *(("W_skip",) if self._skips else ()))
        return (*shared, *own, *(() if self._kind in ("gated", "temporal") else ("b_enc",)))

    def _tensor(self, name: str) -> torch.nn.Parameter:
        if name not in self._tensors:
            value = self._read(name)
            if self._fold is not None:
                value = self._folded(name, value, self._fold)
            self._tensors[name] = torch.nn.Parameter(value.to(self.dtype), requires_grad=False)
        return self._tensors[name]

    def _read(self, name: str) -> Tensor:
        """A tensor of the SAE as sae-lens has it, float32."""
        if name in ("b_mag", "r_mag"):
            return torch.from_numpy(_of_file(self.sae.info, name))
        value = torch.from_numpy(self.sae.read("b_enc" if name == "b_gate" else name))
        factor = self.sae.info["norm_scaling_factor"]
        if name == "W_enc":
            return value.T if factor in (0.0, 1.0) else value.T * factor
        if name == "W_dec" and self._rescales:  # libsae has unit rows
            return torch.from_numpy(_of_file(self.sae.info, name))
        return value / factor if name in ("W_dec", "b_dec") and factor not in (0.0, 1.0) else value

    @staticmethod
    def _folded(name: str, value: Tensor, norms: Tensor) -> Tensor:
        if name == "W_dec":
            return value / norms[:, None]
        return value if name in ("b_dec", "r_mag", "W_skip") else value * norms

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Any]]:
        """The weights; they are read for it. The arguments are those of torch."""
        for name in self._names():
            yield (f"{prefix}.{name}" if prefix else name), self._tensor(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, value in self.named_parameters():
            destination[prefix + name] = value if keep_vars else value.detach()

    @torch.no_grad()
    def get_W_dec_norm(self) -> Tensor:
        """Lengths of the decoder rows, at least 1e-8."""
        return self.W_dec.norm(dim=-1).clamp(min=1e-8)

    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> Tensor:
        """Gives the decoder rows length 1 and scales activations instead; returns their lengths before."""
        if self._kind not in _FOLDABLE and not self._rescales:
            raise NotImplementedError(f"the decoder norms of a {self._kind} SAE cannot be folded: it would choose other features")
        norms = self.get_W_dec_norm()
        self._fold = norms.float() if self._fold is None else self._fold * norms
        self._tensors.clear()
        return norms

    def fold_W_dec_norm(self) -> None:
        """Gives the decoder rows length 1 and scales activations instead. No weights are copied for it."""
        self.fold_and_get_W_dec_norm()

    # ---- what else sae-lens has ----

    def turn_on_forward_pass_hook_z_reshaping(self) -> None:
        """From now on x is [..., n_heads, d_head], and so is what decode gives."""
        name = self.cfg.metadata.hook_name
        if name is not None and not name.endswith("_z"):
            raise ValueError(f"only SAEs of hook_z take heads apart, and this one is of {name}")
        self.hook_z_reshaping_mode = True

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """From now on x is [..., d_in]."""
        self.hook_z_reshaping_mode = False
        self.d_head = None

    def to(self, *args: Any, **kwargs: Any) -> SAE:
        """Another dtype of inputs and results, named or of a tensor; the device can only be the CPU."""
        given = [*args, *kwargs.values()]
        given += [v for t in given if isinstance(t, Tensor) for v in (t.device, t.dtype)]
        for value in given:
            if isinstance(value, torch.dtype):
                self.cfg.dtype = _name(value)
                self.dtype = value
                self._tensors.clear()
            elif isinstance(value, (str, torch.device)):
                _check_device(value, "the SAE")
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SAE:
        """What half(), cuda() and their like of torch do to every tensor."""
        return self.to(fn(torch.zeros(1, dtype=self.dtype)))

    def get_name(self) -> str:
        """sae_<model>_<hook>_<d_sae>"""
        return f"sae_{self.cfg.metadata.model_name}_{self.cfg.metadata.hook_name}_{self.cfg.d_sae}"

    def __repr__(self) -> str:
        return f"<libsae.saelens.SAE {self._kind}, d_in {self.cfg.d_in}, d_sae {self.cfg.d_sae}, {self.cfg.dtype}>"
