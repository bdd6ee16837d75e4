"""Models of Hugging Face transformers, steered and watched at their layers while they run, generate() included.

    import libsae.hf

    with libsae.hf.steer(model, {12: plan}) as s:           # a layer by its number, or any module by its name
        out = model.generate(**tokens)
    s.counts[12]                                            # calls, rows edited, rows skipped and why
    with libsae.hf.watch(model, 12, sae, features=[3, 5]) as w:
        model(**tokens)
    seen = w.collect()                                      # seen.codes, and sequence, position and pass of each row

A layer's output is edited where it lies: float32, bfloat16 and float16 tensors in CPU memory are not copied. Rows are tokens: those that
`attention_mask` calls padding are left alone and not watched. Hooks run in the order in which they were attached, so a watch that is to
see edited rows is attached after the steering.

Needs torch; transformers itself is not imported, and any module that is called in the same way will do.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

import numpy as np

from . import _arrays as arrays
from ._arrays import Array, Features
from ._seen import join
from .codes import Codes
from .errors import ArgError, ShapeError, UnsupportedError
from .model import Sae
from .plan import Plan

try:
    import torch
except ImportError as error:
    raise ImportError("libsae.hf needs torch, which is not installed: pip install torch (the rest of libsae works without it)") from error

#: A layer by its number, or a module by its name in `model.named_modules()`.
Layer = Union[int, str]
Module = torch.nn.Module
Tensor = torch.Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_CACHES = ("past_key_values", "cache")  # transformers 4 and 5


@dataclass
class Counts:
    """What happened at a layer. `rows` is the sum of `taken` and of all that was skipped."""

    calls: int = 0  #: of the layer
    rows: int = 0  #: tokens that passed it
    taken: int = 0  #: of these, edited or watched
    skipped: dict[str, int] = field(default_factory=dict)  #: the others: "padding", "slot" (-1), "decode" (prefill_only), "position"

    def _add(self, run: _Pass) -> None:
        self.calls += 1
        self.rows += run.batch * run.tokens
        self.taken += run.taken
        for why, n in run.skipped.items():
            self.skipped[why] = self.skipped.get(why, 0) + n


class Seen(NamedTuple):
    """What a Watch has collected: a row for each token, in the order of the model's passes."""

    codes: Codes  #: of the features asked for, or of all
    sequences: Array  #: int32 [n_rows], which sequence of the batch
    positions: Array  #: int32 [n_rows], which of its tokens; padding is not counted
    passes: Array  #: int32 [n_rows], which forward pass: 0 is the prompt, then the steps of generate()


# ---- finding layers ----


def _width(model: Module) -> tuple[int | None, int | None]:
    """Layers and elements of a row by the model's configuration."""
    config = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    return getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)


def _lists(model: Module, n_layers: int | None) -> list[str]:
    """Names of what may be the list of layers: the outermost lists of that length."""
    modules = model.named_modules()
    found = [name for name, m in modules if isinstance(m, torch.nn.ModuleList) and len(m) and n_layers in (None, len(m))]
    depth = min((name.count(".") for name in found), default=0)
    return [name for name in found if name.count(".") == depth]


def _layer_list(model: Module) -> str:
    """The name of the list of layers: model.layers, transformer.h, gpt_neox.layers, ..."""
    n_layers, _ = _width(model)
    found = _lists(model, n_layers)
    if len(found) > 1 and hasattr(model, "get_decoder"):  # beside an encoder or a vision tower
        inside = {id(m) for m in model.get_decoder().modules()}
        found = [name for name in found if id(model.get_submodule(name)) in inside]
    if len(found) != 1:
        many = " and ".join(found) if found else "no list of modules"
        raise ArgError(f"the layers of {type(model).__name__} could be {many}: give the name of a module, as named_modules() has it")
    return found[0]


def _find(model: Module, layer: Layer) -> tuple[str, bool]:
    """The name of a module, and whether it is one of the layers."""
    if isinstance(layer, str):
        if layer not in dict(model.named_modules()):
            raise ArgError(f"{type(model).__name__} has no module {layer!r}: give a name of named_modules(), or the number of a layer")
        return layer, False
    number, name = arrays.int32(layer, "layer"), _layer_list(model)
    count = len(model.get_submodule(name))  # type: ignore[arg-type]
    if not 0 <= number < count:
        raise ArgError(f"layer = {number}: {type(model).__name__} has layers 0 .. {count - 1}, in {name}")
    return f"{name}.{number}", True


