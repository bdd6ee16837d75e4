"""Published SAEs from the Hugging Face Hub: only the files of one SAE are downloaded, into the cache that all its tools share.

It needs the package huggingface_hub (`pip install 'libsae[hub]'`), which is imported when the first of these functions is called.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import _links, _repo
from .env import Env
from .errors import ArgError, FormatError, IoError, NotFoundError
from .model import Sae
from .model import open as open_sae

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
COMMIT = re.compile("[0-9a-f]{40}")
HTTP = ("requests", "urllib3", "httpx", "httpx2")
TRIES, PAUSE = 5, 1.0  #: of a download, and seconds between two


@dataclass(frozen=True)
class Pulled:
    """An SAE that lies in the cache."""

    path: Path  #: what to open
    repo: str
    id: str
    revision: str  #: the commit
    files: tuple[Path, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  #: what `open` must be told, since no file says it


@dataclass(frozen=True)
class _Source:
    """A repository, and how it may be reached."""

    repo: str
    revision: str | None
    cache: Path
    local: bool
    token: str | bool | None = None
    progress: bool | None = None


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ImportError(
            f"downloading SAEs needs the Python package huggingface_hub ({error}): pip install 'libsae[hub]', or huggingface_hub itself"
        ) from None
    return huggingface_hub


def _endpoint() -> str | None:
    """Where the hub is. Asked at each call, so that a program may say it after huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _source(repo: str, revision: str | None, cache_dir: str | os.PathLike[str] | None, local: bool, **more: Any) -> _Source:
    if not REPO.fullmatch(repo):
        raise ArgError(f"{repo!r} is no repository of the Hugging Face Hub: these are named user/name")
    if revision is not None and (not revision or ".." in revision.split("/")):
        raise ArgError(f"{revision!r} is no revision: give a branch, a tag or a commit")
    constants = _hub().constants
    cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE).expanduser()
    return _Source(repo, revision, cache, local or constants.HF_HUB_OFFLINE, **more)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _refusal(source: _Source, error: Exception, what: str) -> Exception:
    """Our exception for what the hub said."""
    errors = _hub().errors
    if isinstance(error, errors.GatedRepoError):
        return IoError(
            f"{source.repo} is gated: accept its terms on its page of the hub, then log in with `hf auth login` or give a token ({what})"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotFoundError(f"the hub has no repository {source.repo}, or it is private and needs a token")
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFoundError(f"{source.repo} has no revision {source.revision!r}")
    return IoError(f"{source.repo}: {what} failed: {_one_line(error)}")


def _answered(error: Exception) -> bool:
    """Did the hub answer with a refusal, rather than not answer or break?"""
    response = getattr(error, "response", None)
    return response is not None and response.status_code < 500


def _snapshot(source: _Source) -> Path | None:
    """The folder of the cache that holds this revision, if there is one."""
    store = source.cache / f"models--{source.repo.replace('/', '--')}"
    revision = source.revision or "main"
    try:
        commit = (store / "refs" / revision).read_text("ascii").strip()
    except (OSError, ValueError):
        commit = revision
    folder = store / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def _cached(source: _Source) -> list[str]:
    """Names of the files that the cache holds of this revision."""
    folder = _snapshot(source)
    return [] if folder is None else [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _listing(source: _Source) -> tuple[list[str], str | None]:
    """Names of the files of the repository. Where the hub cannot be asked they are those of the cache, and the second says why."""
    if source.local:
        why = "no network may be used"
    else:
        try:
            info = (
                _hub()
                .HfApi(endpoint=_endpoint(), library_name="libsae")
                .model_info(source.repo, revision=source.revision, token=source.token)
            )
            return [file.rfilename for file in info.siblings or []], None
        except Exception as error:  # of huggingface_hub, or of the HTTP library that its version uses
            if _answered(error):
                raise _refusal(source, error, "reading its list of files") from error
            why = f"the hub cannot be reached ({_one_line(error)})"
    names = _cached(source)
    if not names:
        revision = f" at revision {source.revision!r}" if source.revision else ""
        raise NotFoundError(f"{source.repo}{revision} is not in the cache {source.cache}, and {why}")
    return names, why


@contextmanager
def _bars(source: _Source) -> Iterator[None]:
    """With or without the bars that huggingface_hub shows on a terminal."""
    utils = _hub().utils
    quiet = source.progress is False and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            utils.enable_progress_bars()


def _broken(error: Exception) -> bool:
    """Did the connection break in the middle? That is an error of the HTTP library, and which one depends on the version of the hub's."""
    return type(error).__module__.partition(".")[0] in HTTP


def _fetch_file(source: _Source, name: str, revision: str | None) -> Path:
    """Downloads a file unless the cache has it. huggingface_hub takes up most broken connections itself; what it lets through is tried
    again, and goes on where it stopped if its version leaves the part of a file behind."""
    for left in reversed(range(TRIES)):
        try:
            path = _hub().hf_hub_download(
                source.repo,
                name,
                revision=revision,
                cache_dir=source.cache,
                token=source.token,
                endpoint=_endpoint(),
                library_name="libsae",
            )
            break
        except Exception as error:
            if not left or not _broken(error):
                raise _refusal(source, error, f"downloading {name}") from error
        time.sleep(PAUSE)
    return Path(path)


def _parts(index: Path, name: str, names: set[str]) -> list[str]:
    """The files that the index of a file in parts names, each of which must be beside it."""
    try:
        parts = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FormatError(f"{index}: an index of safetensors files has a 'weight_map' from tensors to files, this has none") from None
    folder, _ = _repo.split(name)
    paths = [_repo.join(folder, str(part)) for part in parts]
    missing = [path for path in paths if path not in names]
    if missing:
        raise NotFoundError(f"{index} names {_repo.sample(missing)}, which is not there")
    return paths


def _fetch(source: _Source, files: tuple[str, ...], names: set[str], root: Path | None) -> tuple[Path, list[Path]]:
    """Root of the snapshot, and the paths of these files in it: downloaded, unless `root` says that they lie there."""
    local = root is not None
    revision = source.revision
    paths = []
    queue = list(files)
    with _bars(source):
        for name in queue:
            path = root / name if local and root is not None else _fetch_file(source, name, revision)
            # The first file says which commit the revision is; the others are of the same, whatever is pushed meanwhile.
            if root is None:
                root = path.parents[name.count("/")]
                revision = root.name
            paths.append(path)
            if name.endswith(_repo.INDEX):
                queue += _parts(path, name, names)
    assert root is not None
    return root, paths


def _registry_file() -> Path | None:
    """The list of releases inside of SAELens, which is not imported: that would import torch."""
    spec = importlib.util.find_spec("sae_lens")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(folder) / "pretrained_saes.yaml"
        if file.is_file():
            return file
    return None


@lru_cache(maxsize=1)
def _registry(file: Path) -> dict[str, Any]:
    import yaml  # comes with huggingface_hub

    with file.open("rb") as text:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _release(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A release of SAELens and its SAEs by their ids."""
    _hub()
    file = _registry_file()
    if file is None:
        raise ImportError(
            f"{name!r} is no repository of the Hugging Face Hub (user/name), and the releases of SAELens are known where it is installed: "
            "pip install sae-lens, or name the repository"
        )
    releases = _registry(file)
    if name not in releases:
        raise NotFoundError(
            f"the SAELens that is installed has no release {name!r} among its {len(releases)}; {_repo.nearest(name, releases)}"
        )
    return releases[name], {str(entry["id"]): entry for entry in releases[name]["saes"]}


def _options(choice: _repo.Choice, root: Path, release: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the registry of SAELens adds to the files of an SAE."""
    if choice.format != "saelens":
        return {}
    override = (release.get("config_overrides") or {}).get("normalize_activations")
    stored = override
    if stored is None:
        try:
            stored = json.loads((root / choice.files[0]).read_bytes()).get("normalize_activations")
        except (ValueError, AttributeError, RecursionError):
            return {}  # opening it says what is wrong
    options = {} if override is None else {"normalize_activations": override}
    if stored in ("expected_average_only_in", True) and entry.get("norm_scaling_factor") is not None:
        options["norm_scaling_factor"] = float(entry["norm_scaling_factor"])
    return options


def _resolve(repo_or_release: str, sae_id: str | None) -> tuple[str, str | None, dict[str, Any], dict[str, Any]]:
    """Repository and path of an SAE, and what the registry says of its release and of itself, when it came from there."""
    if "/" in repo_or_release:
        return repo_or_release, sae_id, {}, {}
    release, entries = _release(repo_or_release)
    if sae_id is None and len(entries) == 1:
        sae_id = next(iter(entries))
    if sae_id is None:
        raise ArgError(f"the release {repo_or_release} holds {len(entries)} SAEs: choose one by sae_id, of {_repo.sample(entries)}")
    if sae_id not in entries:
        near = _repo.nearest(sae_id, entries)
        raise NotFoundError(f"the release {repo_or_release} has no SAE {sae_id!r} among its {len(entries)}; {near}")
    return release["repo_id"], str(entries[sae_id]["path"]), release, entries[sae_id]


def _linked(source: _Source, names: list[str], offline: bool) -> dict[str, _links.Link]:
    """Where a repository holds no SAE, but a configuration that names those of others: their ids, and where they are."""
    found: dict[str, _links.Link] = {}
    configs = [name for name in names if _repo.split(name)[1] == "config.yaml"]
    if not configs or _repo.find(names):
        return found
    for name in configs:
        _, files = _fetch(source, (name,), set(names), _snapshot(source) if offline else None)
        folder, _ = _repo.split(name)
        found.update((_repo.join(folder, f"layer_{i}"), link) for i, link in enumerate(_links.read(files[0])))
    return found


def _choose_linked(found: Mapping[str, _links.Link], sae_id: str | None, where: str) -> _links.Link:
    """The transcoder of a layer: "layer_7", or "7" where there is one set."""
    if sae_id is None and len(found) == 1:
        return next(iter(found.values()))
    if sae_id is None:
        raise ArgError(f"{where} names transcoders of {len(found)} layers: choose one by sae_id, of {_repo.sample(found)}")
    id = f"layer_{sae_id}" if sae_id.isdecimal() else sae_id.strip("/")
    if id not in found:
        raise NotFoundError(f"{where} names transcoders of {len(found)} layers, and {sae_id!r} is none of them: {_repo.sample(found)}")
    return found[id]


def fetch(
    repo_or_release: str,
    sae_id: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool | None = None,
) -> Pulled:
    """As `pull`, and tells all that is known of what lies in the cache then."""
    repo, path, release, entry = _resolve(repo_or_release, sae_id)
    source = _source(repo, revision, cache_dir, local_files_only, token=token, progress=progress)
    names, offline = _listing(source)
    where = repo if offline is None else f"the cache of {repo} ({offline})"
    linked = _linked(source, names, offline is not None)
    if linked:
        return _fetch_link(_choose_linked(linked, path, where), source)
    choice = _repo.choose(names, path, where)
    root, files = _fetch(source, choice.files, set(names), None if offline is None else _snapshot(source))
    options = _options(choice, root, release, entry)
    return Pulled(root / choice.target, repo, choice.id, root.name, tuple(files), options)


def _fetch_link(link: _links.Link, source: _Source) -> Pulled:
    """The SAE of another repository, reached as the one that names it. That it names a third one is not followed."""
    there = _Source(link.repo, link.revision, source.cache, source.local, source.token, source.progress)
    names, offline = _listing(there)
    where = f"{link.repo}, which {source.repo} names," if offline is None else f"the cache of {link.repo} ({offline})"
    choice = _repo.choose(names, link.path, where)
    root, files = _fetch(there, choice.files, set(names), None if offline is None else _snapshot(there))
    return Pulled(root / choice.target, link.repo, choice.id, root.name, tuple(files))


def pull(
    repo_or_release: str,
    sae_id: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool | None = None,
) -> Path:
    """Downloads the files of one published SAE, unless the cache has them, and returns the path to give to `libsae.open`.

    repo_or_release   a repository of the Hugging Face Hub, "google/gemma-scope-2b-pt-res", or a release of SAELens,
                      "gpt2-small-res-jb", where the package sae-lens is installed
    sae_id            the path of the SAE in the repository, "layer_20/width_16k/average_l0_71", or its id in the release; None where
                      there is only one
    revision          a branch, a tag or a commit
    cache_dir         instead of the cache that all tools of the hub share
    local_files_only  use what the cache has and no network, as HF_HUB_OFFLINE=1 does
    token             for repositories that are private or gated, instead of the one that `hf auth login` keeps; False: none
    progress          False: no bar on a terminal; elsewhere there is none

    Raises NotFoundError, IoError, ArgError, FormatError; ImportError without huggingface_hub.
    """
    return fetch(
        repo_or_release,
        sae_id,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        progress=progress,
    ).path


def from_pretrained(
    repo_or_release: str,
    sae_id: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool | None = None,
    env: Env | None = None,
    **options: Any,
) -> Sae:
    """Opens a published SAE, which is downloaded first unless the cache has it: `pull`, then `open` with these options.

    sae = libsae.from_pretrained("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")

    For a release of SAELens the scale of the input, where only its registry knows it, is an option already.
    """
    pulled = fetch(
        repo_or_release,
        sae_id,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        progress=progress,
    )
    return open_sae(pulled.path, env=env, **{**pulled.options, **options})


def list_pretrained(
    repo_or_release: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> list[str]:
    """The ids of the SAEs of a repository, or of a release of SAELens. "." is the SAE whose files lie at the root."""
    if "/" not in repo_or_release:
        return list(_release(repo_or_release)[1])
    source = _source(repo_or_release, revision, cache_dir, local_files_only, token=token)
    names, offline = _listing(source)
    return list(_repo.find(names)) or list(_linked(source, names, offline is not None))
