"""Writes the torch files of torch/ by torch.save, and beside each what a reader must find in it (NAME.txt).

One line each: "tensor", name, dtype, shape, elements in row-major order; "number", name, value; "string", name, text. Tensors come
first. Names in nested dicts and lists are joined with dots, None is left out. tests/test_torch.c lists what it reads in the same way and
compares the texts. Files refused_* have no listing: they are good files of torch that hold more than a state dict of dense tensors.

Usage: make_torch.py FOLDER (torch 2.13)
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DIMS = 4  # more dimensions than a reader keeps: only the first sizes are listed, and no elements
LISTED = (
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
    + [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    + [torch.bool]
)


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """(7 i mod 11 - 5) / 8 in a float type, 7 i mod 11 - 5 in a signed one, 7 i mod 11 in others."""
    n = 1
    for size in shape:
        n *= size
    i = torch.arange(n) * 7 % 11
    values = (i - 5) / 8 if dtype.is_floating_point else i - 5 if dtype.is_signed else i
    return values.to(dtype).reshape(shape)


def walk(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from walk(f"{name}.{key}" if depth else str(key), inner, depth + 1)
    elif value is not None:
        yield name, value


def elements(t: torch.Tensor) -> str:
    if t.dtype not in LISTED or t.dim() > DIMS:
        return "-"
    return " ".join(f"{v:.17g}" for v in t.to(torch.float64).flatten().tolist())


def listing(obj: Any) -> str:
    tensors, values = [], []
    for name, value in walk("", obj):
        if isinstance(value, torch.Tensor):
            shape = ",".join(str(size) for size in value.shape[:DIMS]) + ("..." if value.dim() > DIMS else "")
            tensors.append(f"tensor\t{name}\t{value.dtype}\t{shape}\t{elements(value.detach())}\n")
        elif isinstance(value, (str, torch.dtype, torch.device)):
            values.append(f"string\t{name}\t{value}\n")
        else:
            values.append(f"number\t{name}\t{float(value):.17g}\n")
    return "".join(tensors + values)


def dtypes() -> dict[str, torch.Tensor]:
    others = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
    tensors = {str(dtype)[6:]: numbers(dtype, 3, 4) for dtype in LISTED}
    tensors |= {str(dtype)[6:]: torch.zeros(2, dtype=torch.uint8).repeat_interleave(8).view(dtype) for dtype in others}
    return tensors | {"step": torch.tensor(7), "k": torch.tensor(-3, dtype=torch.int32), "norm_factor": torch.tensor(0.5)}


def views() -> dict[str, torch.Tensor]:
    base = numbers(torch.float32, 4, 6)
    return {
        "base": base,
        "transposed": base.t(),
        "part": base[1:3, 2:5],
        "every_second": base[:, ::2],
        "from": base[2, 1:],
        "repeated": numbers(torch.float32, 1).expand(5),
        "rows": numbers(torch.float16, 3).expand(2, 3),
        "permuted": numbers(torch.int16, 2, 3, 4).permute(2, 0, 1),
        "none": torch.zeros(0, 3),
        "four": numbers(torch.int8, 2, 1, 3, 2),
        "six": numbers(torch.int8, 1, 2, 1, 3, 1, 2),
    }


def nested() -> dict[Any, Any]:
    parameter = nn.Parameter(numbers(torch.float32, 2, 2))
    noted = nn.Parameter(numbers(torch.float32, 3), requires_grad=False)
    noted.note = "an attribute"  # type: ignore[attr-defined]
    return {
        "sae": {"encoder.weight": numbers(torch.float32, 3, 2), "inner": OrderedDict(b=numbers(torch.float16, 2))},
        "activation": "TopK",
        "activation_state_dict": {"k": 32},
        "parameter": parameter,
        "noted": noted,
        "version": "0.1-\u03b2",
        "empty": "",
        "lr": 1e-3,
        "steps": [1, 2, 300, 70000, -5, 2**40, -(2**63), 2**63, 2**70, -(2**70)],
        "yes": True,
        "no": False,
        "nothing": None,
        "betas": (0.9, 0.999),
        "three": (1, 2, 3),
        "both": (torch.tensor(1.0), [torch.tensor(2.0), None, ()], {}),
        0: {10: {"exp_avg": numbers(torch.float32, 2)}},
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "shape": torch.Size([768, 24576]),
    }


def state_dict() -> OrderedDict[str, Any]:
    module = nn.Sequential(OrderedDict(encoder=nn.Linear(3, 2), norm=nn.BatchNorm1d(2)))
    state = module.state_dict()
    for name, value in state.items():
        state[name] = numbers(value.dtype, *value.shape)
    assert state._metadata  # type: ignore[attr-defined]
    return state


def deep(levels: int) -> Any:
    return {"d": deep(levels - 1)} if levels else 1


def save(folder: Path, name: str, obj: Any, **options: Any) -> None:
    (folder / f"{name}.txt").write_text(listing(obj))
    torch.save(obj, folder / f"{name}.pt", **options)


def deflate(source: Path, to: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(
                zipfile.ZipInfo("packed again" + name[name.index("/") :], (2024, 1, 1, 0, 0, 0)), old.read(name), zipfile.ZIP_DEFLATED
            )
    to.with_suffix(".txt").write_text(source.with_suffix(".txt").read_text())


def refused() -> dict[str, Any]:
    """What torch.save writes and we refuse, each by its name."""
    buffer = numbers(torch.float32, 2)
    buffer.note = 1  # type: ignore[attr-defined]
    return {
        "sparse": torch.eye(2).to_sparse(),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        "quantized": torch.quantize_per_tensor(torch.zeros(2), 0.5, 0, torch.qint8),
        "noted": buffer,
        "bytes": b"bytes",
        "set": {1, 2},
        "number": np.float32(2.5),
        "array": np.zeros(2),
        "key": {(1, 2): 3},
        "class": argparse.Namespace(d_sae=4),
    }


def with_member(source: Path, to: Path, changed: str, data: bytes | None) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w") as new:
        for name in [n for n in old.namelist() if not n.endswith(changed)]:
            new.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), old.read(name))
        if data is not None:
            new.writestr(zipfile.ZipInfo("tensor/" + changed, (2024, 1, 1, 0, 0, 0)), data)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    legacy: dict[str, Any] = {"_use_new_zipfile_serialization": False}
    save(folder, "dtypes", dtypes())
    save(folder, "views", views())
    save(folder, "nested", nested())
    save(folder, "state_dict", state_dict())
    save(folder, "tensor", numbers(torch.float32, 2, 3).t())
    save(folder, "list", [torch.tensor(1.5), {"x": torch.tensor(2)}, "text"])
    save(folder, "empty", {})
    save(folder, "deep", {"outermost": deep(8)})
    save(folder, "protocol4", nested(), pickle_protocol=4)
    save(folder, "protocol5", views(), pickle_protocol=5)
    save(folder, "legacy_views", views(), **legacy)
    save(folder, "legacy_nested", nested(), **legacy)
    save(folder, "legacy_dtypes", {name: t for name, t in dtypes().items() if t.dtype in LISTED}, **legacy)
    save(folder, "legacy_state_dict", state_dict(), **legacy)
    save(folder, "legacy_tiny", {"b": torch.tensor([1.0])}, **legacy)
    deflate(folder / "views.pt", folder / "deflated.pt")
    # The stream of files without tensors has no storages.
    save(folder, "legacy_empty", {"k": 3}, **legacy)
    for name, obj in refused().items():
        torch.save({"x": obj}, folder / f"refused_{name}.pt", _use_new_zipfile_serialization=name != "class")
    torch.jit.script(nn.Linear(2, 2)).save(folder / "refused_script.pt")
    with_member(folder / "tensor.pt", folder / "refused_big_endian.pt", "byteorder", b"big")
    with_member(folder / "tensor.pt", folder / "refused_without_pickle.pt", "data.pkl", None)


if __name__ == "__main__":
    main()
