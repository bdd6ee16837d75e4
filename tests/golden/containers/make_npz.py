"""Writes the .npz files of this folder by NumPy and Python's zipfile: every way in which they lay out an archive of arrays.

Element i (in C order) of an array is (7 i mod 11 - 5) / 8 in a float type, 7 i mod 11 - 5 in a signed integer type, 7 i mod 11 in an
unsigned one, and i mod 3 == 0 as a bool: tests/test_zip.c computes the same.

Usage: make_npz.py FOLDER
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np

WHEN = (2024, 1, 1, 0, 0, 0)


def array(dtype: str, *shape: int) -> np.ndarray:
    i = np.arange(int(np.prod(shape))) * 7 % 11
    kind = np.dtype(dtype).kind
    values = (i - 5) / 8 if kind == "f" else i - 5 if kind == "i" else i if kind == "u" else np.arange(len(i)) % 3 == 0
    return values.astype(dtype).reshape(shape)


def dtypes() -> dict[str, np.ndarray]:
    return {
        "f4": array("<f4", 3, 4),
        "f2": array("<f2", 5),
        "f8": array("<f8", 2, 3),
        "i8": array("<i8", 4),
        "i4": array("<i4", 1, 3),
        "i2": array("<i2", 3, 1),
        "i1": array("|i1", 7),
        "u1": array("|u1", 7),
        "b1": array("|b1", 5),
        "scalar": array("<f4"),
        "empty": array("<f4", 0, 3),
        "five": array("<f4", 2, 1, 3, 1, 2),
        "u4": array("<u4", 3),
        "text": np.array(["gemma", "scope"]),
        "time": np.array(["2024-01-01"], dtype="<M8[D]"),
    }


def two() -> dict[str, np.ndarray]:
    return {"f4": array("<f4", 3, 4), "b1": array("|b1", 5)}


def npy(value: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(value), version=version, allow_pickle=False)
    return stream.getvalue()


class Pipe(io.RawIOBase):
    """What can be written but not sought: zipfile puts sizes and CRC behind the data."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(memoryview(data))  # type: ignore[arg-type]
        self.bytes += part
        return len(part)


def fill(archive: zipfile.ZipFile, members: dict[str, bytes], method: int = zipfile.ZIP_STORED, wide: bool = False) -> None:
    for name, data in members.items():
        info = zipfile.ZipInfo(name, WHEN)
        info.compress_type = method
        with archive.open(info, "w", force_zip64=wide) as member:
            member.write(data)


def archive_of(arrays: dict[str, np.ndarray], method: int = zipfile.ZIP_STORED, wide: bool = False, comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        fill(archive, {f"{name}.npy": npy(value) for name, value in arrays.items()}, method, wide)
        archive.comment = comment
    return stream.getvalue()


def by_numpy(arrays: dict[str, np.ndarray], deflated: bool = False) -> bytes:
    stream = io.BytesIO()
    with mock.patch.object(zipfile.time, "localtime", return_value=time.struct_time((*WHEN, 0, 1, 0))):
        (np.savez_compressed if deflated else np.savez)(stream, **arrays)
    return stream.getvalue()


def streamed() -> bytes:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        fill(archive, {"f4.npy": npy(array("<f4", 3, 4))})
        fill(archive, {"b1.npy": npy(array("|b1", 5))}, zipfile.ZIP_DEFLATED)
        fill(archive, {"f2.npy": npy(array("<f2", 5))}, wide=True)
    return bytes(pipe.bytes)


def wide() -> bytes:
    """As if the members were beyond 2 GiB: zip64 fields in headers and directory, zip64 end record."""
    with mock.patch.object(zipfile, "ZIP64_LIMIT", 40):
        return archive_of(two(), wide=True)


def versions() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for major in (1, 2, 3):
            fill(archive, {f"v{major}.npy": npy(array("<f4", 3, 4), (major, 0))})
        fill(archive, {"notes.txt": b"no array", "folder/f4.npy": npy(array("<f4", 3, 4))})
    return stream.getvalue()


def main(folder: Path) -> None:
    fortran = {
        "f4": np.asfortranarray(array("<f4", 3, 4)),
        "f2": np.asfortranarray(array("<f2", 2, 3, 2)),
        "f8": np.asfortranarray(array("<f8", 4)),
        "empty": np.asfortranarray(array("<f4", 0, 3)),
    }
    files = {
        "stored": by_numpy(dtypes()),
        "deflated": by_numpy(dtypes(), deflated=True),
        "fortran": by_numpy(fortran),
        "zip64": wide(),
        "streamed": streamed(),
        "comment": archive_of(two(), zipfile.ZIP_DEFLATED, comment=b"PK: a comment " + bytes(30)),
        "versions": versions(),
    }
    for name, data in files.items():
        with np.load(io.BytesIO(data)) as read:
            assert all(read[key] is not None for key in read.files)
        (folder / f"{name}.npz").write_bytes(data)


main(Path(sys.argv[1]))