def _owner(model: Module, names: Sequence[str]) -> Module:
    """The module whose forward is given the tokens, and runs the layers."""
    try:
        name = _layer_list(model).rpartition(".")[0]
    except ArgError:
        return model
    return model.get_submodule(name) if all(n.startswith(f"{name}.") for n in names) else model


def _check_model(model: Any) -> None:
    if not isinstance(model, Module):
        raise TypeError(f"model is a {type(model).__name__}: give a torch module, such as a LlamaForCausalLM")
    if hasattr(model, "_orig_mod") or any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()):
        raise ArgError("model is compiled by torch.compile, which leaves out hooks without a word: give the model as it was before")


def _check_place(module: Module, name: str, copy: bool) -> None:
    """Weights say where the rows will be. Those that accelerate brings in when they are needed stay on meta."""
    for key, p in module.named_parameters():
        if p.is_meta and not hasattr(module, "_hf_hook"):
            raise TypeError(f"{name}.{key} is on the meta device, which holds no numbers: load the weights first")
        if p.device.type not in ("cpu", "meta") and not copy:
            raise TypeError(_elsewhere(f"{name}.{key}", p.device))


def _elsewhere(what: str, device: Any) -> str:
    return f"{what} is on {device}: libsae works in CPU memory, give copy=True to move rows there and back"


# ---- a forward pass ----


@dataclass
class _Pass:
    """A forward pass of the model, and which of its rows are taken."""

    batch: int
    tokens: int
    past: int  # tokens in the cache
    mask: Array | None  # bool [batch][tokens], False is padding; None: none is
    before: Any  # tokens in the cache that are not padding: [batch][1], or one number
    taken: int = 0
    slots: Array | None = None  # int32 [batch * tokens], -1: not taken; None: all are, by slot 0
    skipped: dict[str, int] = field(default_factory=dict)
    number: int = 0

    def positions(self) -> Array:
        """[batch][tokens], without padding."""
        if self.mask is None:
            return np.broadcast_to(self.before + np.arange(self.tokens), (self.batch, self.tokens))
        return np.asarray(self.before + np.cumsum(self.mask, axis=1) - 1)


def _mask(given: Any, past: int | None, tokens: int) -> tuple[Array | None, int, Any]:
    """Padding among the tokens, tokens in the cache, and those of them that are not padding."""
    if given is None:
        return None, past or 0, past or 0
    if not isinstance(given, Tensor) or given.ndim != 2:
        kind = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise ShapeError(f"attention_mask is {kind}: padding is told by one of [sequences][tokens], and only the default cache keeps it so")
    if past is None:
        past = max(0, given.shape[1] - tokens)
    if given.shape[1] < past + tokens:
        raise ShapeError(f"attention_mask has {given.shape[1]} columns, but there are {tokens} tokens after {past} in the cache")
    real = given[:, : past + tokens].cpu().numpy() != 0
    if real.all():
        return None, past, past
    return real[:, past:], past, real[:, :past].sum(axis=1, keepdims=True)


