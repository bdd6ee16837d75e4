"""The programs that the demo calls, the files of its world, and what they say."""

from __future__ import annotations

import ast
import json
import subprocess
from array import array
from pathlib import Path
from typing import Any

MAX_PROMPTS = 64  # that the engine takes in one call


class DemoError(Exception):
    """One sentence for the person who ran the demo."""


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise DemoError(f"{path} cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise DemoError(f"{path} is not JSON: {e}") from e


def read_int32(path: Path, columns: int) -> list[tuple[int, ...]]:
    """The rows of a .npy file as the engine writes it: int32, C order, [rows][columns]."""
    data = path.read_bytes()
    end = 10 + int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10:end].decode("latin-1"))
    if data[:6] != b"\x93NUMPY" or header["descr"] != "<i4" or header["shape"][1:] != (columns,):
        raise DemoError(f"{path} is not int32 [rows][{columns}]: {header}")
    values = array("i")
    values.frombytes(data[end:])
    return list(zip(*[iter(values)] * columns))


class Tools:
    """`engine` and `sae` of a build, on the files of a world."""

    def __init__(self, build: Path, world: Path) -> None:
        self._engine, self._sae = build / "engine", build / "sae"
        self.model, self._tokenizer = world / "world.bin", world / "tokenizer.bin"
        self.dictionary, self.catalog = world / "sae", world / "features.catalog"
        self.truth: dict[str, Any] = {}
        for program in (self._engine, self._sae):
            if not program.exists():
                raise DemoError(f"{program} is not built: run `make demo`, or name another build with --build")
        for file in (self.model, self._tokenizer, self.dictionary, self.catalog):
            if not file.exists():
                raise DemoError(f"{file} is not there: name a folder with the demo's world with --world")
        self.truth = read_json(world / "truth.json")

    def _said(self, *command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        except OSError as e:
            raise DemoError(f"{command[0]} cannot be run ({e.strerror})") from e
        if done.returncode:
            raise DemoError(done.stderr.strip() or f"{' '.join(command[:2])} ended with {done.returncode}")
        return done.stdout

    def engine(self, command: str, *options: str, prompts: tuple[str, ...] = (), tokenizer: bool = True) -> Any:
        """What `engine COMMAND` says, as JSON."""
        words = [str(self._engine), command, "-m", str(self.model), "--json", *options]
        if tokenizer:
            words += ["-t", str(self._tokenizer)]
        for prompt in prompts:
            words += ["-p", prompt]
        return json.loads(self._said(*words))

    def logprobs(self, *options: str, prompts: tuple[str, ...]) -> list[Any]:
        """The sequences of `engine logprobs` for any number of prompts."""
        parts = [prompts[i : i + MAX_PROMPTS] for i in range(0, len(prompts), MAX_PROMPTS)]
        return [s for part in parts for s in self.engine("logprobs", *options, prompts=part)["sequences"]]

    def sae(self, *words: str) -> Any:
        """What a command of `sae` says, as JSON."""
        return json.loads(self._said(str(self._sae), *words, "--json"))

    def features(self) -> list[dict[str, Any]]:
        """Every feature of the catalog, whole."""
        return [json.loads(line) for line in self._said(str(self._sae), "catalog", "export", str(self.catalog)).splitlines()]
