"""Catalogs: what is known of an SAE's features, in one file."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import Array as CArray
from ctypes import byref, c_int64, c_void_p
from typing import Any, Literal, NamedTuple

from . import _abi
from . import _arrays as arrays
from ._handle import Handle
from ._lib import call, check, create, lib, struct
from .env import Env, constant
from .errors import ArgError, IoError, NotFoundError
from .model import Sae

Order = Literal["id", "density", "mean", "max"]
_ORDERS = {
    "id": _abi.SAE_ORDER_ID,
    "density": _abi.SAE_ORDER_DENSITY,
    "mean": _abi.SAE_ORDER_MEAN,
    "max": _abi.SAE_ORDER_MAX,
}
_PAGE = 1000  # features that iteration reads at once


class Token(NamedTuple):
    """A token and a number: what a feature adds to its logit, or the feature's activation at it."""

    text: str
    value: float


class Example(NamedTuple):
    """A place where a feature is active, with the tokens around it."""

    tokens: Sequence[Token]  #: with the activation at each
    peak: int | None = None  #: index of the one that this is about
    document: int | None = None  #: number of the text
    position: int | None = None  #: of the peak in that text


class Feature(NamedTuple):
    """What is known of one feature; None is unknown. Search and lists leave tokens and examples empty."""

    id: int
    label: str = ""
    density: float | None = None  #: fraction of tokens on which it is active
    mean: float | None = None  #: mean activation where it is active
    max: float | None = None  #: largest known activation
    promoted: Sequence[Token] = ()
    suppressed: Sequence[Token] = ()
    examples: Sequence[Example] = ()  #: strongest first
    model_id: str | None = None  #: Neuronpedia's modelId and layer
    layer: str | None = None
    score: float = 0.0  #: of a search: higher is better


class About(NamedTuple):
    """What a catalog says of itself."""

    model_name: str
    hook_name: str
    d_in: int
    d_sae: int
    fingerprint: str  #: of the SAE that it belongs to, 32 hexadecimal digits
    schema: int


# ---- from C ----


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _said(value: int) -> int | None:
    return None if value < 0 else value


def _tokens(p: Any, n: int) -> tuple[Token, ...]:
    return tuple(Token(p[i].text.decode("utf-8"), p[i].value) for i in range(n))


def _example(e: Any) -> Example:
    return Example(_tokens(e.tokens, e.n_tokens), _said(e.peak), _said(e.document), _said(e.position))


def _feature(f: Any) -> Feature:
    return Feature(
        id=f.id,
        label=_text(f.label) or "",
        density=_known(f.density),
        mean=_known(f.mean),
        max=_known(f.max),
        promoted=_tokens(f.promoted, f.n_promoted),
        suppressed=_tokens(f.suppressed, f.n_suppressed),
        examples=tuple(_example(f.examples[i]) for i in range(f.n_examples)),
        model_id=_text(f.model_id),
        layer=_text(f.layer),
        score=f.score,
    )


def _taken(address: int) -> list[Feature]:
    """The features of a C list, which is freed."""
    try:
        out = []
        for i in range(lib.sae_features_count(address)):
            f = struct(_abi.sae_feature)
            check(lib.sae_features_at(address, i, byref(f)), struct(_abi.sae_error))
            out.append(_feature(f))
        return out
    finally:
        lib.sae_features_free(address)


# ---- to C ----


