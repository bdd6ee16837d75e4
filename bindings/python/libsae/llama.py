"""llama.cpp, watched and steered while it decodes: from llama-cpp-python, or from any library that exports its C API.

    import libsae.llama

    taps = libsae.llama.Taps({12: plan})                            # layer 12's l_out; or Tap(12, plan=plan, sae=sae, features=[3, 5])
    llm = taps.make(llama_cpp.Llama, model_path="model.gguf")       # the high-level API: its decodes are announced by themselves
    llm("In the morning")
    taps.counts["l_out-12"]                                         # graphs, rows seen, edited and left alone
    taps.collect("l_out-12")                                        # the codes, by token

    params = llama_cpp.llama_context_default_params()               # the low-level API
    taps.hook(params, model)                                        # before the context is made
    with taps.batch(batch):                                         # around every llama_decode
        llama_cpp.llama_decode(context, batch)

llama.cpp calls a function of libsae itself for every node of its graph: no Python runs there. Keys and values that were computed steered
stay so: let a text that is to be steered otherwise begin anew.

Control vectors are additions without a callback: `control_vectors`, `set_control_vectors`, `save_control_vectors`, `load_control_vectors`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ctypes import byref, sizeof
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Union

import numpy as np

from . import _abi
from . import _arrays as arrays
from ._arrays import Array, Features
from ._control import control_vectors, load_control_vectors, save_control_vectors
from ._handle import Handle
from ._lib import call, create, lib, struct
from ._seen import join
from .codes import Codes
from .env import Env
from .errors import ArgError, BusyError, ShapeError, UnsupportedError, VersionError
from .model import Sae
from .plan import Plan

__all__ = [
    "Counts",
    "Rows",
    "Seen",
    "Tap",
    "Taps",
    "control_vectors",
    "load_control_vectors",
    "save_control_vectors",
    "set_control_vectors",
]


@dataclass(frozen=True, eq=False)
class Tap:
    """A tensor of the graph and what is done with its rows: codes of `features` of `sae` are read (None: of all, by an encode after each
    decode), then `plan` edits them.

    name    "l_out" is the residual stream after block `layer`, "attn_out" and "ffn_out" what its halves add; "embd", with layer -1, the
            embeddings. Other names are those of the model's graph
    """

    layer: int
    plan: Plan | None = None
    sae: Sae | None = None
    features: Features | None = None
    name: str = "l_out"

    @property
    def tensor(self) -> str:
        """The tensor's name in the graph: "l_out-12"."""
        return self.name if self.layer < 0 else f"{self.name}-{self.layer}"


class Counts(NamedTuple):
    """What happened at a tap."""

    graphs: int  #: that held its tensor
    rows: int  #: of the tensor in all
    edited: int  #: of them, by the plan
    left: int  #: with slot -1


class Rows(NamedTuple):
    """The rows of a decode, each a token of a sequence."""

    n: int
    positions: Array | None  #: int32 [n]
    sequences: Array | None  #: int32 [n]; None is one sequence
    outputs: Array | None  #: int8 [n]: whose logits are wanted; None is the last row's alone


class Seen(NamedTuple):
    """What a tap has collected: a row for each that its tensor held, in the order of the decodes."""

    codes: Codes  #: of the features asked for, or of all
    sequences: Array  #: int32 [n_rows]
    positions: Array  #: int32 [n_rows], -1 where the batch did not say
    decodes: Array  #: int32 [n_rows]: which decode, from 0


#: The slot of all rows, of each row, or a function of the Rows that gives one of these. -1 leaves a row alone.
Slots = Union[int, Features, Callable[[Rows], Any]]


# ---- the engine's library ----


def _module() -> Any:
    try:
        import llama_cpp
    except ImportError as error:
        raise ImportError(
            "llama_cpp is not installed: pip install llama-cpp-python, or give the library that holds llama.cpp as library="
        ) from error
    return llama_cpp


