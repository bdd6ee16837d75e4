"""Published SAEs, from a hub on loopback: what is downloaded and what is not, broken downloads, no network, ids that name nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, PACKAGE
from hub_server import Hub, Repo, running
from safetensors.numpy import save

import libsae

# huggingface_hub reads these when it is imported: nothing of the user's is read or written.
HOME = tempfile.TemporaryDirectory()
os.environ.update(HF_HOME=HOME.name, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
for name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_OFFLINE",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
):
    os.environ.pop(name, None)
pytest.importorskip("huggingface_hub")

NAME = "someone/some-saes"
JUMPRELU, TOPK = "blocks.3/jumprelu_f32", "blocks.11/topk"
TOOL = Path(libsae.library).with_name("sae")


def fixture(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (GOLDEN / "saelens" / name).iterdir()}


def at(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as server:
        server.repos[NAME] = Repo()
        server.repos[NAME].push(
            {
                "README.md": b"# SAEs\n",
                **at(JUMPRELU, {**fixture("jumprelu_f32"), "sparsity.safetensors": b"statistics", "runner_cfg.json": b"{}"}),
                **at(TOPK, fixture("topk")),
                **at("factor", fixture("standard_expected_average_only_in")),
            }
        )
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def large() -> dict[str, bytes]:
    """A SAELens folder with weights of 12 MiB: huggingface_hub writes what it receives in pieces of 10."""
    rng = np.random.default_rng(5)
    d_in, d_sae = 256, 6144
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    cfg = {"architecture": "standard", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "sae_lens_version": "6.54.12"}
    return {"cfg.json": json.dumps(cfg).encode(), "sae_weights.safetensors": save(tensors)}


def python(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, with this package."""
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE), "LIBSAE_LIBRARY": libsae.library, **env}
    return subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_only_what_is_needed_is_downloaded_and_only_once(hub: Hub, tmp_path: Path) -> None:
    with libsae.from_pretrained(NAME, JUMPRELU, cache_dir=tmp_path) as sae:
        x = np.load(GOLDEN / "saelens" / "jumprelu_f32" / "x.npy")
        with libsae.open(GOLDEN / "saelens" / "jumprelu_f32") as same:
            assert np.array_equal(sae.encode(x).dense(), same.encode(x).dense())
            assert sae.fingerprint == same.fingerprint
        # The cache has links to blobs, and the path is that of the link, not of the blob.
        weights = Path(sae.info["path"])
        assert weights.is_symlink()
        assert weights.parts[-4:-1] == (hub.repos[NAME].refs["main"], *JUMPRELU.split("/"))
    assert hub.files() == [f"{JUMPRELU}/cfg.json", f"{JUMPRELU}/sae_weights.safetensors"]
    hub.log.clear()
    libsae.from_pretrained(NAME, JUMPRELU, cache_dir=tmp_path).close()
    assert hub.log  # it did ask whether there is a newer one
    assert hub.files() == []


def test_options_and_env_reach_open(hub: Hub, tmp_path: Path) -> None:
    with libsae.Env(threads=2) as env, libsae.from_pretrained(NAME, TOPK, cache_dir=tmp_path, env=env, k=3) as sae:
        assert sae.info["k"] == 3
    with pytest.raises(libsae.ShapeError):
        libsae.from_pretrained(NAME, TOPK, cache_dir=tmp_path, d_in=5)
    with pytest.raises(TypeError):
        libsae.from_pretrained(NAME, TOPK, cache_dir=tmp_path, colour="red")


@pytest.mark.parametrize("cuts", [[11_000_000], [10_500_000, 700_000]])
def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path, cuts: list[int]) -> None:
    files = large()
    hub.repos[NAME].push(files)
    hub.cuts["sae_weights.safetensors"] = list(cuts)
    path = libsae.pull(NAME, cache_dir=tmp_path)
    asked = [a.range for a in hub.log if a.method == "GET" and a.path.endswith("sae_weights.safetensors")]
    assert asked[0] is None
    assert len(asked) == 1 + len(cuts)
    for range in asked[1:]:
        assert range is not None
        assert int(range[len("bytes=") : -1]) >= 10 << 20
    assert (path / "sae_weights.safetensors").read_bytes() == files["sae_weights.safetensors"]
    libsae.open(path, check=True).close()


