"""Writes the GGUF fixtures of test_gguf.c with the `gguf` package (0.19), which llama.cpp's own converters use.

Usage: make_gguf.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quants


def values(*shape: int) -> np.ndarray:
    """Numbers that every float type holds exactly; test_gguf.c knows the rule."""
    n = int(np.prod(shape))
    return (((np.arange(n) * 7) % 11 - 5) / 8).reshape(shape)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def control_vector(path: Path) -> None:
    """As repeng exports it."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 3)
    for layer in (3, 2, 1):
        writer.add_tensor(f"direction.{layer}", (values(12) * layer).astype(np.float32))
    finish(writer)


def every_type(path: Path) -> None:
    writer = GGUFWriter(path, "every")
    writer.add_custom_alignment(64)
    writer.add_uint8("n.u8", 200)
    writer.add_int8("n.i8", -100)
    writer.add_uint16("n.u16", 60000)
    writer.add_int16("n.i16", -30000)
    writer.add_uint32("n.u32", 4000000000)
    writer.add_int32("n.i32", -2000000000)
    writer.add_uint64("n.u64", 1 << 63)
    writer.add_int64("n.i64", -(1 << 53))
    writer.add_float32("n.f32", 0.1)
    writer.add_float64("n.f64", 0.1)
    writer.add_bool("n.true", True)
    writer.add_bool("n.false", False)
    writer.add_string("t.text", "h\u00e9llo\nworld")
    writer.add_array("a.texts", ["a", "", "\u20ac"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.floats", [0.5, 1.5])
    writer.add_array("a.bools", [True, False])
    writer.add_key_value("a.bytes", list(range(7)), GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT8)
    for name, dtype in (("f32", np.float32), ("f16", np.float16), ("f64", np.float64)):
        writer.add_tensor(name, values(2, 5).astype(dtype))
    for name, dtype in (("i8", np.int8), ("i16", np.int16), ("i32", np.int32), ("i64", np.int64)):
        writer.add_tensor(name, (values(2, 5) * 8).astype(dtype))
    bf16 = quants.quantize(values(2, 5).astype(np.float32), GGMLQuantizationType.BF16)
    writer.add_tensor("bf16", bf16, raw_dtype=GGMLQuantizationType.BF16)
    q8 = quants.quantize(values(3, 64).astype(np.float32), GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8", q8, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("deep", values(2, 3, 4, 5).astype(np.float32))
    writer.add_tensor("one", np.array([0.75], dtype=np.float32))
    finish(writer)


def main(folder: Path) -> None:
    control_vector(folder / "control_vector.gguf")
    every_type(folder / "every_type.gguf")


main(Path(sys.argv[1]))
