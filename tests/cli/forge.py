"""Writes a .sae file with another value in a vector, and with every checksum true: what only a comparison with the weights can find.

Usage: forge.py IN OUT SECTION VALUE FEATURE...
"""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
import sys
from pathlib import Path

HEAD, ENTRY, SCREEN = 64, 64, 70
AT_ID, AT_OFFSET, AT_BYTES, AT_DIGEST = 0, 32, 40, 48


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
xxhash.XXH3_64bits.restype = ctypes.c_uint64
xxhash.XXH3_128bits.restype = Hash128


def hash64(data: bytes) -> bytes:
    return struct.pack("<Q", xxhash.XXH3_64bits(data, ctypes.c_size_t(len(data))))


def hash128(data: bytes) -> bytes:
    h = xxhash.XXH3_128bits(data, ctypes.c_size_t(len(data)))
    return struct.pack(">QQ", h.high, h.low)


def number(data: bytearray, at: int, kind: str = "Q") -> int:
    return struct.unpack_from(f"<{kind}", data, at)[0]


def without_offset(entry: bytes) -> bytes:
    return entry[:AT_OFFSET] + bytes(8) + entry[AT_BYTES:]


def sign(data: bytearray) -> None:
    """Every checksum of the file, in the order of its sections: that of the screen is about those before it."""
    directory = HEAD + ENTRY * number(data, 24, "I")
    before = b""
    for entry in range(HEAD, directory, ENTRY):
        at, size = number(data, entry + AT_OFFSET), number(data, entry + AT_BYTES)
        if number(data, entry + AT_ID, "I") == SCREEN:
            data[at + 48 : at + 64] = hash128(before)
        data[entry + AT_DIGEST : entry + AT_DIGEST + 8] = hash64(bytes(data[at : at + size]))
        before += without_offset(bytes(data[entry : entry + ENTRY]))
    data[48:64] = hash128(bytes(data[:48]) + bytes(data[HEAD:directory]))


def main(source: str, to: str, section: int, value: float, features: list[int]) -> None:
    data = bytearray(Path(source).read_bytes())
    for entry in range(HEAD, HEAD + ENTRY * number(data, 24, "I"), ENTRY):
        if number(data, entry + AT_ID, "I") == section:
            for feature in features:
                struct.pack_into("<f", data, number(data, entry + AT_OFFSET) + 4 * feature, value)
    sign(data)
    Path(to).write_bytes(data)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), [int(f) for f in sys.argv[5:]])
