"""Sets of transcoders whose configuration names files of other repositories, as circuit-tracer's `config.yaml` does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .errors import FormatError

_MOST_BYTES = 1 << 20
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


class Link(NamedTuple):
    """A file of a repository."""

    repo: str
    path: str
    revision: str | None


def parse(uri: object, where: str) -> Link:
    """hf://user/name/path?revision=main"""
    parts = urlsplit(uri) if isinstance(uri, str) else None
    repo, _, path = (parts.netloc + parts.path).lstrip("/").partition("/") if parts else ("", "", "")
    name, _, path = path.partition("/")
    repo, path = f"{repo}/{name}", unquote(path)
    if parts is None or parts.scheme != "hf" or not re.fullmatch(f"{_NAME}/{_NAME}", repo) or not path or ".." in path.split("/"):
        raise FormatError(f"{where} is {str(uri)[:80]!r}: a transcoder of another repository is named hf://user/name/path")
    return Link(repo, path, parse_qs(parts.query).get("revision", [None])[0])


def read(file: Path) -> list[Link]:
    """The transcoders that a config.yaml names, by layer; none where it names none."""
    import yaml  # comes with huggingface_hub

    if file.stat().st_size > _MOST_BYTES:
        return []
    try:
        config = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    listed = config.get("transcoders") if isinstance(config, dict) else None
    if listed is None:
        return []
    if not isinstance(listed, list) or not listed:
        raise FormatError(f"{file}: transcoders is to be a list of files, one for each layer, and is {str(listed)[:40]!r}")
    return [parse(uri, f"{file}: transcoders[{layer}]") for layer, uri in enumerate(listed)]