def _bytes(value: str | None, name: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise ArgError(f"{name} = {value!r}: give a str without NUL characters")
    return value.encode("utf-8", "surrogatepass")  # the library refuses what is no UTF-8


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _c_tokens(tokens: Iterable[tuple[str, float]], name: str) -> CArray[Any]:
    items = [_abi.sae_token(text=_bytes(text, name), value=value) for text, value in tokens]
    return (_abi.sae_token * len(items))(*items)


def _c_int(value: int | None, name: str) -> int:
    return -1 if value is None else arrays.int32(value, name)


def _c_feature(f: Feature) -> tuple[Any, Any]:
    """The C structure, and what must stay alive with it."""
    promoted, suppressed = _c_tokens(f.promoted, "promoted"), _c_tokens(f.suppressed, "suppressed")
    examples = (_abi.sae_example * len(f.examples))()
    keep = []
    for c, e in zip(examples, f.examples):
        tokens = _c_tokens(e.tokens, "examples")
        keep.append(tokens)
        c.tokens, c.n_tokens = tokens, len(tokens)
        c.peak, c.document, c.position = _c_int(e.peak, "peak"), _c_int(e.document, "document"), _c_int(e.position, "position")
    out = struct(
        _abi.sae_feature,
        id=arrays.int32(f.id, "id"),
        label=_bytes(f.label, "label"),
        model_id=_bytes(f.model_id, "model_id"),
        layer=_bytes(f.layer, "layer"),
        density=_number(f.density),
        mean=_number(f.mean),
        max=_number(f.max),
        promoted=promoted,
        n_promoted=len(promoted),
        suppressed=suppressed,
        n_suppressed=len(suppressed),
        examples=examples,
        n_examples=len(examples),
    )
    return out, (promoted, suppressed, examples, keep)


# ---- the catalog ----


class Catalog:
    """What is known of an SAE's features: labels, statistics, tokens and examples in one file, with search.

        with libsae.Catalog("gemma.features") as catalog:
            catalog.search("bridge")
            catalog[2071].label

    path   the file; `Catalog.create` makes a new one
    sae    the SAE that the catalog must belong to (ShapeError otherwise); None = any
    write  open it for writing too
    force  take the catalog of another SAE, if d_sae agrees
    wait   seconds to wait for another program that writes, before BusyError; None = 5

    Calls from several threads wait for each other. Raises NotFoundError, IoError, FormatError, VersionError, ShapeError, BusyError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sae: Sae | None = None,
        write: bool = False,
        force: bool = False,
        wait: float | None = None,
        env: Env | None = None,
    ) -> None:
        options = struct(
            _abi.sae_catalog_options,
            access=_abi.SAE_CATALOG_WRITE if write else _abi.SAE_CATALOG_READ,
            force=_abi.SAE_YES if force else _abi.SAE_NO,
            wait_ms=0 if wait is None else -1 if wait <= 0 else arrays.int32(math.ceil(wait * 1000), "wait"),
        )
        try:
            if sae is None:
                self._make(lib.sae_catalog_open, env, _path(path), byref(options))
            else:
                with sae._model as model:
                    options.model = model
                    self._make(lib.sae_catalog_open, env, _path(path), byref(options))
        except IoError as error:
            if not os.path.lexists(path):
                raise NotFoundError(str(error)) from None
            raise

    def _make(self, function: Any, env: Env | None, *args: Any) -> None:
        use = env or Env()
        try:
            with use._handle as e:
                self._handle = Handle(create(function, e, *args), lib.sae_catalog_free, "Catalog", [use._handle])
        finally:
            if env is None:
                use.close()  # the catalog holds it
        self._finalizer = weakref.finalize(self, self._handle.close)

    @classmethod
    def create(cls, path: str | os.PathLike[str], sae: Sae, *, env: Env | None = None) -> Catalog:
        """A new catalog for `sae`, open for writing; the file must not exist."""
        self = cls.__new__(cls)
        with sae._model as model:
            self._make(lib.sae_catalog_create, env, _path(path), model)
        return self

    @property
    def about(self) -> About:
        """What the catalog says of itself."""
        out = struct(_abi.sae_catalog_about)
        with self._handle as c:
            check(lib.sae_catalog_info(c, byref(out)), struct(_abi.sae_error))
            names = out.model_name.decode("utf-8"), out.hook_name.decode("utf-8")
        return About(*names, out.d_in, out.d_sae, bytes(out.fingerprint).hex(), out.schema)

    def __len__(self) -> int:
        n = c_int64()
        with self._handle as c:
            call(lib.sae_catalog_count, c, byref(n))
        return n.value

    def _list(self, function: Any, *args: Any) -> list[Feature]:
        out = c_void_p()
        with self._handle as c:
            call(function, byref(out), c, *args)
        assert out.value is not None
        return _taken(out.value)

    def get(self, ids: arrays.Features) -> list[Feature]:
        """The features with these ids, whole, in that order; those that the catalog does not hold are left out."""
        wanted = arrays.ints(ids, "ids")
        return self._list(lib.sae_catalog_get, arrays.address(wanted), len(wanted))

    def __getitem__(self, feature: int) -> Feature:
        found = self.get([arrays.int32(feature, "feature")])
        if not found:
            raise KeyError(feature)
        return found[0]

    def __contains__(self, feature: object) -> bool:
        return isinstance(feature, int) and bool(self.get([feature]))

    def search(self, query: str, limit: int = 10) -> list[Feature]:
        """Features whose label or promoted tokens hold the words of `query`, the best first, without tokens and examples. A word also finds
        the words that begin with it; in Korean, Chinese and Japanese any part of a word is found."""
        return self._list(lib.sae_catalog_search, _bytes(query, "query"), arrays.int32(limit, "limit"))

    def page(self, by: Order = "id", *, descending: bool = False, limit: int = 100, after: Feature | None = None) -> list[Feature]:
        """A page of features in order, without tokens and examples. `after` is the last feature of the page before. Features whose
        statistic is unknown are left out."""
        options = struct(
            _abi.sae_list_options,
            order=constant(_ORDERS, by, "by"),
            descending=_abi.SAE_YES if descending else _abi.SAE_NO,
            limit=arrays.int32(limit, "limit"),
        )
        if after is not None:
            options.resume, options.after_id = _abi.SAE_YES, after.id
            options.after_value = _number(after.id if by == "id" else getattr(after, by))
        return self._list(lib.sae_catalog_list, byref(options))

    def __iter__(self) -> Iterator[Feature]:
        """All features by id, without tokens and examples."""
        page = self.page(limit=_PAGE)
        while page:
            yield from page
            page = self.page(limit=_PAGE, after=page[-1])

    def put(self, feature: Feature) -> None:
        """Puts a feature in place of the one with its id, if there is one."""
        f, keep = _c_feature(feature)
        with self._handle as c:
            call(lib.sae_catalog_put, c, byref(f))
        del keep

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is put inside is written when the block ends, all of it; nothing when it raises."""
        with self._handle as c:
            call(lib.sae_catalog_begin, c)
            try:
                yield
            except BaseException:
                lib.sae_catalog_rollback(c)
                raise
            call(lib.sae_catalog_commit, c)

    def close(self) -> None:
        """Lets go of the file. A second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<libsae.Catalog>"


def _path(path: str | os.PathLike[str]) -> bytes:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ArgError(f"the path {path!r} holds a NUL character")
    return name
