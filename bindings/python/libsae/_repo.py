"""Which files of a repository are an SAE: rules for every published layout, over the names of its files alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from .errors import ArgError, NotFoundError

ROOT = "."
INDEX = ".index.json"
ENDINGS = (".safetensors", ".npz", ".pt", ".pth")


@dataclass(frozen=True)
class Rule:
    """A folder with the files `needs` and, of `weights`, the first pattern that some file has. `takes` come along where they are there."""

    format: str
    weights: tuple[str, ...]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    layers: bool = False  #: a file for each layer: the folder is a set


@dataclass(frozen=True)
class Choice:
    """An SAE of a repository: what to download (configurations first), and which file or folder of it to open."""

    id: str
    format: str
    files: tuple[str, ...]
    target: str
    layers: bool = False


CONFIGS = ("cfg.json", "config.json", "config.yaml", "hyperparams.json", "lm_config.json", "wandb-config.yaml", "wanb-config.yaml")
LLAMA_SCOPE = tuple(
    rf"{stem}\.{end}" for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final") for end in ("safetensors", "pt")
)

# In the order in which they are tried.
RULES = (
    Rule("saelens", (r"sae_weights\.safetensors",), ("cfg.json",), ("activation_whitening.safetensors",)),
    Rule("sparsify", (r"sae\.safetensors",), ("cfg.json",)),
    Rule("llama_scope", LLAMA_SCOPE, ("hyperparams.json",), ("lm_config.json",)),
    Rule("llamascopium", (r"sae_weights\.safetensors",), ("config.json",)),
    Rule("dictionary_learning", (r"ae\.pt",), ("config.json",)),
    Rule("gemma_scope", (r"params\.npz",)),
    Rule("gemma_scope_2", (r"params\.safetensors",), (), ("config.json",)),
    Rule("temporal", (r"latest_ckpt\.safetensors",), ("conf.yaml",)),
    Rule("crosscoder_learning", (r"model\.safetensors", r"model_final\.pt"), ("config.json",)),
    Rule("gemma_scope_2_clt", (r"params_layer_[0-9]+\.safetensors",), (), ("config.json",), layers=True),
    Rule("clt", (r"W_(enc|dec)_[0-9]+\.safetensors",), (), ("config.yaml",), layers=True),
    Rule("transcoders", (r"layer_[0-9]+\.safetensors",), (), CONFIGS, layers=True),
)

# Weights that are no SAE: statistics, states of a training, parts of a larger file.
OTHERS = re.compile(
    r"(sparsity|activation_whitening|activations_store_state)\.safetensors|(trainer_state|optimizer|scheduler|training_args|rng_state.*)\.pth?"
    r"|.*-[0-9]+-of-[0-9]+\.[a-z]+"
)


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts layer_10 behind layer_9."""
    return [(int(part), "") if re.fullmatch("[0-9]{1,18}", part) else (-1, part) for part in re.split("([0-9]+)", text)]


def join(folder: str, name: str) -> str:
    return name if folder == ROOT else f"{folder}/{name}"


