"""SAEs: opening, encoding, decoding, probing, measuring, neighbours."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from ctypes import byref
from typing import Any, Literal, NamedTuple, Union

import numpy as np

from . import _abi
from . import _arrays as arrays
from ._arrays import Array, Features, Rows
from ._handle import Handle
from ._lib import call, create, lib, struct
from .codes import Codes
from .env import Env, constant
from .errors import ArgError, CapacityError, IoError, NotFoundError, ShapeError, from_status

Side = Literal["decoder", "encoder"]
Form = Literal["rows", "panels", "screen"]
Prepare = Union[bool, Form, Iterable[Form], None]

_ARCHITECTURES = {
    "standard": _abi.SAE_STANDARD,
    "jumprelu": _abi.SAE_JUMPRELU,
    "topk": _abi.SAE_TOPK,
    "gated": _abi.SAE_GATED,
    "abstopk": _abi.SAE_ABSTOPK,
    "groupmax": _abi.SAE_GROUPMAX,
    "matching_pursuit": _abi.SAE_MATCHING_PURSUIT,
}
_NORMS = {
    "none": _abi.SAE_NORM_NONE,
    "expected_average_only_in": _abi.SAE_NORM_SCALE,
    "constant_norm_rescale": _abi.SAE_NORM_CONSTANT,
    "layer_norm": _abi.SAE_NORM_LAYER,
}
_SIDES = {"decoder": _abi.SAE_BY_DECODER, "encoder": _abi.SAE_BY_ENCODER}
_MEASURES = {"cosine": _abi.SAE_COSINE, "angle": _abi.SAE_ANGLE, "l2": _abi.SAE_L2}
_FORMS: dict[Form, int] = {
    "rows": _abi.SAE_PREPARE_ROWS,
    "panels": _abi.SAE_PREPARE_PANELS,
    "screen": _abi.SAE_PREPARE_SCREEN,
}
_DTYPES = {"f32": _abi.SAE_F32, "f16": _abi.SAE_F16, "bf16": _abi.SAE_BF16}
_TENSORS = {
    "W_enc": _abi.SAE_W_ENC,
    "W_dec": _abi.SAE_W_DEC,
    "b_enc": _abi.SAE_B_ENC,
    "b_dec": _abi.SAE_B_DEC,
    "threshold": _abi.SAE_THRESHOLD,
    "W_skip": _abi.SAE_W_SKIP,
}
_PROBES = 8  # probes that a Sae remembers
_SEQUENCE, _LONGEST = 1024, 65536  # rows of a temporal SAE that a context has room for, at first and at most


class Info(Mapping[str, Any]):
    """What an SAE is, by name; the names are those of SAELens' cfg.json and of the tool `sae info --json`."""

    def __init__(self, items: dict[str, Any]) -> None:
        self._items = items

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Info({self._items!r})"


class Memory(NamedTuple):
    """What the forms of an SAE take, or would take, in bytes."""

    mapped_bytes: int  #: file mapping: page cache, shared, reclaimable
    vectors_bytes: int  #: biases, thresholds, copied or read weights
    rows_bytes: int  #: of the form "rows", built or not; 0 where the stored layout already is it
    panels_bytes: int  #: of the form "panels", built or not
    prepared: tuple[str, ...]  #: the forms that are built
    screen_bytes: int  #: of the form "screen", built or not; 0 for an SAE that cannot be screened
    screen_stored_bytes: int  #: of it in the file, which holds it: counted in mapped_bytes already


class Measure(NamedTuple):
    """How well codes explain rows."""

    error: Array  #: float32 [n_rows], squared L2 error of each row
    fvu: float  #: fraction of variance unexplained over these rows; NaN when they do not vary


class Neighbors(NamedTuple):
    """Nearest features."""

    features: Array  #: int32 [n], nearest first
    cosines: Array  #: float32 [n]


def _yes_no(value: bool | None) -> int:
    return _abi.SAE_DEFAULT if value is None else _abi.SAE_YES if value else _abi.SAE_NO


def _size(value: int | None, name: str) -> int:
    """An optional size; None is what the file says, and so is the 0 of the C structure."""
    if value is None:
        return 0
    number = arrays.int32(value, name)
    if number == 0:
        raise ArgError(f"{name} = 0: give a size, or None for what the file says")
    return number