def _inputs(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Pass:
    """What the arguments of the model say of its rows."""
    given = {**dict(zip(names, args)), **kwargs}
    ids = given.get("input_ids")
    if ids is None:
        ids = given.get("inputs_embeds")
    if ids is None or ids.ndim < 2:
        raise ArgError("the model was called without input_ids or inputs_embeds of [sequences][tokens]: its rows cannot be told apart")
    batch, tokens = ids.shape[:2]
    cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
    past = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else None
    mask, past, before = _mask(given.get("attention_mask"), past, tokens)
    if mask is not None and len(mask) != batch:
        raise ShapeError(f"attention_mask has {len(mask)} rows, there are {batch} sequences")
    return _Pass(batch, tokens, past, mask, before)


class _Window(NamedTuple):
    """Tokens that are wanted, whatever their sequence."""

    prefill_only: bool
    first: int
    stop: int | None

    @classmethod
    def of(cls, prefill_only: bool, positions: tuple[int, int | None] | None) -> _Window:
        if positions is None:
            return cls(bool(prefill_only), 0, None)
        if len(positions) != 2:
            raise ArgError(f"positions = {positions!r}: give (first, stop), or (first, None) for all from there on")
        first = arrays.int32(positions[0], "positions[0]")
        stop = None if positions[1] is None else arrays.int32(positions[1], "positions[1]")
        if first < 0 or (stop is not None and stop <= first):
            raise ArgError(f"positions = {positions!r} holds no token: they are counted from 0, and stop is the first that is not meant")
        return cls(bool(prefill_only), first, stop)

    @property
    def everywhere(self) -> bool:
        return self.first == 0 and self.stop is None

    def outside(self, positions: Array) -> Array:
        out: Array = positions < self.first
        return out if self.stop is None else out | (positions >= self.stop)


def _select(run: _Pass, window: _Window, slots: Array | None) -> None:
    """Decides which rows are taken, and by which slot; a row that is not is counted under the first reason."""
    if slots is not None and len(slots) != run.batch:
        raise ShapeError(f"slots names {len(slots)} sequences, the batch has {run.batch}: with beams or num_return_sequences repeat them")
    run.taken = run.batch * run.tokens
    live = np.ones((run.batch, run.tokens), bool)

    def drop(why: str, gone: Any) -> None:
        n = int(np.count_nonzero(live & gone))
        if n:
            run.skipped[why] = n
            run.taken -= n
            np.logical_and(live, ~gone, out=live)

    if run.mask is not None:
        drop("padding", ~run.mask)
    if slots is not None:
        drop("slot", np.broadcast_to(slots[:, np.newaxis] < 0, live.shape))
    if window.prefill_only and run.past > 0 and run.tokens == 1:
        drop("decode", np.ones_like(live))
    if not window.everywhere:
        drop("position", window.outside(run.positions()))
    if slots is not None or run.skipped:
        by_row = np.zeros((run.batch, 1), np.int32) if slots is None else slots[:, np.newaxis]
        run.slots = np.where(live, by_row, -1).astype(np.int32).reshape(-1)


def _lent(rows: Tensor) -> Array:
    """The memory of rows as an array; bfloat16 as the bits that hold it. Faster than to let libsae look at the tensor."""
    array: Array = rows.view(torch.int16).numpy().view(np.uint16) if rows.dtype is torch.bfloat16 else rows.numpy()
    return array


# ---- hooks ----


class _Hooks:
    """Hooks on modules of a model, from the making to `remove`."""

    _writes = False

    def __init__(self, model: Module, layers: Mapping[Layer, int], window: _Window, copy: bool) -> None:
        _check_model(model)
        found = {layer: _find(model, layer) for layer in layers}
        names = {layer: name for layer, (name, _) in found.items()}
        if len(set(names.values())) < len(names):
            raise ArgError(f"two of {', '.join(map(repr, names))} are the same module: give its edits in one plan")
        _, hidden = _width(model)
        for layer, (name, is_layer) in found.items():
            _check_place(model.get_submodule(name), name, copy)
            if is_layer and hidden is not None and hidden != layers[layer]:
                raise ShapeError(f"{name} gives rows of {hidden}, but what is attached to it is made for rows of {layers[layer]}")
        self.counts: dict[Layer, Counts] = {layer: Counts() for layer in names}
        self.passes = 0  #: forward passes of the model since
        self._window, self._copy = window, copy
        self._run = threading.local()
        self._lock = threading.Lock()
        self._model = weakref.ref(model)
        owner = _owner(model, list(names.values()))
        self._parameters = list(inspect.signature(owner.forward).parameters)
        self._removers = [
            owner.register_forward_pre_hook(self._begin, with_kwargs=True),
            owner.register_forward_hook(self._end, always_call=True),
        ]
        for layer, name in names.items():
            self._removers.append(self._attach(model.get_submodule(name), layer, name, layers[layer]))

    def _attach(self, module: Module, layer: Layer, name: str, d: int) -> Any:
        def hook(_: Module, args: Any, kwargs: Any, output: Any) -> Any:
            run: _Pass | None = getattr(self._run, "now", None)
            if run is None:
                raise RuntimeError(f"{name} was called outside of its model's forward, where nothing tells sequences and padding")
            x = output[0] if isinstance(output, (tuple, list)) else output
            self._check(x, name, d, run)
            result = self._row_hook(layer, name, x, d, run, (*args, *kwargs.values())) if run.taken else x
            with self._lock:
                self.counts[layer]._add(run)
            if result is x:
                return None
            return type(output)((result, *output[1:])) if isinstance(output, (tuple, list)) else result

        return module.register_forward_hook(hook, with_kwargs=True)

    def _begin(self, _: Module, args: Any, kwargs: Any) -> None:
        run = _inputs(self._parameters, args, kwargs)
        _select(run, self._window, self._slots())
        with self._lock:
            run.number = self.passes
            self.passes += 1
        self._run.now = run

    def _end(self, *_: Any) -> None:
        self._run.now = None

    def _slots(self) -> Array | None:
        return None

    def _row_hook(self, layer: Layer, name: str, x: Tensor, d: int, run: _Pass, inputs: Sequence[Any]) -> Tensor:
        raise NotImplementedError

    def _check(self, x: Any, name: str, d: int, run: _Pass) -> None:
        """One sentence for an output that is not rows."""
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} gives a {type(x).__name__}: a tensor is needed, or a tuple that starts with one")
        if x.shape[-1] != d or x.numel() != run.batch * run.tokens * d:
            want = f"{run.batch} sequences of {run.tokens} rows of {d}"
            raise ShapeError(f"{name} gives shape {tuple(x.shape)}, but {want} are needed here")
        if x.dtype not in _DTYPES:
            raise TypeError(f"{name} gives {x.dtype}: libsae reads float32, bfloat16 and float16, load the model with one of these")
        if x.device.type != "cpu" and not self._copy:
            raise TypeError(_elsewhere(f"the output of {name}", x.device))
        if self._writes and x.requires_grad:
            raise TypeError(f"{name} is run with gradients, which would not know of the edits: use torch.no_grad()")

    def _flat(self, x: Tensor, name: str, d: int) -> tuple[Tensor, bool]:
        """Rows in CPU memory, and whether they are a copy."""
        x = x.detach()
        if x.device.type == "cpu":
            try:
                rows = x.view(-1, d)
            except RuntimeError:
                rows = None
            if rows is not None and rows.stride(1) == 1:
                return rows, False
            if not self._copy:
                raise TypeError(
                    f"{name} gives rows that do not lie evenly, with strides {x.stride()}: give copy=True to copy them and back"
                )
        return x.cpu().reshape(-1, d).contiguous(), True

    def remove(self) -> None:
        """Takes the hooks off. The counts stay."""
        if not self._removers:
            raise ValueError(f"this {type(self).__name__} was removed before: attach a new one")
        removers, self._removers = self._removers, []
        if self._model() is None:
            raise ValueError(
                f"the model of this {type(self).__name__} is gone, and its hooks with it: keep the model until they are removed"
            )
        for remover in removers:
            remover.remove()

    def __exit__(self, *_: object) -> None:
        if self._removers and self._model() is not None:
            self.remove()

    def __repr__(self) -> str:
        per_layer = ", ".join(f"{layer!r}: {c.taken} of {c.rows} rows in {c.calls} calls" for layer, c in self.counts.items())
        return f"<libsae.hf.{type(self).__name__} {per_layer}>"