def split(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, _, name = path.rpartition("/")
    return folder or ROOT, name


def folders(names: Iterable[str]) -> dict[str, set[str]]:
    """The files of each folder by their names in it. Those of a folder `checkpoints` are also known to the one above."""
    found: dict[str, set[str]] = {}
    for path in names:
        folder, name = split(path)
        found.setdefault(folder, set()).add(name)
        above, last = split(folder)
        if last == "checkpoints":
            found.setdefault(above, set()).add(f"{last}/{name}")
    return found


def match(rule: Rule, here: set[str]) -> list[str]:
    """The files of a folder that are an SAE by this rule, the weights behind the rest; none: it is not one."""
    if any(name not in here for name in rule.needs):
        return []
    for pattern in rule.weights:
        # A file in parts has an index in its place, which names them.
        for end in ("", re.escape(INDEX)):
            weights = sorted((name for name in here if re.fullmatch(pattern + end, name)), key=natural)
            if weights:
                return [*rule.needs, *(name for name in rule.takes if name in here), *weights]
    return []


def single(path: str, names: set[str], id: str | None = None) -> Choice:
    """A file that is an SAE by itself, with what may describe it beside it."""
    folder, name = split(path)
    beside = [f"{PurePosixPath(name).stem}_cfg.json", *CONFIGS]
    files = [join(folder, other) for other in beside]
    above, last = split(folder)
    if last == "checkpoints":
        files.append(join(above, "config.json"))
    return Choice(id or path, "file", (*(file for file in files if file in names), path), path)


def find(names: Iterable[str]) -> dict[str, Choice]:
    """Every SAE of a repository by its id: the path of its folder ("." for the root), or that of its file."""
    every = set(names)
    found: dict[str, Choice] = {}
    plain: list[str] = []
    taken: set[str] = set()
    for folder, here in folders(every).items():
        rule, files = next(((rule, files) for rule in RULES if (files := match(rule, here))), (None, []))
        weights = [join(folder, name) for name in here if name.endswith(ENDINGS) and not OTHERS.fullmatch(split(name)[1])]
        if rule is None:
            plain += weights
            continue
        found[folder] = Choice(folder, rule.format, tuple(join(folder, name) for name in files), folder, rule.layers)
        taken.update(weights)
        if rule.layers and rule.format != "clt":
            found.update((path, single(path, every)) for path in found[folder].files if path.endswith(ENDINGS))
    found.update((path, single(path, every)) for path in plain if path not in taken)
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def clt_layer(id: str, names: set[str]) -> Choice | None:
    """The encoder and the decoder of one layer of a cross-layer transcoder: its number, or the name of either file."""
    folder, name = split(id)
    layer = re.fullmatch(r"(?:W_(?:enc|dec)_)?([0-9]+)(?:\.safetensors)?", name)
    if layer is None:
        return None
    encoder, decoder = (join(folder, f"W_{side}_{layer[1]}.safetensors") for side in ("enc", "dec"))
    if encoder not in names or decoder not in names:
        return None
    config = join(folder, "config.yaml")
    return Choice(id, "clt", (*([config] if config in names else []), encoder, decoder), encoder)


def sample(ids: Iterable[str], most: int = 5) -> str:
    """The first few, for a sentence."""
    ids = list(ids)
    return ", ".join(repr(id) for id in ids[:most]) + (f", and {len(ids) - most} more" if len(ids) > most else "")


def nearest(id: str, ids: Iterable[str]) -> str:
    """For a sentence: those most like it, or else the first few."""
    ids = list(ids)
    close = difflib.get_close_matches(id, ids, n=5, cutoff=0.5)
    return f"the nearest are {sample(close)}" if close else f"there are {sample(ids)}"


def choose_any(found: dict[str, Choice], where: str) -> Choice:
    """What is meant where no id is given: the SAE of the root, or the only one."""
    root = found.get(ROOT)
    if root is not None and not root.layers:
        return root
    if len(found) == 1:
        return next(iter(found.values()))
    raise ArgError(f"{where} holds {len(found)} SAEs: choose one by sae_id, of {sample(found)}")


def choose(names: Iterable[str], sae_id: str | None, where: str) -> Choice:
    """The SAE that an id names: that of its folder, its file with or without the ending, the layer of a cross-layer transcoder, or
    the only SAE below the folder. `where` stands for the repository in sentences."""
    every = set(names)
    found = find(every)
    if not found:
        raise NotFoundError(f"{where} holds no SAE of a layout that libsae knows ({len(every)} files)")
    if sae_id is None:
        return choose_any(found, where)
    id = "/".join(part for part in sae_id.split("/") if part not in ("", ".")) or ROOT
    choice = found.get(id) or clt_layer(id, every)
    if choice is not None:
        return choice
    for ending in ("", *ENDINGS):
        if id + ending in every and (ending or id.endswith(ENDINGS)):
            return single(id + ending, every, id)
    below = [other for other in found if id == ROOT or other.startswith(f"{id}/")]
    if len(below) == 1:
        return found[below[0]]
    if below:
        raise ArgError(f"{where} holds {len(below)} SAEs below {sae_id!r}: choose one, of {sample(below)}")
    raise NotFoundError(f"{where} holds no SAE {sae_id!r} among its {len(found)}; {nearest(id, found)}")