def _text(value: str | None, name: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise ArgError(f"{name} = {value!r} is not a name")
    return value.encode()


def _path(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ArgError(f"the path {path!r} holds a NUL character")
    return name


def _env(env: Env | None, threads: int, isa: str) -> tuple[Env, bool]:
    """The env to use, and whether it was made here."""
    if env is None:
        return Env(threads, isa), True
    if threads != 1 or isa != "auto":
        raise TypeError("give env, or threads and isa, not both")
    return env, False


def _made(model: int, env: Env, own: bool, keep: Any, prepare: Prepare, check: bool) -> Sae:
    """The Sae of a new C model; closed again if preparing or checking fails."""
    sae = Sae._wrap(model, env, own, keep)
    try:
        if prepare:
            sae.prepare(*([] if prepare is True else [prepare] if isinstance(prepare, str) else prepare))
        if check:
            sae.check()
    except BaseException:
        sae.close()
        raise
    return sae


def open(
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    k: int | None = None,
    apply_b_dec_to_input: bool | None = None,
    apply_b_dec: bool | None = None,
    normalize_activations: str | None = None,
    norm_scaling_factor: float | None = None,
    layer: str | int | None = None,
    d_in: int | None = None,
    d_out: int | None = None,
    copy: bool = False,
    check: bool | None = None,
    threads: int = 1,
    isa: str = "auto",
    prepare: Prepare = None,
    env: Env | None = None,
) -> Sae:
    """Opens a published SAE of any format that docs/formats.md lists: its folder, or the file of its weights.

    What the file does not say, or says wrongly:
      architecture           "standard", "jumprelu", "topk", "gated", ...
      k                      active features of a top-k SAE
      apply_b_dec_to_input   subtract b_dec from the rows first (`apply_b_dec` is the same, as the C library calls it)
      normalize_activations  "none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"
      norm_scaling_factor    the factor of "expected_average_only_in", which cfg.json does not carry
      layer                  which SAE of a folder that holds several: 12, "12", or the name of its file or folder
      d_in, d_out            expected sizes: a file that differs is refused (ShapeError)

    How it is opened:
      copy     read the file into memory instead of mapping it
      check    True: refuse non-finite values in every weight; False: not even in the vectors and in files <= 64 MiB
      prepare  forms to build at once, as Sae.prepare: "rows", "panels", "screen", or True for the first two
      threads, isa  as Env; or an `env` that several SAEs share

    Raises NotFoundError, IoError, FormatError, ShapeError, UnsupportedError, ArgError, NoMemError.
    """
    if apply_b_dec is not None and apply_b_dec_to_input is not None and bool(apply_b_dec) != bool(apply_b_dec_to_input):
        raise TypeError("apply_b_dec_to_input and apply_b_dec are one option, and they differ")
    name = _path(path)
    factor = 0.0 if norm_scaling_factor is None else float(norm_scaling_factor)
    if norm_scaling_factor is not None and factor == 0.0:
        raise ArgError("norm_scaling_factor = 0: give a factor above 0, or None for what the file says")
    options = struct(
        _abi.sae_open_options,
        k=_size(k, "k"),
        d_in=_size(d_in, "d_in"),
        d_out=_size(d_out, "d_out"),
        architecture=_text(architecture, "architecture"),
        normalize_activations=_text(normalize_activations, "normalize_activations"),
        layer=_text(str(layer) if isinstance(layer, int) else layer, "layer"),
        apply_b_dec=_yes_no(apply_b_dec if apply_b_dec_to_input is None else apply_b_dec_to_input),
        norm_scaling_factor=factor,
        copy=_abi.SAE_YES if copy else _abi.SAE_DEFAULT,
        check=_yes_no(check),
    )
    use, own = _env(env, threads, isa)
    try:
        with use._handle as e:
            model = create(lib.sae_model_open, e, name, byref(options))
    except BaseException as error:
        if own:
            use.close()
        if isinstance(error, IoError) and not os.path.lexists(path):
            raise NotFoundError(str(error)) from None
        raise
    return _made(model, use, own, None, prepare, check=False)


def _skip(W_skip: Rows, shape: tuple[int, int], dtype: int) -> Array:
    w, has, transposed = arrays.matrix(W_skip, shape, "W_skip")
    if has != dtype or transposed:
        raise TypeError(f"W_skip is {w.dtype.name} with strides {w.strides}: it must be of the type of W_dec, and contiguous by output")
    return w


def from_weights(
    W_enc: Rows | None,
    W_dec: Rows,
    b_enc: Rows | None = None,
    b_dec: Rows | None = None,
    *,
    architecture: str = "standard",
    k: int | None = None,
    threshold: Rows | None = None,
    b_gate: Rows | None = None,
    b_mag: Rows | None = None,
    r_mag: Rows | None = None,
    apply_b_dec_to_input: bool = False,
    normalize_activations: str = "none",
    norm_scaling_factor: float | None = None,
    rescale_by_decoder_norm: bool = False,
    W_skip: Rows | None = None,
    keep_negative: bool = False,
    norm_in_only: bool = False,
    return_unscaled: bool = False,
    stop_on_repeat: bool = False,
    residual_threshold: float = 0.0,
    copy: bool = False,
    check: bool = False,
    threads: int = 1,
    isa: str = "auto",
    prepare: Prepare = None,
    env: Env | None = None,
) -> Sae:
    """An SAE from arrays or CPU tensors.

      W_enc  [d_in][d_sae], W_dec [d_sae][d_out]: float32, float16 or bfloat16, both alike; contiguous as they are or
             transposed (`linear.weight.T` is fine). They are not copied unless `copy`: they stay yours, are kept alive by
             the Sae, and must not be changed while it is used. W_enc is None for a matching pursuit, whose dictionary is W_dec.
      W_skip [d_out][d_in], of the same type, as SAELens stores it: forward() adds x @ W_skip.T to decoded rows.
      b_enc, threshold (jumprelu), b_gate, b_mag, r_mag (gated)  [d_sae]; b_dec [d_out]: always copied; None is 0.

    `keep_negative`: jumprelu and topk without relu; `return_unscaled`: with `rescale_by_decoder_norm`, codes are h itself;
    `norm_in_only`: decoded rows stay normalised; `residual_threshold`, `stop_on_repeat`: when a matching pursuit is done
    before its k rounds (None: d_in). `check` refuses non-finite weights. The other options are those of `open`.
    """
    tied = constant(_ARCHITECTURES, architecture, "architecture") == _abi.SAE_MATCHING_PURSUIT
    if tied != (W_enc is None):
        raise ArgError("a matching pursuit has no W_enc: give None" if tied else f"W_enc is None, a {architecture} SAE needs it")
    w_enc, dtype, enc_by_rows = arrays.matrix(W_dec if W_enc is None else W_enc, (None, None), "W_dec" if tied else "W_enc")
    d_in, d_sae = (w_enc.shape[1], w_enc.shape[0]) if tied else w_enc.shape
    w_dec, dec_dtype, dec_by_cols = arrays.matrix(W_dec, (d_sae, None), "W_dec")
    d_out = w_dec.shape[1]
    if dec_dtype != dtype:
        raise TypeError(f"W_enc is {w_enc.dtype.name} and W_dec is {w_dec.dtype.name}: both must have one type")
    w_skip = None if W_skip is None else _skip(W_skip, (d_out, d_in), dtype)
    flags = 0 if copy else _abi.SAE_BORROW
    for flag, wanted in (
        (_abi.SAE_W_ENC_BY_ROWS, enc_by_rows),
        (_abi.SAE_W_DEC_BY_COLS, dec_by_cols),
        (_abi.SAE_APPLY_B_DEC, apply_b_dec_to_input),
        (_abi.SAE_RESCALE_BY_DECODER_NORM, rescale_by_decoder_norm),
        (_abi.SAE_KEEP_NEGATIVE, keep_negative),
        (_abi.SAE_NORM_IN_ONLY, norm_in_only),
        (_abi.SAE_RETURN_UNSCALED, return_unscaled),
        (_abi.SAE_STOP_ON_REPEAT, stop_on_repeat),
    ):
        flags |= flag if wanted else 0
    given = {
        "b_enc": (b_enc, d_sae),
        "b_dec": (b_dec, d_out),
        "threshold": (threshold, d_sae),
        "b_gate": (b_gate, d_sae),
        "b_mag": (b_mag, d_sae),
        "r_mag": (r_mag, d_sae),
    }
    vectors = {name: arrays.vector(v, d, name) for name, (v, d) in given.items() if v is not None}
    weights = struct(
        _abi.sae_weights,
        arch=constant(_ARCHITECTURES, architecture, "architecture"),
        dtype=dtype,
        flags=flags,
        d_in=arrays.int32(d_in, "d_in"),
        d_sae=arrays.int32(d_sae, "d_sae"),
        d_out=arrays.int32(d_out, "d_out"),
        k=0 if k is None else arrays.int32(k, "k"),
        norm=constant(_NORMS, normalize_activations, "normalize_activations"),
        norm_scaling_factor=0.0 if norm_scaling_factor is None else float(norm_scaling_factor),
        w_enc=0 if tied else arrays.address(w_enc),
        w_skip=0 if w_skip is None else arrays.address(w_skip),
        residual_threshold=float(residual_threshold),
        w_dec=arrays.address(w_dec),
        **{name: arrays.address(v) for name, v in vectors.items()},
    )
    use, own = _env(env, threads, isa)
    try:
        with use._handle as e:
            model = create(lib.sae_model_create, e, byref(weights))
    except BaseException:
        if own:
            use.close()
        raise
    return _made(model, use, own, None if copy else (w_enc, w_dec, w_skip), prepare, check)


class _Contexts:
    """Scratch for calls: as many contexts as there are threads inside the SAE at once, used again and again. Those of a temporal SAE
    have room for a number of rows, which grows with what is asked for."""

    def __init__(self, model: Handle) -> None:
        self._model = model
        self._free: list[tuple[Handle, int]] = []
        self._lock = threading.RLock()
        self._closed = False
        self.temporal = False

    def take(self, n: int) -> tuple[Handle, int]:
        """A context for n rows, and how many it has room for."""
        room = min(max(_SEQUENCE, 1 << (n - 1).bit_length()), _LONGEST) if self.temporal and n else 0
        with self._lock:
            while self._free:
                ctx, has = self._free.pop()
                if has >= room:
                    return ctx, has
                ctx.close()
        options = struct(_abi.sae_ctx_options, max_rows=room)
        with self._model as model:
            return Handle(create(lib.sae_ctx_create, model, byref(options)), lib.sae_ctx_free, "Sae", [self._model]), room

    def give(self, ctx: Handle, room: int) -> None:
        with self._lock:
            if not self._closed:
                self._free.append((ctx, room))
                return
        ctx.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for ctx, _ in free:
            ctx.close()


class _Ctx:
    """A context for one call: `with _Ctx(contexts, n_rows) as address:`, where n_rows 0 is a call without sequences."""

    __slots__ = ("_contexts", "_handle", "_n", "_room")

    def __init__(self, contexts: _Contexts, n_rows: int = 0) -> None:
        self._contexts = contexts
        self._n = n_rows

    def __enter__(self) -> int:
        self._handle, self._room = self._contexts.take(self._n)
        return self._handle.__enter__()

    def __exit__(self, *_: object) -> None:
        self._handle.__exit__()
        self._contexts.give(self._handle, self._room)


def _check(status: int, ctx: int) -> None:
    """Raises what a call on a context reported."""
    if status:
        text = lib.sae_ctx_error(ctx) or lib.sae_status_text(status)
        raise from_status(status, text.decode("utf-8", "replace"))


class _Parts:
    """The C objects of a Sae, closed together. `lock` guards the two dicts, so that nothing is added after close."""

    def __init__(self, model: Handle, env: Handle | None) -> None:
        self.model = model
        self.env = env  # if it is the Sae's own
        self.contexts = _Contexts(model)
        self.probes: OrderedDict[bytes, Handle] = OrderedDict()
        self.indexes: dict[int, Handle] = {}
        self.lock = threading.RLock()

    def close(self) -> None:
        self.contexts.close()
        with self.lock:
            for handle in [*self.probes.values(), *self.indexes.values(), self.model]:
                handle.close()
        if self.env is not None:
            self.env.close()


class Sae:
    """A sparse autoencoder; made by `libsae.open` and `libsae.from_weights`.

    Any number of threads may use one Sae at once: the library is entered without Python's lock, and each call has scratch
    of its own. Rows `x` are float32, float16 or bfloat16, NumPy or CPU torch, [n_rows][d] with any row stride, or one row
    [d]; they are read where they are. Results are bit-equal for any batch, number of threads and instruction set.
    """

    _env: Env
    _model: Handle
    _parts: _Parts
    _contexts: _Contexts
    _finalizer: weakref.finalize[..., Sae]
    _info: Info
    _d_in: int
    _d_sae: int
    _d_out: int
    _normalised: bool  # encode writes row_scale and row_shift
    _per_row: float  # codes to expect of a row

    def __init__(self) -> None:
        raise TypeError("use libsae.open or libsae.from_weights")

    @classmethod
    def _wrap(cls, model: int, env: Env, own: bool, keep: Any) -> Sae:
        self = cls.__new__(cls)
        self._env = env
        self._model = Handle(model, lib.sae_model_free, "Sae", [env._handle], keep)
        self._parts = _Parts(self._model, env._handle if own else None)
        self._contexts = self._parts.contexts
        self._finalizer = weakref.finalize(self, self._parts.close)
        self._info = self._read_info()
        self._contexts.temporal = self._info["architecture"] == "temporal"
        self._d_in, self._d_sae, self._d_out = (int(self._info[name]) for name in ("d_in", "d_sae", "d_out"))
        self._normalised = self._info["normalize_activations"] in ("constant_norm_rescale", "layer_norm")
        self._per_row = 64.0
        return self

    # ---- what it is ----

    def _read_info(self) -> Info:
        info = struct(_abi.sae_info)
        with self._model as model:
            status = lib.sae_model_info(model, byref(info))
            if status:
                raise from_status(status, lib.sae_status_text(status).decode())

            def text(what: int) -> str:
                return str(lib.sae_model_text(model, what).decode("utf-8", "replace"))

            count = lib.sae_model_n_warnings(model)
            return Info(
                {
                    "path": text(_abi.SAE_TEXT_PATH),
                    "format": text(_abi.SAE_TEXT_FORMAT),
                    "format_version": text(_abi.SAE_TEXT_FORMAT_VERSION),
                    "architecture": lib.sae_arch_name(info.arch).decode(),
                    "stored_architecture": text(_abi.SAE_TEXT_ARCHITECTURE),
                    "model_name": text(_abi.SAE_TEXT_MODEL_NAME),
                    "hook_name": text(_abi.SAE_TEXT_HOOK_NAME),
                    "hook_name_out": text(_abi.SAE_TEXT_HOOK_NAME_OUT),
                    "catalog": text(_abi.SAE_TEXT_CATALOG),
                    "d_in": info.d_in,
                    "d_sae": info.d_sae,
                    "d_out": info.d_out,
                    "k": info.k,
                    "dtype": lib.sae_dtype_name(info.w_enc_dtype).decode(),
                    "w_enc_dtype": lib.sae_dtype_name(info.w_enc_dtype).decode(),
                    "w_dec_dtype": lib.sae_dtype_name(info.w_dec_dtype).decode(),
                    "normalize_activations": lib.sae_norm_name(info.norm).decode(),
                    "norm_scaling_factor": info.norm_scaling_factor,
                    "apply_b_dec_to_input": info.apply_b_dec == _abi.SAE_YES,
                    "rescale_by_decoder_norm": info.rescale_by_decoder_norm == _abi.SAE_YES,
                    "n_in": info.n_in,
                    "n_out": info.n_out,
                    "n_blocks": info.n_blocks,
                    "has_skip": info.has_skip == _abi.SAE_YES,
                    "keeps_negative": info.keeps_negative == _abi.SAE_YES,
                    "norm_in_only": info.norm_in_only == _abi.SAE_YES,
                    "returns_unscaled": info.returns_unscaled == _abi.SAE_YES,
                    "stops_on_repeat": info.stops_on_repeat == _abi.SAE_YES,
                    "residual_threshold": info.residual_threshold,
                    "warnings": tuple(lib.sae_model_warning(model, i).decode("utf-8", "replace") for i in range(count)),
                    "config": text(_abi.SAE_TEXT_CONFIG),
                }
            )

    @property
    def info(self) -> Info:
        """path, format, format_version, architecture, stored_architecture, model_name, hook_name, hook_name_out (where it
        writes, if that is another), catalog (that belongs to a .sae file), d_in, d_sae, d_out, k (0 where there is none), dtype (of
        W_enc: "f32", "f16", "bf16"), w_enc_dtype, w_dec_dtype, normalize_activations, norm_scaling_factor,
        apply_b_dec_to_input, rescale_by_decoder_norm, n_in and n_out (hook points that a row consists of), n_blocks (encoders),
        has_skip, keeps_negative (codes may be), norm_in_only, returns_unscaled, stops_on_repeat, residual_threshold, warnings
        (sentences), config (as it is stored).
        Texts that the file does not have are ""."""
        return self._info

    @property
    def env(self) -> Env:
        """Its threads and instruction set."""
        return self._env

    @property
    def memory(self) -> Memory:
        """Bytes of each form, built or not."""
        m = struct(_abi.sae_memory)
        with self._model as model:
            status = lib.sae_model_memory(model, byref(m))
        if status:
            raise from_status(status, lib.sae_status_text(status).decode())
        prepared = tuple(name for name, bit in _FORMS.items() if m.prepared & bit)
        return Memory(
            m.mapped_bytes,
            m.vectors_bytes,
            m.rows_bytes,
            m.panels_bytes,
            prepared,
            m.screen_bytes,
            m.screen_stored_bytes,
        )

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this SAE from others, whatever file or dtype holds it; every weight is read for them."""
        out = (ctypes.c_uint8 * 16)()
        with self._model as model:
            call(lib.sae_model_fingerprint, model, out)
        return bytes(out).hex()

    def prepare(self, *forms: Form) -> None:
        """Builds packed forms of the weights once; the results stay the same bits, and come faster. "rows": each feature
        contiguous (probes, single rows, neighbours); "panels": float32 panels for batches; "screen": rows, and a byte a
        weight that tells which features cannot be active. The first two when none is named."""
        what = 0
        for form in forms or ("rows", "panels"):
            what |= constant(_FORMS, form, "prepare")
        with self._model as model:
            call(lib.sae_model_prepare, model, what)

    def check(self) -> None:
        """Reads every weight; FormatError names tensor, row and column of the first that is not finite. A form "screen" that came
        with the file is built again and compared."""
        with self._model as model:
            call(lib.sae_model_check, model)

    def save(
        self,
        path: str | os.PathLike[str],
        format: Literal["sae", "saelens", "gemma_scope"] | None = None,
        dtype: Literal["f32", "f16", "bf16"] | None = None,
        overwrite: bool = False,
        *,
        catalog: str | None = None,
        check: bool = True,
        screen: bool = False,
    ) -> None:
        """Writes the SAE: "sae", one file that is mapped as it lies; "saelens", a folder that sae-lens 6 loads; "gemma_scope",
        a .npz. By the ending of `path` when no format is named: .sae, .npz, else a folder.

        Codes of the file are those of this SAE, bit for bit, unless `dtype` is narrower than the weights. What a format cannot
        say is refused (UnsupportedError), and what is there already is kept (IoError) unless `overwrite`. `catalog` is the
        path, beside the file, of the catalog that belongs to it; `check` looks first whether every weight is finite; `screen` puts
        the form "screen" into a .sae file, so that who opens it need not build it."""
        options = struct(
            _abi.sae_save_options,
            dtype=0 if dtype is None else constant(_DTYPES, dtype, "dtype"),
            format=_text(format, "format"),
            catalog=_text(catalog, "catalog"),
            overwrite=_abi.SAE_YES if overwrite else _abi.SAE_DEFAULT,
            check=_abi.SAE_DEFAULT if check else _abi.SAE_NO,
            screen=_abi.SAE_YES if screen else _abi.SAE_DEFAULT,
        )
        with self._model as model:
            call(lib.sae_model_save, model, _path(path), byref(options))

    def read(self, tensor: str, first: int = 0, n: int | None = None, out: Rows | None = None) -> Any:
        """Rows first .. first + n - 1 (to the end when `n` is None) of a tensor as float32: "W_enc" [n][d_in] and "W_dec"
        [n][d_out] by feature, "W_skip" [n][d_in] by output, "b_enc" [n] (b_gate of a gated SAE), "threshold" [n], "b_dec" [n]."""
        what = constant(_TENSORS, tensor, "tensor")
        rows = self._d_out if tensor in ("b_dec", "W_skip") else self._d_sae
        start = arrays.int32(first, "first")
        count = rows - start if n is None else arrays.int32(n, "n")
        if start < 0 or count < 0 or start + count > rows:
            raise ArgError(f"{tensor} has {rows} rows: {count} from row {start} on are not there")
        width = {"W_enc": self._d_in, "W_dec": self._d_out, "W_skip": self._d_in}.get(tensor)
        to = arrays.out(out, count, width) if width else arrays.out(out, 1, count)
        if to.stride not in (0, 4 * to.array.shape[1]):
            raise TypeError(f"out has strides {to.array.strides}: weights are read into contiguous rows")
        with self._model as model:
            call(lib.sae_model_read, model, what, start, count, to.address)
        return to.result if width or out is not None else to.array[0]

    def W_dec_row(self, feature: int) -> Array:
        """What a feature writes: its decoder row, float32 [d_out]."""
        return self._row("W_dec", feature)

    def W_dec_rows(self, features: Features, out: Rows | None = None) -> Any:
        """Decoder rows of several features, float32 [len(features)][d_out]."""
        return self._rows("W_dec", features, self._d_out, out)

    def W_enc_row(self, feature: int) -> Array:
        """What a feature reads: its encoder column, float32 [d_in]."""
        return self._row("W_enc", feature)

    def W_enc_rows(self, features: Features, out: Rows | None = None) -> Any:
        """Encoder columns of several features, float32 [len(features)][d_in]."""
        return self._rows("W_enc", features, self._d_in, out)

    def _row(self, tensor: str, feature: int) -> Array:
        return np.asarray(self.read(tensor, self._feature(feature), 1)[0])

    def _feature(self, feature: int) -> int:
        f = arrays.int32(feature, "feature")
        if not 0 <= f < self._d_sae:
            raise ArgError(f"feature = {f}, this SAE has features 0 .. {self._d_sae - 1}")
        return f

    def _rows(self, tensor: str, features: Features, d: int, out: Rows | None) -> Any:
        ids = arrays.ints(features, "features")
        to = arrays.out(out, len(ids), d)
        for i, feature in enumerate(ids):
            self.read(tensor, self._feature(feature), 1, out=to.array[i])
        return to.result

    # ---- encode and decode ----

    def empty_codes(self, n_rows: int, capacity: int | None = None) -> Codes:
        """Room for the codes of `n_rows` rows, to be used again and again as `out` of encode. `capacity` None: what such
        rows had so far, with some to spare."""
        n = arrays.int32(n_rows, "n_rows")
        room = self._guess(n) if capacity is None else int(capacity)
        return Codes.empty(n, room, self._d_sae, self._normalised)

    def _guess(self, n: int) -> int:
        """Codes to make room for: too few cost a second encode, too many only address space."""
        if self._info["k"]:
            return n * int(self._info["k"])
        return min(int(n * min(self._per_row, self._d_sae)) + 1, max(64 * n, 1 << 24))

    def _learn(self, n: int, found: int) -> None:
        """The next guess: a third above this batch, or on the way there if that is less than before."""
        if n:
            seen = found / n * 1.33
            self._per_row = max(seen, (self._per_row + seen) / 2)

    def encode(self, x: Rows, out: Codes | None = None) -> Codes:
        """Sparse codes of x [n_rows][d_in]. `out`: codes of `empty_codes` to fill instead of new ones; CapacityError says
        what is needed when they are too small."""
        v = arrays.rows(x, self._d_in, "x")
        codes = self.empty_codes(v.n) if out is None else self._usable(out, v.n)
        with _Ctx(self._contexts, v.n) as ctx:
            status = lib.sae_encode(ctx, byref(codes._struct()), byref(v.rows))
            if status == _abi.SAE_E_CAPACITY and out is None:
                codes = self.empty_codes(v.n, int(codes._indptr[v.n]))
                status = lib.sae_encode(ctx, byref(codes._struct()), byref(v.rows))
            if status and out is not None:
                out._indptr[:] = 0  # no codes, rather than half of them
            _check(status, ctx)
            codes.nonfinite = int(lib.sae_ctx_nonfinite(ctx))
        codes.n_rows = v.n
        self._learn(v.n, int(codes._indptr[v.n]))
        return codes

    def _usable(self, out: Codes, n: int) -> Codes:
        if not isinstance(out, Codes):
            raise TypeError(f"out is a {type(out).__name__}: give Codes, as empty_codes makes them")
        for a in (out._indptr, out._indices, out._values):
            if not a.flags.writeable:
                raise TypeError("out has read-only arrays, and they would be written to")
        if out.d_sae != self._d_sae:
            raise ShapeError(f"out is for {out.d_sae} features, this SAE has {self._d_sae}")
        if out._room() < n:
            raise CapacityError(f"out has room for {out._room()} rows, x has {n}")
        if self._normalised and (out._row_scale is None or out._row_shift is None):
            raise ArgError("out has no row_scale and row_shift, which this SAE needs: let empty_codes make it")
        return out

    def encode_dense(self, x: Rows, out: Rows | None = None) -> Any:
        """The same codes as float32 [n_rows][d_sae], 0 where a feature is inactive. x is [n_rows][d_in]."""
        v = arrays.rows(x, self._d_in, "x")
        to = arrays.out(out, v.n, self._d_sae)
        with _Ctx(self._contexts, v.n) as ctx:
            _check(lib.sae_encode_dense(ctx, to.address, to.stride, byref(v.rows)), ctx)
        return to.result

    def decode(self, codes: Codes, out: Rows | None = None) -> Any:
        """Reconstructed rows, float32 [n_rows][d_out]. `out` may be float32, float16 or bfloat16 and is returned; values
        are rounded once."""
        n = codes.n_rows
        y = np.empty((n, self._d_out), np.float32) if out is None else out
        v = arrays.rows(y, self._d_out, "out", writable=True)
        with _Ctx(self._contexts) as ctx:
            _check(lib.sae_decode(ctx, byref(v.rows), byref(codes._struct())), ctx)
        return y

    def forward(self, x: Rows, out: Rows | None = None) -> Any:
        """The SAE's own output for rows x [n_rows][d_in], float32 [n_rows][d_out]: what their codes decode to, and what codes do not
        carry: the skip connection of a transcoder, which reads the row itself, and what a temporal SAE predicts from the rows before
        (all of x is one sequence then). `out` as in decode; it may be x where d_in = d_out. Calling the Sae does the same."""
        source = arrays.rows(x, self._d_in, "x")
        y = np.empty((source.n, self._d_out), np.float32) if out is None else out
        target = arrays.rows(y, self._d_out, "out", writable=True)
        with _Ctx(self._contexts, source.n) as ctx:
            _check(lib.sae_forward(ctx, byref(target.rows), byref(source.rows)), ctx)
        return y

    __call__ = forward

    def measure(self, x: Rows, codes: Codes) -> Measure:
        """How well codes explain x [n_rows][d_out]: (error, fvu), the squared error of each row and the fraction of variance
        unexplained over these rows."""
        v = arrays.rows(x, self._d_out, "x")
        error = np.empty(v.n, np.float32)
        fvu = ctypes.c_double()
        with _Ctx(self._contexts) as ctx:
            args = (arrays.address(error), byref(fvu), byref(v.rows), byref(codes._struct()))
            _check(lib.sae_measure(ctx, *args), ctx)
        return Measure(error, fvu.value)

    # ---- a few features ----

    def _probe(self, ids: Array) -> Handle:
        """The probe of these features: gathered once, the last few are remembered. The caller enters it under the lock."""
        key = ids.tobytes()
        probes = self._parts.probes
        probe: Handle | None = probes.pop(key, None)
        if probe is None:
            with self._model as model:
                address = create(lib.sae_probe_create, model, arrays.address(ids), len(ids))
                probe = Handle(address, lib.sae_probe_free, "Sae", [self._model])
        probes[key] = probe
        if len(probes) > _PROBES:
            probes.popitem(last=False)[1].close()
        return probe

    def probe(self, x: Rows, features: Features, pre: bool = False, out: Rows | None = None) -> Any:
        """Codes of a few features: float32 [n_rows][len(features)], bit-equal to what encode gives, 0 where inactive.

        Costs no encode, except where features compete (top-k, groupmax, matching pursuit). `pre` gives the pre-activations
        instead, there too. Encoder columns are gathered once and remembered for the last few lists of features."""
        v = arrays.rows(x, self._d_in, "x")
        ids = arrays.ints(features, "features")
        to = arrays.out(out, v.n, len(ids))
        with self._parts.lock:
            probe = self._probe(ids)
            address = probe.__enter__()
        try:
            with _Ctx(self._contexts) as ctx:
                flags = _abi.SAE_PROBE_PRE if pre else 0
                _check(lib.sae_probe_run(address, ctx, to.address, to.stride, byref(v.rows), flags), ctx)
        finally:
            probe.__exit__()
        return to.result

    # ---- distances ----

    def _index(self, by: Side) -> Handle:
        side = constant(_SIDES, by, "by")
        with self._parts.lock, self._model as model:
            indexes = self._parts.indexes
            if side not in indexes:
                indexes[side] = Handle(create(lib.sae_index_create, model, side), lib.sae_index_free, "Sae", [self._model])
            return indexes[side]

    def neighbors(self, feature_or_vector: int | Rows, k: int = 10, by: Side = "decoder") -> Neighbors:
        """The k nearest features by cosine, exact: (features, cosines), nearest first.

        To a feature (itself left out) or to any vector [d_out] (by="decoder": what features write) or [d_in]
        (by="encoder": what they read). Fewer than k come back only when the SAE has no more."""
        wanted = arrays.int32(k, "k")
        room = max(0, min(wanted, self._d_sae))
        features, cosines = np.empty(room, np.int32), np.empty(room, np.float32)
        found = struct(
            _abi.sae_neighbors,
            k=min(wanted, self._d_sae),
            features=arrays.address(features),
            cosines=arrays.address(cosines),
        )
        with self._index(by) as index:
            scratch = np.empty(lib.sae_index_scratch_bytes(index), np.uint8)
            where = (arrays.address(scratch), scratch.nbytes)
            if hasattr(feature_or_vector, "__index__") and not getattr(feature_or_vector, "shape", ()):
                feature = arrays.int32(feature_or_vector, "feature")
                call(lib.sae_index_nearest_feature, index, byref(found), feature, *where)
            else:
                query = arrays.vector(feature_or_vector, lib.sae_index_dim(index), "vector")
                call(lib.sae_index_nearest, index, byref(found), arrays.address(query), *where)
        return Neighbors(features[: found.n], cosines[: found.n])

    def prepare_neighbors(self, by: Side = "decoder") -> None:
        """Makes searches of `neighbors` some four times as fast, by a copy of the rows of one byte a weight.

        Same results; worth it from a few dozen searches on."""
        side = constant(_SIDES, by, "by")
        with self._parts.lock, self._model as model:
            indexes = self._parts.indexes
            if -side in indexes:
                return
            made = Handle(create(lib.sae_index_create, model, side), lib.sae_index_free, "Sae", [self._model])
            with made as index:
                call(lib.sae_index_prepare, index)
            indexes[-side] = indexes.get(side, made)  # other threads may be searching in the old one
            indexes[side] = made

    def pairs(
        self,
        features: Features,
        measure: Literal["cosine", "angle", "l2"] = "cosine",
        by: Side = "decoder",
        out: Rows | None = None,
    ) -> Any:
        """A measure of all pairs of features, float32 [n][n]: cosine, angle in radians, or L2 length of the difference."""
        ids = arrays.ints(features, "features")
        what = constant(_MEASURES, measure, "measure")
        to = arrays.out(out, len(ids), len(ids))
        if to.stride not in (0, 4 * len(ids)):
            raise TypeError(f"out has strides {to.array.strides}: pairs are written to contiguous rows")
        with self._index(by) as index:
            scratch = np.empty(lib.sae_index_scratch_bytes(index), np.uint8)
            where = (arrays.address(scratch), scratch.nbytes)
            call(lib.sae_index_pairs, index, to.address, what, arrays.address(ids), len(ids), *where)
        return to.result

    # ---- end ----

    def close(self) -> None:
        """Frees it. Calls under way in other threads end first, and plans made with it go on working."""
        self._finalizer()

    def __enter__(self) -> Sae:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        i = self._info
        where = f" {i['path']!r}" if i["path"] else ""
        return f"<libsae.Sae {i['architecture']}, d_in {i['d_in']}, d_sae {i['d_sae']}{where}>"