class Steering(_Hooks):
    """Plans at layers of a model, made by `steer`. `counts[layer]` proves what was edited."""

    _writes = True

    def __init__(self, model: Module, plans: Mapping[Layer, Plan], slots: Any, window: _Window, copy: bool) -> None:
        for layer, plan in plans.items():
            if not isinstance(plan, Plan):
                raise TypeError(f"what is given for layer {layer!r} is a {type(plan).__name__}: give a libsae.Plan")
        if not plans:
            raise ArgError("no layer is named: give {layer: plan}")
        self._plans = dict(plans)
        self.slots = slots
        super().__init__(model, {layer: plan.d for layer, plan in plans.items()}, window, copy)

    @property
    def slots(self) -> Array | None:
        """int32 [sequences]: the slot of each sequence of the batch, -1 leaves it alone; None is slot 0 for all. May be set."""
        return self._by_sequence

    @slots.setter
    def slots(self, slots: Features | None) -> None:
        given = None if slots is None else arrays.ints(slots, "slots").copy()
        n = min(plan.n_slots for plan in self._plans.values())
        if given is not None and given.size and (given.min() < -1 or given.max() >= n):
            raise ArgError(f"slots holds {given.min()} .. {given.max()}: the plans have slots 0 .. {n - 1}, and -1 leaves a sequence alone")
        self._by_sequence = given

    def _slots(self) -> Array | None:
        return self._by_sequence

    def _row_hook(self, layer: Layer, name: str, x: Tensor, d: int, run: _Pass, inputs: Sequence[Any]) -> Tensor:
        if any(isinstance(given, Tensor) and given.data_ptr() == x.data_ptr() for given in inputs):
            x = x.clone()  # a module that hands on what it was given: others read that too
        rows, copied = self._flat(x, name, d)
        self._plans[layer].apply(_lent(rows), run.slots)
        if copied:
            x.detach().copy_(rows.view(x.shape))
        return x

    def __enter__(self) -> Steering:
        return self