class _Engine:
    """A loaded llama.cpp. Functions are declared apart from those that the owner of the library declared."""

    def __init__(self, library: Any) -> None:
        given = _module() if library is None else library
        inner = getattr(given, "llama_cpp", given)  # the package's module of the C API
        cdll = getattr(inner, "_lib", inner)
        if isinstance(cdll, (str, os.PathLike)):
            cdll = ctypes.CDLL(os.fspath(cdll))
        if not isinstance(cdll, ctypes.CDLL):
            raise TypeError(f"library is a {type(library).__name__}: give the module llama_cpp, a ctypes.CDLL, or the path of a library")
        self.cdll = cdll
        self._checked: set[type] = set()

    def function(self, name: str, result: Any, *arguments: Any) -> Any:
        if not hasattr(self.cdll, name):
            raise UnsupportedError(f"the engine's library has no {name}: give the library that exports llama.cpp's C API")
        return ctypes.CFUNCTYPE(result, *arguments)((name, self.cdll))

    def integer(self, name: str, address: int) -> int:
        return int(self.function(name, ctypes.c_int32, ctypes.c_void_p)(address))

    def version(self) -> str:
        parts = []
        for what in ("llama", "ggml"):
            if hasattr(self.cdll, f"{what}_version"):
                text = self.function(f"{what}_version", ctypes.c_char_p)()
                parts.append(f"{what} {text.decode('utf-8', 'replace')}")
        return " with ".join(parts) or "llama.cpp of an unknown version"

    def check(self, kind: type) -> None:
        """Does this declaration of llama_context_params belong to the library? Its layout changes from week to week."""
        if kind in self._checked:
            return

        class Roomy(ctypes.Structure):  # the library may know more fields than the package
            _fields_ = (("params", kind), ("more", ctypes.c_char * 1024))

        got = self.function("llama_context_default_params", Roomy)().params
        wanted = {"cb_eval": None, "cb_eval_user_data": None, "type_k": 1, "type_v": 1, "abort_callback": None, "offload_kqv": True}
        for name, value in wanted.items():
            found = getattr(got, name, value)
            if value is None:
                found = ctypes.cast(found, ctypes.c_void_p).value if found is not None else None
            if found != value:
                raise VersionError(
                    f"{_package(kind)} declares llama_context_params of {ctypes.sizeof(kind)} bytes, but the loaded library is "
                    f"{self.version()}, whose default {name} comes as {found!r} there: install a package and a library of one version"
                )
        self._checked.add(kind)


def _package(kind: type) -> str:
    """The package that declares a structure, with its version."""
    name = kind.__module__.partition(".")[0]
    version = getattr(sys.modules.get(name), "__version__", None)
    return f"{name} {version}" if version else f"{name} (of an unknown version)"


def _address(pointer: Any, name: str) -> int:
    """Of a ctypes pointer or a number."""
    value = pointer if isinstance(pointer, int) else ctypes.cast(pointer, ctypes.c_void_p).value
    if not value:
        raise ArgError(f"the {name} is NULL: was it made?")
    return value


# ---- rows of a decode ----


def _array(pointer: Any, n: int, dtype: Any) -> Array | None:
    """A copy of n numbers that the batch points to."""
    if not pointer:
        return None
    size = n * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(ctypes.cast(pointer, ctypes.c_void_p).value or 0, size), dtype)


def _rows_of(batch: Any) -> Rows:
    """Of a llama_batch, or of a number of rows."""
    if isinstance(batch, (int, np.integer)):
        return Rows(int(batch), None, None, None)
    inner = getattr(batch, "batch", batch)  # the package's own class around it
    if not hasattr(inner, "n_tokens"):
        raise TypeError(f"batch is a {type(batch).__name__}: give a llama_batch, or a number of rows and their arrays")
    n = int(inner.n_tokens)
    sequences = np.fromiter((inner.seq_id[i][0] for i in range(n)), np.int32, n) if inner.seq_id else None
    return Rows(n, _array(inner.pos, n, np.int32), sequences, _array(inner.logits, n, np.int8))


def _given(value: Any, n: int, dtype: Any, name: str) -> Array | None:
    if value is None:
        return None
    out = np.ascontiguousarray(value, dtype)
    if out.shape != (n,):
        raise ShapeError(f"{name} has shape {out.shape}, the batch has {n} rows")
    return out


# ---- what a tap reads ----


