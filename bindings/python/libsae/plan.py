"""Steering: edits, compiled to a plan, applied to rows in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from ctypes import byref, sizeof
from dataclasses import dataclass
from typing import Any, Literal, Union

import numpy as np

from . import _abi
from . import _arrays as arrays
from ._arrays import Array, Features, Rows
from ._handle import Handle
from ._lib import call, create, lib
from .env import Env, constant
from .errors import ArgError, ShapeError
from .model import Sae

Op = Literal["add", "set", "scale", "min", "max", "ablate"]
Unit = Literal["raw", "unit", "max_act"]

_OPS = {
    "add": _abi.SAE_ADD,
    "set": _abi.SAE_SET,
    "scale": _abi.SAE_SCALE,
    "min": _abi.SAE_MIN,
    "max": _abi.SAE_MAX,
    "ablate": _abi.SAE_ABLATE,
}
_UNITS = {"raw": _abi.SAE_UNIT_RAW, "unit": _abi.SAE_UNIT_UNIT, "max_act": _abi.SAE_UNIT_MAX_ACT}


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit of a feature (`sae` and `feature`) or along a direction (`vector` [d]). With z the feature's code, or the
    projection of the row on the vector's unit length:

      "add"     z + value, also when the feature is inactive
      "set"     value (clamp)
      "scale"   value * z
      "min"     at least value
      "max"     at most value
      "ablate"  0

    unit     of value: "raw" (of the codes; a vector is added value times as given), "unit" (length in activation space),
             "max_act" (multiples of `max_act`, the feature's largest known activation)
    slot     which rows get it, see Plan

    A feature's `sae` may be left out where the Plan is given one. The class methods say the same in one word:
    `Edit.set(4.0, sae=sae, feature=3)`, `Edit.add(2.0, vector=v)`.
    """

    op: str
    value: float = 0.0
    sae: Sae | None = None
    feature: int | None = None
    vector: Rows | None = None
    unit: str = "raw"
    max_act: float | None = None
    slot: int = 0

    @classmethod
    def add(cls, value: float, **target: Any) -> Edit:
        """z + value, whether or not the feature is active."""
        return cls("add", value, **target)

    @classmethod
    def set(cls, value: float, **target: Any) -> Edit:
        """Clamps z to value."""
        return cls("set", value, **target)

    @classmethod
    def scale(cls, value: float, **target: Any) -> Edit:
        """value * z."""
        return cls("scale", value, **target)

    @classmethod
    def min(cls, value: float, **target: Any) -> Edit:
        """z, but at least value."""
        return cls("min", value, **target)

    @classmethod
    def max(cls, value: float, **target: Any) -> Edit:
        """z, but at most value."""
        return cls("max", value, **target)

    @classmethod
    def ablate(cls, **target: Any) -> Edit:
        """z becomes 0."""
        return cls("ablate", **target)


#: An Edit, or a dict of its fields.
EditLike = Union[Edit, Mapping[str, Any]]


def _target(edit: Edit, i: int, default: Sae | None) -> Sae | None:
    """The SAE of a feature edit, None for a vector."""
    if (edit.feature is None) == (edit.vector is None):
        raise ArgError(f"edits[{i}] has {'neither' if edit.vector is None else 'both'} a feature and a vector: give one of them")
    if edit.vector is not None:
        if edit.sae is not None:
            raise ArgError(f"edits[{i}] has a vector, which belongs to no sae")
        return None
    sae = edit.sae or default
    if sae is None:
        raise ArgError(f"edits[{i}] names feature {edit.feature}, but no sae: give it in the edit or to the Plan")
    return sae


def _width(edits: list[Edit], saes: list[Sae | None]) -> int:
    """Elements of a row, by the first edit."""
    if not edits:
        raise ArgError("a plan without edits needs d, the elements of a row")
    if saes[0] is not None:
        return int(saes[0].info["d_in"])
    shape: tuple[int, ...] = getattr(edits[0].vector, "shape", ())
    if len(shape) != 1:
        raise ShapeError(f"edits[0].vector has shape {tuple(shape)}: give one axis")
    return int(shape[0])