def test_a_connection_that_is_reset_is_tried_again(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libsae.hub.PAUSE", 0)
    hub.reset = True
    file = f"{TOPK}/sae_weights.safetensors"
    hub.cuts[file] = [100] * 4
    path = libsae.pull(NAME, TOPK, cache_dir=tmp_path)
    assert (path / "sae_weights.safetensors").read_bytes() == fixture("topk")["sae_weights.safetensors"]
    file = f"{JUMPRELU}/sae_weights.safetensors"
    hub.cuts[file] = [100] * 1000
    with pytest.raises(libsae.IoError, match=f"{NAME}: downloading {file} failed: "):
        libsae.pull(NAME, JUMPRELU, cache_dir=tmp_path)


def test_a_newer_commit_is_taken_and_an_old_one_can_be_named(hub: Hub, tmp_path: Path) -> None:
    old = hub.repos[NAME].refs["main"]
    first = libsae.pull(NAME, TOPK, cache_dir=tmp_path)
    hub.repos[NAME].push(at(TOPK, {**fixture("topk"), **fixture("jumprelu_f32")}))
    second = libsae.pull(NAME, TOPK, cache_dir=tmp_path)
    assert first != second
    with libsae.open(second) as sae:
        assert sae.info["architecture"] == "jumprelu"
    assert libsae.pull(NAME, TOPK, revision=old, cache_dir=tmp_path) == first
    assert libsae.pull(NAME, TOPK, revision=old, cache_dir=tmp_path, local_files_only=True) == first
    assert libsae.pull(NAME, TOPK, cache_dir=tmp_path, local_files_only=True) == second


def test_without_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(libsae.NotFoundError, match="is not in the cache .* no network may be used"):
        libsae.pull(NAME, TOPK, cache_dir=tmp_path, local_files_only=True)
    assert hub.log == []
    path = libsae.pull(NAME, TOPK, cache_dir=tmp_path)
    hub.log.clear()
    assert libsae.pull(NAME, TOPK, cache_dir=tmp_path, local_files_only=True) == path
    assert libsae.list_pretrained(NAME, cache_dir=tmp_path, local_files_only=True) == [TOPK]
    with pytest.raises(libsae.NotFoundError, match=f"the cache of {NAME} .* holds no SAE '{JUMPRELU}'"):
        libsae.pull(NAME, JUMPRELU, cache_dir=tmp_path, local_files_only=True)
    code = f"import libsae; libsae.from_pretrained({NAME!r}, {TOPK!r}, cache_dir={str(tmp_path)!r}); libsae.pull({NAME!r}, 'x')"
    run = python("-c", code, HF_HUB_OFFLINE="1")
    assert "no network may be used" in run.stderr.splitlines()[-1], run.stderr
    assert "line 1" in run.stderr
    assert hub.log == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert libsae.pull(NAME, TOPK, cache_dir=tmp_path) == path
    with pytest.raises(libsae.NotFoundError, match=f"{NAME} is not in the cache .* cannot be reached"):
        libsae.pull(NAME, TOPK, cache_dir=tmp_path / "other")


def test_a_download_that_was_broken_off_is_no_sae_of_the_cache(hub: Hub, tmp_path: Path) -> None:
    weights = libsae.pull(NAME, TOPK, cache_dir=tmp_path) / "sae_weights.safetensors"
    weights.resolve().unlink()
    with pytest.raises(libsae.NotFoundError, match="holds no SAE"):
        libsae.pull(NAME, TOPK, cache_dir=tmp_path, local_files_only=True)
    libsae.from_pretrained(NAME, TOPK, cache_dir=tmp_path).close()


def test_ids_that_name_nothing(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        libsae.NotFoundError, match=f"{NAME} holds no SAE 'blocks.3/jumprelu_f23' among its 3; the nearest are '{JUMPRELU}'"
    ):
        libsae.pull(NAME, "blocks.3/jumprelu_f23", cache_dir=tmp_path)
    with pytest.raises(libsae.NotFoundError, match=r"there are 'blocks.3/.*', 'blocks.11/.*', 'factor'"):
        libsae.pull(NAME, "qqq", cache_dir=tmp_path)
    with pytest.raises(libsae.ArgError, match="holds 3 SAEs: choose one by sae_id"):
        libsae.pull(NAME, cache_dir=tmp_path)
    assert hub.files() == []
    # The only one below a folder is meant by it.
    assert libsae.pull(NAME, "blocks.11", cache_dir=tmp_path).name == "topk"
    assert libsae.pull(NAME, f"./{TOPK}/", cache_dir=tmp_path).name == "topk"
    assert libsae.list_pretrained(NAME) == [JUMPRELU, TOPK, "factor"]


def test_repositories_that_are_not_open(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(libsae.NotFoundError, match="no repository someone/else"):
        libsae.pull("someone/else", "x", cache_dir=tmp_path)
    with pytest.raises(libsae.NotFoundError, match="no revision 'nightly'"):
        libsae.pull(NAME, TOPK, revision="nightly", cache_dir=tmp_path)
    for name in ("a/b/c", "/b", "../b", "a/..", "a b/c", "a/", "a/b\n"):
        with pytest.raises(libsae.ArgError, match="no repository of the Hugging Face Hub"):
            libsae.pull(name, "x", cache_dir=tmp_path)
    for revision in ("", "../../x", ".."):
        with pytest.raises(libsae.ArgError, match="no revision"):
            libsae.pull(NAME, TOPK, revision=revision, cache_dir=tmp_path)
    hub.repos[NAME].token = "hf_secret"
    with pytest.raises(libsae.IoError, match=r"is gated: accept its terms .* `hf auth login`"):
        libsae.pull(NAME, TOPK, cache_dir=tmp_path)
    assert libsae.pull(NAME, TOPK, cache_dir=tmp_path, token="hf_secret").name == "topk"
    hub.repos["a/empty"] = Repo()
    hub.repos["a/empty"].push({"README.md": b""})
    with pytest.raises(libsae.NotFoundError, match="a/empty holds no SAE of a layout"):
        libsae.pull("a/empty", cache_dir=tmp_path)
    # A name that would leave the cache is huggingface_hub's to refuse.
    hub.repos["a/evil"] = Repo()
    hub.repos["a/evil"].push({"../../../../evil/params.npz": b"x"})
    with pytest.raises(libsae.IoError, match="evil"):
        libsae.pull("a/evil", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("evil"))


# Names of a repository; the id; what is downloaded of it; what is opened.
LAYERS = [f"layer_{i}.safetensors" for i in range(11)]
CLT = [f"W_{side}_{i}.safetensors" for side in ("dec", "enc") for i in range(3)]
FORMATS = {
    "gemma_scope": (
        ["layer_2/width_16k/average_l0_7/params.npz", "layer_20/width_16k/average_l0_71/params.npz", "README.md"],
        "layer_20/width_16k/average_l0_71",
        ["layer_20/width_16k/average_l0_71/params.npz"],
        "layer_20/width_16k/average_l0_71",
    ),
    "gemma_scope_2": (
        ["resid_post/l_7/config.json", "resid_post/l_7/params.safetensors", "resid_post/l_8/params.safetensors"],
        "resid_post/l_7",
        ["resid_post/l_7/config.json", "resid_post/l_7/params.safetensors"],
        "resid_post/l_7",
    ),
    "gemma_scope_2_without_config": (
        ["a/l_8/params.safetensors", "a/l_9/params.safetensors"],
        "a/l_8",
        ["a/l_8/params.safetensors"],
        "a/l_8",
    ),
    "gemma_scope_2_clt": (
        ["clt/w/config.json", "clt/w/params_layer_0.safetensors", "clt/w/params_layer_1.safetensors"],
        "clt/w",
        ["clt/w/config.json", "clt/w/params_layer_0.safetensors", "clt/w/params_layer_1.safetensors"],
        "clt/w",
    ),
    "gemma_scope_2_clt_layer": (
        ["clt/w/config.json", "clt/w/params_layer_0.safetensors", "clt/w/params_layer_1.safetensors"],
        "clt/w/params_layer_1",
        ["clt/w/config.json", "clt/w/params_layer_1.safetensors"],
        "clt/w/params_layer_1.safetensors",
    ),
    "sparsify": (
        ["layers.3/cfg.json", "layers.3/sae.safetensors", "layers.3/optimizer.pt", "layers.4/cfg.json", "layers.4/sae.safetensors"],
        "layers.3",
        ["layers.3/cfg.json", "layers.3/sae.safetensors"],
        "layers.3",
    ),
    "dictionary_learning": (
        ["r/trainer_0/config.json", "r/trainer_0/ae.pt", "r/trainer_0/eval_results.json", "r/trainer_1/config.json", "r/trainer_1/ae.pt"],
        "r/trainer_0",
        ["r/trainer_0/config.json", "r/trainer_0/ae.pt"],
        "r/trainer_0",
    ),
    "dictionary_learning_checkpoint": (
        ["t/config.json", "t/ae.pt", "t/checkpoints/ae_100.pt", "t/checkpoints/ae_200.pt"],
        "t/checkpoints/ae_100",
        ["t/config.json", "t/checkpoints/ae_100.pt"],
        "t/checkpoints/ae_100.pt",
    ),
    "llama_scope": (
        ["L0R/hyperparams.json", "L0R/lm_config.json", "L0R/checkpoints/final.safetensors", "L1R/hyperparams.json", "L0R/notes.txt"],
        "L0R",
        ["L0R/hyperparams.json", "L0R/lm_config.json", "L0R/checkpoints/final.safetensors"],
        "L0R",
    ),
    "llamascopium": (["config.json", "sae_weights.safetensors", "README.md"], None, ["config.json", "sae_weights.safetensors"], ""),
    "circuit_tracer": (["config.yaml", *LAYERS, "README.md"], ".", ["config.yaml", *LAYERS], ""),
    "circuit_tracer_layer": (["config.yaml", *LAYERS], "layer_10", ["config.yaml", "layer_10.safetensors"], "layer_10.safetensors"),
    "mwhanna": (
        ["config.yaml", "wanb-config.yaml", *LAYERS],
        "layer_3.safetensors",
        ["config.yaml", "wanb-config.yaml", "layer_3.safetensors"],
        "layer_3.safetensors",
    ),
    "clt": (["config.yaml", *CLT, "features/index.bin"], None, ["config.yaml", *CLT], ""),
    "clt_layer": (["config.yaml", *CLT], "1", ["config.yaml", "W_enc_1.safetensors", "W_dec_1.safetensors"], "W_enc_1.safetensors"),
    "clt_layer_by_file": (
        ["s/" + n for n in CLT],
        "s/W_dec_2.safetensors",
        ["s/W_enc_2.safetensors", "s/W_dec_2.safetensors"],
        "s/W_enc_2.safetensors",
    ),
    "temporal": (
        ["g/layer_12/temporal/conf.yaml", "g/layer_12/temporal/latest_ckpt.safetensors", "g/layer_13/temporal/conf.yaml"],
        "g/layer_12",
        ["g/layer_12/temporal/conf.yaml", "g/layer_12/temporal/latest_ckpt.safetensors"],
        "g/layer_12/temporal",
    ),
    "crosscoder_learning": (["config.json", "model.safetensors", "model_final.pt"], None, ["config.json", "model.safetensors"], ""),
    "crosscoder_learning_pt": (["config.json", "model_final.pt"], None, ["config.json", "model_final.pt"], ""),
    "openai": (
        ["resid/autoencoders/0.pt", "resid/autoencoders/1.pt"],
        "resid/autoencoders/0",
        ["resid/autoencoders/0.pt"],
        "resid/autoencoders/0.pt",
    ),
    "goodfire": (
        ["README.md", "Llama-3.1-8B-Instruct-SAE-l19.pth"],
        None,
        ["Llama-3.1-8B-Instruct-SAE-l19.pth"],
        "Llama-3.1-8B-Instruct-SAE-l19.pth",
    ),
    "qwen_scope": (["layer0.sae.pt", "layer1.sae.pt", "layer10.sae.pt"], "layer1.sae.pt", ["layer1.sae.pt"], "layer1.sae.pt"),
    "connor_rob": (
        ["gpt2_L0_lr1.20e-03_v9.pt", "gpt2_L0_lr1.20e-03_v9_cfg.json", "gpt2_L1_lr1.20e-03_v9.pt"],
        "gpt2_L0_lr1.20e-03_v9.pt",
        ["gpt2_L0_lr1.20e-03_v9_cfg.json", "gpt2_L0_lr1.20e-03_v9.pt"],
        "gpt2_L0_lr1.20e-03_v9.pt",
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_the_files_of_each_layout(hub: Hub, tmp_path: Path, case: str) -> None:
    names, id, files, target = FORMATS[case]
    hub.repos["a/b"] = Repo()
    hub.repos["a/b"].push({name: name.encode() for name in names})
    path = libsae.pull("a/b", id, cache_dir=tmp_path)
    assert hub.files() == files
    root = path
    for _ in Path(target).parts:
        root = root.parent
    assert path == root / target
    assert root.parent.name == "snapshots"
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()} == {
        name: name.encode() for name in files
    }
    # Every id of the list works, and gives another SAE.
    ids = libsae.list_pretrained("a/b")
    assert len({libsae.pull("a/b", other, cache_dir=tmp_path) for other in ids}) == len(ids)


def named(*uris: object) -> bytes:
    return json.dumps({"model_kind": "transcoder_set", "transcoders": list(uris)}).encode()  # JSON is YAML


def test_a_set_of_files_of_other_repositories(hub: Hub, tmp_path: Path) -> None:
    """As circuit-tracer's configurations name them."""
    hub.repos["a/set"] = Repo()
    commit = hub.repos[NAME].push({"old/params.npz": b"old"}, "v1")
    uris = [f"hf://{NAME}/{JUMPRELU}/sae_weights.safetensors", f"hf://{NAME}/old/params.npz?revision=v1", f"hf://{NAME}/none.npz"]
    hub.repos[NAME].refs["main"] = next(c for c in hub.repos[NAME].commits if c != commit)
    hub.repos["a/set"].push({"config.yaml": named(*uris), "README.md": b""})
    assert libsae.list_pretrained("a/set", cache_dir=tmp_path) == ["layer_0", "layer_1", "layer_2"]
    assert libsae.from_pretrained("a/set", "layer_0", cache_dir=tmp_path).info["architecture"] == "jumprelu"
    old = libsae.pull("a/set", "1", cache_dir=tmp_path)
    assert old.parts[-3:] == (commit, "old", "params.npz") and old.read_bytes() == b"old"
    asked = len(hub.log)
    assert libsae.pull("a/set", "layer_1", cache_dir=tmp_path, local_files_only=True) == old
    assert len(hub.log) == asked
    with pytest.raises(libsae.ArgError, match="a/set names transcoders of 3 layers: choose one by sae_id, of 'layer_0'"):
        libsae.pull("a/set", cache_dir=tmp_path)
    with pytest.raises(libsae.NotFoundError, match="a/set names transcoders of 3 layers, and '3' is none of them"):
        libsae.pull("a/set", "3", cache_dir=tmp_path)
    with pytest.raises(libsae.NotFoundError, match=f"{NAME}, which a/set names, holds no SAE 'none.npz'"):
        libsae.pull("a/set", "2", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "config, says",
    [
        (named(), "transcoders is to be a list"),
        (b"transcoders: 7", "transcoders is to be a list of files, one for each layer, and is '7'"),
        (named("layer_0.safetensors"), r"transcoders\[0\] is 'layer_0.safetensors': .*hf://user/name/path"),
        (named(f"hf://{NAME}/a.npz", "https://x/y/z"), r"transcoders\[1\] is 'https"),
        (named("hf://a/b"), r"transcoders\[0\]"),
        (named("hf://a/b/../../c"), r"transcoders\[0\]"),
        (named(3), r"transcoders\[0\] is '3'"),
        (b"a: [", "is no YAML"),
        (b"[" * 100_000, "is no YAML"),
    ],
)
def test_sets_that_name_nothing(hub: Hub, tmp_path: Path, config: bytes, says: str) -> None:
    hub.repos["a/set"] = Repo()
    hub.repos["a/set"].push({"config.yaml": config})
    with pytest.raises(libsae.FormatError, match=says):
        libsae.pull("a/set", "layer_0", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_configuration_that_names_no_others(hub: Hub, tmp_path: Path) -> None:
    hub.repos["a/set"] = Repo()
    for config in (b"model_kind: transcoder_set", b"- 1", b"#" * (1 << 21)):
        hub.repos["a/set"].push({"config.yaml": config})
        with pytest.raises(libsae.NotFoundError, match="a/set holds no SAE of a layout"):
            libsae.pull("a/set", "layer_0", cache_dir=tmp_path)


def test_ids_are_listed_in_the_order_of_their_numbers(hub: Hub) -> None:
    hub.repos["a/b"] = Repo()
    hub.repos["a/b"].push(dict.fromkeys(["config.yaml", *sorted(LAYERS)], b""))
    assert libsae.list_pretrained("a/b") == [".", *LAYERS]
    with pytest.raises(libsae.ArgError, match="choose one"):
        libsae.pull("a/b")  # which would be every layer


def test_weights_in_parts(hub: Hub, tmp_path: Path) -> None:
    parts = [f"sae_weights-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"W_enc": parts[0], "W_dec": parts[1], "b_dec": parts[1]}}
    hub.repos["a/b"] = Repo()
    files = {
        "cfg.json": b"{}",
        "sae_weights.safetensors.index.json": json.dumps(index).encode(),
        **{part: part.encode() for part in parts},
        "notes": b"",
    }
    hub.repos["a/b"].push(files)
    assert libsae.list_pretrained("a/b") == ["."]
    libsae.pull("a/b", cache_dir=tmp_path)
    assert hub.files() == ["cfg.json", "sae_weights.safetensors.index.json", *parts]
    libsae.pull("a/b", cache_dir=tmp_path, local_files_only=True)
    for bad in ({"weight_map": {"W_enc": "../../x"}}, {"weight_map": {"W_enc": "gone.safetensors"}}):
        hub.repos["a/b"].push({**files, "sae_weights.safetensors.index.json": json.dumps(bad).encode()})
        with pytest.raises(libsae.NotFoundError, match="names .*, which is not there"):
            libsae.pull("a/b", cache_dir=tmp_path)
    for text in (b"", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": []}}', b"[" * 100000, b"\xff"):
        hub.repos["a/b"].push({**files, "sae_weights.safetensors.index.json": text})
        with pytest.raises(libsae.FormatError, match="weight_map"):
            libsae.pull("a/b", cache_dir=tmp_path)


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SAELens with a registry, which must not be imported."""
    package = tmp_path / "site" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
    saes = {"blocks.11.hook_resid_pre": TOPK, "blocks.3.hook_resid_pre": JUMPRELU, "blocks.4.hook_resid_pre": "factor"}
    lines = ["some-release:", f"  repo_id: {NAME}", "  model: gpt2", "  saes:"]
    for id, path in saes.items():
        lines += [f"  - id: {id}", f"    path: {path}", "    norm_scaling_factor: 0.125"]
    lines += [
        "one-layer:",
        "  repo_id: a/clt",
        "  conversion_func: mntss_clt_layer_transcoder",
        "  saes:",
        "  - id: layer_0",
        "    path: 0",
    ]
    lines += ["overridden:", f"  repo_id: {NAME}", "  config_overrides:", "    normalize_activations: constant_norm_rescale"]
    lines += ["  saes:", "  - id: a", f"    path: {TOPK}"]
    (package / "pretrained_saes.yaml").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "sae_lens", raising=False)


@pytest.mark.usefixtures("releases")
def test_releases_of_saelens(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert libsae.list_pretrained("some-release")[0] == "blocks.11.hook_resid_pre"
    with libsae.from_pretrained("some-release", "blocks.3.hook_resid_pre", cache_dir=cache) as sae:
        assert sae.info["architecture"] == "jumprelu"
        assert sae.info["normalize_activations"] == "none"
    with libsae.from_pretrained("some-release", "blocks.4.hook_resid_pre", cache_dir=cache) as sae:
        assert sae.info["norm_scaling_factor"] == 0.125
    with libsae.from_pretrained("some-release", "blocks.4.hook_resid_pre", cache_dir=cache, norm_scaling_factor=2) as sae:
        assert sae.info["norm_scaling_factor"] == 2
    with libsae.from_pretrained("overridden", "a", cache_dir=cache) as sae:
        assert sae.info["normalize_activations"] == "constant_norm_rescale"
    hub.repos["a/clt"] = Repo()
    hub.repos["a/clt"].push(dict.fromkeys(CLT, b""))
    assert libsae.pull("one-layer", cache_dir=cache).name == "W_enc_0.safetensors"
    with pytest.raises(libsae.NotFoundError, match="no SAE 'blocks.5.hook_resid_pre' among its 3; the nearest are 'blocks"):
        libsae.pull("some-release", "blocks.5.hook_resid_pre", cache_dir=cache)
    with pytest.raises(libsae.ArgError, match="holds 3 SAEs: choose one by sae_id"):
        libsae.pull("some-release", cache_dir=cache)
    with pytest.raises(libsae.NotFoundError, match="no release 'some-relaese' among its 3; the nearest are 'some-release'"):
        libsae.pull("some-relaese", "x", cache_dir=cache)


def test_packages_that_are_missing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install sae-lens, or name the repository"):
        libsae.pull("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (libsae.pull, libsae.from_pretrained, libsae.list_pretrained):
        with pytest.raises(ImportError, match=r"pip install 'libsae\[hub\]'"):
            call(NAME)
    assert hub.log == []


def test_the_command_line(hub: Hub, tmp_path: Path) -> None:
    pull = ["-m", "libsae", "pull", "--cache-dir", str(tmp_path)]
    run = python(*pull, NAME, TOPK)
    assert (run.returncode, run.stderr) == (0, "")  # no bar: that is no terminal
    assert run.stdout == f"{libsae.pull(NAME, TOPK, cache_dir=tmp_path)}\n"
    run = python(*pull, NAME, TOPK, "--offline", "--json")
    said = json.loads(run.stdout)
    assert said.keys() == {"path", "repo", "id", "revision", "files", "options"}
    assert (said["repo"], said["id"], said["revision"]) == (NAME, TOPK, hub.repos[NAME].refs["main"])
    assert [Path(file["path"]).name for file in said["files"]] == ["cfg.json", "sae_weights.safetensors"]
    assert [file["bytes"] for file in said["files"]] == [len(fixture("topk")[Path(f["path"]).name]) for f in said["files"]]
    assert python(*pull, NAME, "--list").stdout.split() == [JUMPRELU, TOPK, "factor"]
    assert json.loads(python(*pull, NAME, "-lj").stdout)["ids"] == [JUMPRELU, TOPK, "factor"]
    for status, text, arguments in [
        (1, "holds no SAE 'x' among its 3", [NAME, "x"]),
        (1, "is no repository", ["a/b/c"]),
        (1, "has no revision 'x'", [NAME, TOPK, "--revision", "x"]),
        (2, "the following arguments are required: REPO", []),
        (2, "unrecognized arguments: --colour", [NAME, TOPK, "--colour"]),
        (2, "--list and ID", [NAME, TOPK, "--list"]),
    ]:
        run = python(*pull, *arguments)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (status, "", 1), run.stderr
        assert run.stderr.startswith("sae pull: ")
        assert text in run.stderr
    assert python("-m", "libsae").returncode == 2
    assert python("-m", "libsae", "--version").stdout == f"libsae {libsae.__version__}\n"


def on_terminal(code: str) -> str:
    """What a Python prints whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE), "LIBSAE_LIBRARY": libsae.library}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdin=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


def test_a_bar_on_a_terminal_unless_it_is_unwanted(hub: Hub, tmp_path: Path) -> None:
    code = "import libsae; libsae.pull({!r}, {!r}, cache_dir={!r}, progress={})"
    assert "sae_weights" in on_terminal(code.format(NAME, TOPK, str(tmp_path / "a"), None))
    assert on_terminal(code.format(NAME, TOPK, str(tmp_path / "b"), False)) == ""


@pytest.mark.skipif(not TOOL.exists(), reason="the tool is not beside the library")
def test_the_tool_runs_it(hub: Hub, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(PACKAGE), "LIBSAE_LIBRARY": libsae.library, "SAE_PYTHON": sys.executable}

    def sae(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([TOOL, *arguments], env=environ, capture_output=True, text=True)

    run = sae("pull", NAME, TOPK, "--cache-dir", str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert "topk" in sae("info", run.stdout.strip()).stdout
    run = sae("pull", NAME, "x", "--cache-dir", str(tmp_path))
    assert (run.returncode, run.stderr.split(": ")[0], run.stderr.count("\n")) == (1, "sae pull", 1)
    assert sae("pull", "--nonsense").returncode == 2