class _Reader:
    """Codes of the rows at one tap: of features by a probe as they come, of all by an encode after the decode."""

    def __init__(self, tap: Tap, max_rows: int, to: Any, stack: ExitStack) -> None:
        assert tap.sae is not None
        self._sae = tap.sae
        self._d = int(tap.sae.info["d_in"])
        self._features = None if tap.features is None else np.unique(arrays.ints(tap.features, "features"))
        self._parts: list[tuple[Any, Rows, Array, int]] = []
        self.handles: list[Handle] = []
        to.max_rows = max_rows
        if self._features is None:
            self._buffer = np.empty((max_rows, self._d), np.float32)
            to.rows, to.d = arrays.address(self._buffer), self._d
            return
        if not self._features.size:
            raise ArgError(f"{tap.tensor}: features is empty: name some, or give None for all")
        self._buffer = np.empty((max_rows, len(self._features)), np.float32)
        with tap.sae._model as model:
            options = struct(_abi.sae_ctx_options)
            probe = create(lib.sae_probe_create, model, arrays.address(self._features), len(self._features))
            self.handles.append(Handle(probe, lib.sae_probe_free, "Taps", [tap.sae._model]))
            stack.callback(self.handles[-1].close)  # the taps hold it then
            ctx = create(lib.sae_ctx_create, model, byref(options))
            self.handles.append(Handle(ctx, lib.sae_ctx_free, "Taps", [tap.sae._model]))
            stack.callback(self.handles[-1].close)
        to.codes, to.probe, to.ctx = arrays.address(self._buffer), *(stack.enter_context(h) for h in self.handles)

    def begin(self, n: int) -> None:
        self._buffer[:n].view(np.uint32)[:] = 0xFFFFFFFF  # NaN in every type: what stays so has not come

    def end(self, rows: Rows, decode: int, dtype: int) -> None:
        narrow = self._features is None and dtype in (_abi.SAE_F16, _abi.SAE_BF16)
        if narrow:
            kind = np.float16 if dtype == _abi.SAE_F16 else np.uint16
            got = self._buffer.view(kind).reshape(-1)[: rows.n * self._d].reshape(rows.n, self._d)
            here = np.flatnonzero((got.view(np.uint16) != 0xFFFF).any(axis=1))
        else:
            got = self._buffer[: rows.n]
            here = np.flatnonzero((got.view(np.uint32) != 0xFFFFFFFF).any(axis=1))
        taken = np.ascontiguousarray(got[here])
        self._parts.append((taken if self._features is not None else self._sae.encode(taken), rows, here, decode))

    def collect(self) -> Seen:
        def each(of: Callable[[Rows, Array, int], Any]) -> Array:
            return np.concatenate([np.empty(0, np.int32), *(of(rows, here, decode) for _, rows, here, decode in self._parts)])

        def chosen(given: Array | None, here: Array, otherwise: int) -> Array:
            return np.full(len(here), otherwise, np.int32) if given is None else given[here]

        codes = join([part for part, *_ in self._parts], self._features, self._sae.info["d_sae"])
        return Seen(
            codes,
            each(lambda rows, here, _: chosen(rows.sequences, here, 0)),
            each(lambda rows, here, _: chosen(rows.positions, here, -1)),
            each(lambda _, here, decode: np.full(len(here), decode, np.int32)),
        )

    def clear(self) -> None:
        self._parts.clear()


# ---- taps ----

_lock = threading.Lock()
#: What contexts may still call: a callback whose memory is gone would end the process, so that it is kept.
_kept: list[Handle] = []


@dataclass
class _Open:
    """A decode that has been announced. The arrays must stay."""

    rows: Rows
    slots: Array | None