def _fill(to: Any, edit: Edit, i: int, d: int, model: int | None) -> Array | None:
    """Writes an edit into its C structure; returns what must stay alive until it is compiled."""
    at = f"edits[{i}]"
    to.struct_size = sizeof(_abi.sae_edit)
    to.slot = arrays.int32(edit.slot, f"{at}.slot")
    to.op = constant(_OPS, edit.op, f"{at}.op")
    to.unit = constant(_UNITS, edit.unit, f"{at}.unit")
    to.value = float(edit.value)
    to.max_act = 0.0 if edit.max_act is None else float(edit.max_act)
    if model is not None:
        to.model = model
        to.feature = arrays.int32(edit.feature, f"{at}.feature")
        return None
    vector = arrays.vector(edit.vector, d, f"{at}.vector")
    to.vector = arrays.address(vector)
    return vector


class Plan:
    """Edits, compiled once; then applied to rows [n_rows][d] in place, by any number of threads at once.

      edits    Edits or dicts of their fields; those of one row all read the original row, and are summed
      d        elements of a row; by default what the first edit says
      n_slots  lists of edits, for batches of several sequences: an edit belongs to its slot, and `slots` of apply says which
               list each row gets
      sae      the SAE of edits that name a feature but no sae
      env      by default that of the first SAE

    Every edit is a delta along a direction: what the SAE does not explain stays in the row, and rows without an edit keep
    their bits. A plan needs its SAEs' files no more (but for top-k SAEs, which it keeps alive); it outlives their close.
    """

    def __init__(
        self,
        edits: Iterable[EditLike],
        d: int | None = None,
        n_slots: int = 1,
        sae: Sae | None = None,
        env: Env | None = None,
    ) -> None:
        listed = [e if isinstance(e, Edit) else Edit(**e) for e in edits]
        saes = [_target(edit, i, sae) for i, edit in enumerate(listed)]
        self._d = _width(listed, saes) if d is None else arrays.int32(d, "d")
        self._n_slots = arrays.int32(n_slots, "n_slots")
        models = {s: s._model for s in saes if s is not None}
        first = next(iter(models), None)
        array = (_abi.sae_edit * len(listed))()
        with ExitStack() as stack:
            addresses = {s: stack.enter_context(model) for s, model in models.items()}
            if env is None and first is None:
                env = Env()
                stack.callback(env.close)  # the plan holds it then
            if env is not None:
                parent = env._handle
                e = stack.enter_context(parent)
            else:
                assert first is not None
                parent = first.env._handle
                e = stack.enter_context(parent.held())
            targets = [None if s is None else addresses[s] for s in saes]
            keep = [_fill(array[i], x, i, self._d, targets[i]) for i, x in enumerate(listed)]
            plan = create(lib.sae_plan_compile, e, self._d, self._n_slots, array, len(listed))
            del keep
            self._handle = Handle(plan, lib.sae_plan_free, "Plan", [parent, *models.values()])
        self._n_edits = len(listed)
        norms = [None if s is None else str(s.info["normalize_activations"]) for s in saes]
        self._kinds = [(edit.op, norm) for edit, norm in zip(listed, norms)]
        self._scratch_bytes = int(lib.sae_plan_scratch_bytes(plan))
        self._scratch: list[Array] = []
        self._finalizer = weakref.finalize(self, self._handle.close)

    @property
    def d(self) -> int:
        """Elements of a row."""
        return self._d

    @property
    def n_slots(self) -> int:
        """Lists of edits."""
        return self._n_slots

    def apply(self, x: Rows, slots: Features | None = None) -> Any:
        """Edits x [n_rows][d] in place and returns it. float32, float16 or bfloat16, NumPy or CPU torch, any row stride;
        narrow rows are computed in float32 and rounded once. `slots` [n_rows]: the slot of each row, -1 leaves a row
        alone; None is slot 0 for all."""
        v = arrays.rows(x, self._d, "x", writable=True)
        if slots is not None:
            ids = arrays.ints(slots, "slots")
            if len(ids) != v.n:
                raise ShapeError(f"slots has {len(ids)} elements, x has {v.n} rows")
            v.rows.slot = arrays.address(ids)
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = np.empty(self._scratch_bytes, np.uint8)
        with self._handle as plan:
            call(lib.sae_plan_apply, plan, byref(v.rows), arrays.address(scratch), scratch.nbytes)
        self._scratch.append(scratch)
        return x

    def close(self) -> None:
        """Frees it, once calls under way in other threads are done."""
        self._finalizer()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<libsae.Plan of {self._n_edits} edits, {self._n_slots} slots, rows of {self._d}>"