class Watch(_Hooks):
    """Codes of the rows that pass a layer, made by `watch`."""

    def __init__(self, model: Module, layer: Layer, sae: Sae, features: Any, window: _Window, copy: bool) -> None:
        if not isinstance(sae, Sae):
            raise TypeError(f"sae is a {type(sae).__name__}: give a libsae.Sae")
        if sae.info["architecture"] == "temporal":
            raise UnsupportedError("the codes of a temporal SAE depend on all rows before, which a step of generate() does not hold")
        self._sae = sae
        self._features = None if features is None else np.unique(arrays.ints(features, "features"))
        if self._features is not None and self._features.size and not 0 <= self._features[0] <= self._features[-1] < sae.info["d_sae"]:
            raise ArgError(f"features holds {self._features[0]} .. {self._features[-1]}: this SAE has 0 .. {sae.info['d_sae'] - 1}")
        self._parts: list[tuple[Any, _Pass]] = []
        super().__init__(model, {layer: sae.info["d_in"]}, window, copy)

    def _row_hook(self, layer: Layer, name: str, x: Tensor, d: int, run: _Pass, inputs: Sequence[Any]) -> Tensor:
        rows, _ = self._flat(x, name, d)
        if run.slots is not None:
            rows = rows[torch.from_numpy(run.slots >= 0)]
        part = self._sae.encode(_lent(rows)) if self._features is None else self._sae.probe(_lent(rows), self._features)
        self._parts.append((part, run))
        return x

    def collect(self) -> Seen:
        """Everything seen so far."""
        parts = list(self._parts)
        passes, sequences, positions = [], [], []
        for _, run in parts:
            taken = slice(None) if run.slots is None else run.slots >= 0
            sequences.append(np.repeat(np.arange(run.batch, dtype=np.int32), run.tokens)[taken])
            positions.append(run.positions().reshape(-1)[taken].astype(np.int32))
            passes.append(np.full(run.taken, run.number, np.int32))
        codes = join([part for part, _ in parts], self._features, self._sae.info["d_sae"])
        return Seen(codes, *(np.concatenate([np.empty(0, np.int32), *a]) for a in (sequences, positions, passes)))

    def clear(self) -> None:
        """Forgets what was seen; the counts stay."""
        self._parts.clear()

    def __enter__(self) -> Watch:
        return self


# ---- what is called ----


def steer(
    model: Module,
    plans: Mapping[Layer, Plan],
    *,
    slots: Features | None = None,
    prefill_only: bool = False,
    positions: tuple[int, int | None] | None = None,
    copy: bool = False,
) -> Steering:
    """Applies a plan to what each of these layers gives, from now on until `remove` or the end of `with`.

      plans         {layer: Plan}: a layer by its number, or a module by its name
      slots         [sequences]: which slot of the plans each sequence of the batch gets, -1 for none; by default slot 0 for all
      prefill_only  leaves steps of one token after others, as generate() makes them, alone
      positions     (first, stop): tokens of a sequence to edit, counted without padding; stop None is to the end. (1, None) spares
                    the first token
      copy          rows of other devices, and rows that do not lie evenly, are moved to the CPU and back; else they are refused

    Keys and values that the model keeps in its cache stay as the steering made them.
    """
    return Steering(model, plans, slots, _Window.of(prefill_only, positions), copy)


def watch(
    model: Module,
    layer: Layer,
    sae: Sae,
    features: Features | None = None,
    *,
    prefill_only: bool = False,
    positions: tuple[int, int | None] | None = None,
    copy: bool = False,
) -> Watch:
    """Collects the codes of what this layer gives, of a few features (costs no encode, see `Sae.probe`) or of all. The model computes what
    it did before, bit for bit. The options are those of `steer`."""
    return Watch(model, layer, sae, features, _Window.of(prefill_only, positions), copy)