class Taps:
    """Taps at tensors of one llama.cpp context.

    taps      {layer: Plan}, or Taps
    library   the module llama_cpp (the default, where it is installed), a ctypes.CDLL that exports llama.cpp's C API, or its path
    slots     the slot of every row: a number, -1 for none; or a function of the Rows of a decode that gives a number or one for each row
    max_rows  of one decode, where codes are read: n_batch of the context
    strict    False: what goes wrong is a warning, and the text goes on unsteered from there; True: it is an error before a token is chosen
    """

    def __init__(
        self,
        taps: Mapping[int, Plan] | Iterable[Tap],
        library: Any = None,
        *,
        slots: Slots = 0,
        max_rows: int = 2048,
        strict: bool = True,
        env: Env | None = None,
    ) -> None:
        listed = [Tap(layer, plan=plan) for layer, plan in taps.items()] if isinstance(taps, Mapping) else list(taps)
        _check_taps(listed)
        self._taps = {tap.tensor: tap for tap in listed}
        self._engine = _Engine(library)
        self._strict = bool(strict)
        self._n_layer: int | None = None
        self._params: Any = None
        self._llama: Any = None
        self._decodes = 0
        self._readers: dict[str, _Reader] = {}
        self._slots: Slots = slots
        rows = arrays.int32(max_rows, "max_rows")
        if rows < 1:
            raise ArgError(f"max_rows = {rows}: give the n_batch of the context")
        with ExitStack() as stack:
            self._handle = self._create(listed, rows, env, stack)
        self._hooked = False
        self._last: dict[str, Any] = {}
        self._finalizer = weakref.finalize(self, self._handle.close)

    def _create(self, listed: list[Tap], max_rows: int, env: Env | None, stack: ExitStack) -> Handle:
        array = (_abi.sae_tap * len(listed))()
        parents: list[Handle] = []
        for to, tap in zip(array, listed):
            name = tap.name.encode()
            to.struct_size, to.layer, to.name = sizeof(_abi.sae_tap), arrays.int32(tap.layer, "layer"), name
            if tap.plan is not None:
                to.plan = stack.enter_context(tap.plan._handle)
                parents.append(tap.plan._handle)
            if tap.sae is not None:
                self._readers[tap.tensor] = _Reader(tap, max_rows, to, stack)
                parents += [tap.sae._model, *self._readers[tap.tensor].handles]
        given = env
        env = Env() if given is None else given
        if given is None:
            stack.callback(env.close)  # the taps hold it then
        symbol = ctypes.cast(ctypes.CDLL(None).dlsym, _abi.sae_symbol_fn)
        with env._handle as e:
            self._user_data = create(lib.sae_taps_create, e, symbol, self._engine.cdll._handle, array, len(listed))
        return Handle(self._user_data, lib.sae_taps_free, "Taps", [*parents, env._handle], keep=self._readers)

    # ---- attaching ----

    @property
    def callback(self) -> int:
        """The address for `cb_eval`, for bindings other than ctypes."""
        return ctypes.cast(lib.sae_taps_eval, ctypes.c_void_p).value or 0

    @property
    def user_data(self) -> int:
        """The address for `cb_eval_user_data`, which goes with `callback`. Taking it counts as `hook`."""
        self._keep()
        return self._user_data

    def _keep(self) -> None:
        with self._handle:
            if not self._hooked:
                self._hooked = True
                self._handle._share()
                _kept.append(self._handle)

    def hook(self, params: Any, model: Any = None) -> None:
        """Sets the callback in a `llama_context_params`, a ctypes structure, before a context is made of it. `model` is the llama_model
        that it will be made of; without it `for_model` must be called before the first decode."""
        if self._params is not None:
            raise ArgError("these Taps are hooked to a context already: each context needs Taps of its own")
        kind = type(params)
        fields = dict(getattr(kind, "_fields_", ()))
        if not {"cb_eval", "cb_eval_user_data"} <= fields.keys():
            raise TypeError(f"params is a {kind.__name__}: give a ctypes llama_context_params, or set callback and user_data by yourself")
        self._engine.check(kind)
        if model is not None:
            self.for_model(model)
        params.cb_eval = ctypes.cast(self.callback, fields["cb_eval"])
        params.cb_eval_user_data = self.user_data
        self._params = params

    def for_model(self, model: Any) -> None:
        """Says which llama_model the context is made of (a pointer), and checks that the taps fit it."""
        address = _address(model, "model")
        layers = self._engine.integer("llama_model_n_layer", address)
        width = self._engine.integer("llama_model_n_embd", address)
        for name, tap in self._taps.items():
            if not -1 <= tap.layer < layers:
                raise ArgError(f"{name}: the model has layers 0 .. {layers - 1}")
            d = tap.plan.d if tap.plan is not None else tap.sae.info["d_in"]  # type: ignore[union-attr]
            if tap.name in ("l_out", "attn_out", "ffn_out", "embd") and d != width:
                raise ShapeError(f"{name}: the model has rows of {width} elements, the tap's plan and SAE are for {d}")
        self._n_layer = layers

    def make(self, maker: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`maker(*args, **kwargs)`, a llama_cpp.Llama, with these taps in its context: its decodes are announced by themselves."""
        module = _api_of(maker)
        if self._params is not None:
            raise ArgError("these Taps are hooked to a context already: each context needs Taps of its own")
        try:
            with _lock:
                original = module.llama_context_default_params
                module.llama_context_default_params = lambda: self._default(original)
                try:
                    made = maker(*args, **kwargs)
                finally:
                    module.llama_context_default_params = original
        except BaseException:
            self._params = None
            raise
        if self._params is None:
            raise UnsupportedError(f"{maker.__name__} asked for no llama_context_default_params: use hook and batch")
        self.for_model(made._model.model)
        context, self._llama = made._ctx, weakref.ref(made)
        decode = context.decode

        def announced(batch: Any) -> Any:
            with self.batch(batch):
                return decode(batch)

        context.decode = announced
        return made

    def _default(self, original: Callable[[], Any]) -> Any:
        params = original()
        if self._params is None:
            self.hook(params)
        return params

    # ---- decoding ----

    @property
    def slots(self) -> Slots:
        """The slot of every row of the decodes to come. Setting it lets a Llama made here forget the text it has computed, whose keys and
        values are steered as it was."""
        return self._slots

    @slots.setter
    def slots(self, slots: Slots) -> None:
        self._slots = slots
        made = self._llama() if self._llama is not None else None
        if made is not None:
            made.reset()

    @contextmanager
    def batch(
        self,
        batch: Any,
        *,
        slots: Slots | None = None,
        positions: Features | None = None,
        sequences: Features | None = None,
        outputs: Features | None = None,
        unified: bool | None = None,
        n_layer: int | None = None,
    ) -> Iterator[None]:
        """Around a llama_decode of this llama_batch, or of so many rows. What the batch says need not be said again.

        slots      in place of those of the Taps
        positions, sequences, outputs   [n]: what a llama_batch holds, where only the number of rows is given
        unified    the context's kv_unified, where the Taps were not hooked by `hook`
        n_layer    of the model, where `for_model` was not called
        """
        rows = _rows_of(batch)
        said = {"positions": (positions, np.int32), "sequences": (sequences, np.int32), "outputs": (outputs, np.int8)}
        rows = rows._replace(**{k: _given(v, rows.n, dtype, k) for k, (v, dtype) in said.items() if v is not None})
        now = _Open(rows, self._by_row(rows, self._slots if slots is None else slots))
        announced = self._begin(now, unified, n_layer)
        try:
            yield
        except BaseException:
            if announced:
                self._end(now, quiet=True)
            raise
        if announced:
            self._end(now)

    def _by_row(self, rows: Rows, slots: Slots) -> Array | None:
        if callable(slots):
            slots = slots(rows)
        if isinstance(slots, (int, np.integer)):
            return None if slots == 0 else np.full(rows.n, slots, np.int32)
        return _given(slots, rows.n, np.int32, "slots")

    def _begin(self, now: _Open, unified: bool | None, n_layer: int | None) -> bool:
        layers = self._n_layer if n_layer is None else arrays.int32(n_layer, "n_layer")
        if layers is None:
            raise ArgError("the model is not known: call for_model, or give n_layer")
        if unified is None:
            unified = bool(getattr(self._params, "kv_unified", False))
        to = struct(_abi.sae_taps_batch, n_layer=layers, n_rows=now.rows.n, unified=_abi.SAE_YES if unified else _abi.SAE_NO)
        for name, array in (("slot", now.slots), ("seq", now.rows.sequences), ("output", now.rows.outputs)):
            if array is not None:
                setattr(to, name, arrays.address(array))
        try:
            with self._handle as taps:
                call(lib.sae_taps_begin, taps, byref(to))
        except BusyError:
            raise
        except Exception as error:
            with self._handle as taps:
                lib.sae_taps_end(taps, None)
            return self._failed(error)
        for reader in self._readers.values():
            reader.begin(now.rows.n)
        return True

    def _end(self, now: _Open, quiet: bool = False) -> None:
        try:
            with self._handle as taps:
                call(lib.sae_taps_end, taps)
            if not quiet:
                for name, reader in self._readers.items():
                    reader.end(now.rows, self._decodes, self._count(name).dtype)
        except Exception as error:
            if not quiet:
                self._failed(error)
        self._decodes += 1

    def _failed(self, error: Exception) -> bool:
        if self._strict:
            raise error
        warnings.warn(f"not steered as asked: {error}", RuntimeWarning, stacklevel=5)
        return False

    # ---- what happened ----

    def _count(self, tensor: str) -> Any:
        if tensor in self._last:
            return self._last[tensor]
        out = struct(_abi.sae_tap_counts)
        with self._handle.held() if self._hooked else self._handle as taps:  # they stay after a close
            lib.sae_taps_count(taps, list(self._taps).index(tensor), byref(out))
        return out

    @property
    def counts(self) -> dict[str, Counts]:
        """By the tensor's name, over all decodes."""
        found = {name: self._count(name) for name in self._taps}
        return {name: Counts(c.hits, c.rows_seen, c.rows_edited, c.rows_left) for name, c in found.items()}

    @property
    def asks(self) -> int:
        """How often llama.cpp has called, once for each node of its graphs. 0 after a decode: the context has no callback."""
        return int(self._count(next(iter(self._taps))).asks)

    @property
    def unannounced(self) -> int:
        """Tensors that came by outside of `batch`, as in a warm-up. They were left alone."""
        return int(self._count(next(iter(self._taps))).unannounced)

    def collect(self, tensor: str) -> Seen:
        """The codes that a Tap with a `sae` has read so far, by its tensor's name."""
        if tensor not in self._readers:
            known = ", ".join(map(repr, self._readers)) or "none"
            raise ArgError(f"{tensor!r} is no tap whose codes are read: {known}")
        return self._readers[tensor].collect()

    def clear(self) -> None:
        """Forgets the codes; the counts stay."""
        for reader in self._readers.values():
            reader.clear()

    def close(self, freed: bool = False) -> None:
        """No decode can be announced any more; the counts stay. `freed` says that the context is freed, and so is all memory then. Without
        it the context may go on, unsteered: what its callback needs is kept."""
        if freed and self._hooked:
            self._last = {name: self._count(name) for name in self._taps}
            self._hooked = False
            _kept.remove(self._handle)
            self._handle.__exit__()
        self._finalizer()

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<libsae.llama.Taps at {', '.join(self._taps)}>"


def _check_taps(listed: list[Tap]) -> None:
    if not listed:
        raise ArgError("no tensor is tapped: give {layer: plan}, or Taps")
    for tap in listed:
        if not isinstance(tap, Tap):
            raise TypeError(f"taps holds a {type(tap).__name__}: give {{layer: plan}}, or Taps")
        for name, value, kind in (("plan", tap.plan, Plan), ("sae", tap.sae, Sae)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{tap.tensor}: {name} is a {type(value).__name__}, give a libsae.{kind.__name__}")
        if tap.plan is None and tap.sae is None:
            raise ArgError(f"{tap.tensor} has neither a plan nor a sae: nothing would be done")
        if tap.features is not None and tap.sae is None:
            raise ArgError(f"{tap.tensor} names features, but no sae that has them")
        if tap.sae is not None and tap.sae.info["architecture"] == "temporal":
            raise UnsupportedError(f"{tap.tensor}: the codes of a temporal SAE depend on all rows before, which a decode does not hold")
    if len({tap.tensor for tap in listed}) < len(listed):
        raise ArgError("two taps are at one tensor: give its edits in one plan, and its features in one list")


def _api_of(maker: Any) -> Any:
    """The module whose llama_context_default_params a Llama class calls."""
    owner = maker if isinstance(maker, type) else getattr(maker, "__self__", None)
    for base in getattr(owner, "__mro__", ()):
        module = getattr(sys.modules.get(base.__module__), "llama_cpp", None)
        if hasattr(module, "llama_context_default_params"):
            return module
    raise TypeError(f"{maker!r} is no class of llama-cpp-python: give llama_cpp.Llama, or use hook and batch")


def set_control_vectors(context: Any, plans: Mapping[int, Plan], n_layer: int, library: Any = None) -> None:
    """Gives a llama_context (a pointer) these additive plans as control vectors, in place of those it had; {} takes them away. They reach
    all rows of all sequences from now on, at no cost per token."""
    engine = _Engine(library)
    vectors = control_vectors(plans, n_layer) if plans else np.empty((0, 0), np.float32)
    names = ("llama_set_adapter_cvec", "llama_apply_adapter_cvec", "llama_control_vector_apply")  # of 2026, 2025, 2024
    name = next((n for n in names if hasattr(engine.cdll, n)), names[0])
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32)
    function = engine.function(name, ctypes.c_int32, *kinds)
    data = arrays.address(vectors) if plans else None
    status = function(_address(context, "context"), data, vectors.size, vectors.shape[1], 1, n_layer - 1)
    if status:
        raise ShapeError(f"{name} gives {status}: the model takes no vectors of {vectors.shape[1]} elements")
