"""Control vectors: what a plan adds to every row, as llama.cpp takes it without a callback."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import _arrays as arrays
from ._arrays import Array
from .errors import ArgError, FormatError, ShapeError, UnsupportedError
from .plan import Edit, Plan

_ARCHITECTURE = "controlvector"
_BY_ROW = ("constant_norm_rescale", "layer_norm")


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files need the package gguf, which is not installed: pip install gguf") from error
    return gguf


def _vector(layer: int, plan: Plan) -> Array:
    """What the plan adds to any row, if it is one vector."""
    if plan.n_slots > 1:
        raise UnsupportedError(
            f"the plan of layer {layer} has {plan.n_slots} slots: a control vector reaches all rows of all sequences, it has no masks"
        )
    for i, (op, norm) in enumerate(plan._kinds):
        if op != "add":
            raise UnsupportedError(f"edits[{i}] of layer {layer} is {op!r}: a control vector adds, whatever the row holds; use Taps")
        if norm in _BY_ROW:
            raise UnsupportedError(
                f"edits[{i}] of layer {layer} is of an SAE that normalises rows ({norm}): what it adds depends on the row; use Taps"
            )
    row = np.zeros((1, plan.d), np.float32)
    plan.apply(row)
    return row[0]


def control_vectors(plans: Mapping[int, Plan], n_layer: int) -> Array:
    """The vectors of additive plans {layer: plan} as llama_set_adapter_cvec takes them: float32 [n_layer - 1][d], where row r is added to
    l_out of layer r + 1. What a control vector cannot say is refused by name: layer 0, ops other than add, several slots."""
    layers = arrays.int32(n_layer, "n_layer")
    if not plans:
        raise ArgError("no plan is given: {layer: plan}")
    widths = {plan.d for plan in plans.values()}
    if len(widths) > 1:
        raise ShapeError(f"the plans are for rows of {' and '.join(map(str, sorted(widths)))} elements: a model has rows of one length")
    out = np.zeros((max(layers - 1, 0), widths.pop()), np.float32)
    for layer, plan in plans.items():
        if layer == 0:
            raise UnsupportedError("layer 0: llama.cpp has control vectors from layer 1 on; use Taps")
        if not 0 < layer < layers:
            raise ArgError(f"layer {layer}: the model has layers 0 .. {layers - 1}")
        out[layer - 1] = _vector(layer, plan)
    return out


def save_control_vectors(path: str | os.PathLike[str], plans: Mapping[int, Plan], n_layer: int, model_hint: str = "llama") -> None:
    """Writes additive plans as a GGUF file for `--control-vector`: direction.N is added after block N. The same plans give the same bytes.
    Refuses what `control_vectors` refuses. `model_hint` is the architecture's name. Needs the package gguf."""
    vectors = control_vectors(plans, n_layer)
    gguf = _gguf()
    writer = gguf.GGUFWriter(os.fspath(path), _ARCHITECTURE)
    writer.add_string(f"{_ARCHITECTURE}.model_hint", model_hint)
    writer.add_int32(f"{_ARCHITECTURE}.layer_count", n_layer)
    for layer in sorted(plans):
        writer.add_tensor(f"direction.{layer}", vectors[layer - 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _directions(path: Path) -> dict[int, Array]:
    gguf = _gguf()
    try:
        reader = gguf.GGUFReader(path)
        field = reader.get_field("general.architecture")
        architecture = None if field is None else bytes(field.parts[field.data[0]]).decode("utf-8", "replace")
        tensors = [(str(t.name), t.tensor_type, t.data) for t in reader.tensors]
    except OSError:
        raise
    except Exception as error:  # the package has no exception of its own
        raise FormatError(f"{path} is damaged, or no GGUF file: {error}") from error
    if architecture != _ARCHITECTURE:
        raise FormatError(f"{path} holds the architecture {architecture!r}: a file of control vectors says {_ARCHITECTURE!r}")
    out: dict[int, Array] = {}
    for name, kind, data in tensors:
        match = re.fullmatch(r"direction\.([1-9][0-9]{0,5})", name)
        if not match:
            raise FormatError(f"{path}: the tensor {name!r} is no direction.N with N from 1 on")
        if kind != gguf.GGMLQuantizationType.F32 or data.ndim != 1:
            raise FormatError(f"{path}: {name} is {kind.name} of {data.ndim} axes, a direction is one row of F32")
        out[int(match[1])] = np.array(data, np.float32)
    return out


def load_control_vectors(path: str | os.PathLike[str], strength: float = 1.0) -> dict[int, Plan]:
    """Reads a GGUF file of control vectors as plans {layer: plan}, which add `strength` times each direction. Needs the package gguf."""
    place = Path(path)
    found = _directions(place)
    if not found:
        raise FormatError(f"{place} holds no direction")
    if len({len(v) for v in found.values()}) > 1:
        raise FormatError(f"{place}: directions have {' and '.join(sorted({str(len(v)) for v in found.values()}))} elements")
    plans = {}
    for layer, vector in sorted(found.items()):
        if not np.isfinite(vector).all():
            raise FormatError(f"{place}: direction.{layer} holds values that are not finite")
        if vector.any():  # a direction of zeros adds nothing
            plans[layer] = Plan([Edit.add(strength, vector=vector)])
    return plans
