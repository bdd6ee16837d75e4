"""libsae.saelens in the place of sae-lens' own SAE: attributes, hooks, a language model, the evaluation. Needs torch and sae-lens."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any, Callable

import libsae
import numpy as np
import pytest

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

from both_sides import close, random_rows  # noqa: E402
from datasets import Dataset  # noqa: E402
from libsae.saelens import SAE  # noqa: E402
from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer  # noqa: E402
from sae_lens.evals import get_eval_everything_config, run_evals  # noqa: E402
from sae_lens.training.activation_scaler import ActivationScaler  # noqa: E402
from sae_lens.training.activations_store import ActivationsStore  # noqa: E402
from test_saelens import INFERENCE, randomize, save_old  # noqa: E402
from transformer_lens import HookedTransformerConfig  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Setting use_error_term:DeprecationWarning")

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "saelens"
MORE = ("jumprelu_skip_transcoder", "skip_transcoder", "temporal")  # whose output is not all in their codes
UNSEEN = ("abstopk", "matching_pursuit")  # whose hook_sae_acts_pre is not shown
PLAIN = (*UNSEEN, "jumprelu_transcoder", "transcoder")  # of which results are compared, and nothing else
ALL = sorted(p.name for p in GOLDEN.iterdir() if p.name not in (*MORE, *PLAIN))
F32 = [name for name in ALL if "bf16" not in name and "fp16" not in name]
FOLDABLE = [name for name in ALL if name not in ("topk", "topk_k_over_positive", "v5_layout_topk_by_activation_fn")]
HEADS, TOKENS, BATCH, CONTEXT = 4, 30, 3, 8

# Summing in another order: not more than float32 allows.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def both(name: str, **options: Any) -> tuple[Any, SAE]:
    folder = str(GOLDEN / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sae_lens.SAE.load_from_disk(folder, **options), SAE.load_from_disk(folder, **options)


def rows_of(name: str, d_in: int) -> Any:
    """[2][3][d_in] rows, or with heads where the SAE is one of hook_z."""
    x = torch.from_numpy(random_rows(6, d_in)).reshape(2, 3, d_in)
    return x.unflatten(-1, (HEADS, -1)) if name == "standard_hook_z" else x


def alike(got: Any, want: Any, dtype: Any = None) -> None:
    """Equal but for rounding; `dtype` is the one that it came through, where that is not its own."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    got, want = got.detach(), want.detach()
    scale = max(1.0, float(want.float().abs().max()))
    assert float((got.float() - want.float()).abs().max()) <= TOLERANCE[dtype or want.dtype] * scale


def same_acts(got: Any, want: Any) -> None:
    alike(got, want)
    if want.dtype == torch.float32:
        assert torch.equal(got != 0, want != 0)
    assert 0 < int((want != 0).sum()) < want.numel()


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_encode_decode_forward(name: str) -> None:
    theirs, ours = both(name)
    x = rows_of(name, ours.cfg.d_in)
    want = theirs.encode(x)
    got = ours.encode(x)
    same_acts(got, want)
    alike(ours.decode(got), theirs.decode(want))
    alike(ours(x), theirs(x))
    theirs.use_error_term = ours.use_error_term = True
    alike(ours(x), theirs(x), theirs.dtype)


@pytest.mark.parametrize("name", ALL)
def test_attributes(name: str) -> None:
    theirs, ours = both(name)
    assert isinstance(ours, sae_lens.SAE)
    assert ours.get_name() == theirs.get_name()
    assert (ours.dtype, ours.device, ours.use_error_term) == (theirs.dtype, theirs.device, theirs.use_error_term)
    assert ours.hook_z_reshaping_mode == theirs.hook_z_reshaping_mode
    got, want = ours.cfg.to_dict(), theirs.cfg.to_dict()
    want["metadata"].setdefault("sae_lens_version", None)
    if name.startswith("v5"):  # sae-lens then gives its own
        del want["metadata"]["sae_lens_version"]
    assert got == want
    for key, value in want.items():
        if key not in ("metadata", "architecture"):
            assert getattr(ours.cfg, key) == value
    assert ours.cfg.architecture() == theirs.cfg.architecture()
    metadata = ours.cfg.metadata
    assert metadata.hook_name == metadata["hook_name"] == metadata.get("hook_name") == theirs.cfg.metadata.hook_name
    assert metadata.no_such_thing is None
    assert "no_such_thing" not in metadata
    assert metadata.get("no_such_thing", 3) == 3


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_z"])
def test_attributes_of_old_folders(tmp_path: Path, hook: str) -> None:
    """Of sae-lens 3, which had other names and kept less."""
    old = {"hook_point": hook, "hook_point_layer": 0, "hook_point_head_index": None, "normalize_activations": False}
    save_old(tmp_path, randomize(INFERENCE["standard"]()), old)
    theirs, ours = sae_lens.SAE.load_from_disk(str(tmp_path)), SAE.load_from_disk(tmp_path)
    want = theirs.cfg.to_dict()
    for name in ("sae_lens_version", "sae_lens_training_version", "neuronpedia_id"):  # what it gives those that have none
        del want["metadata"][name]
    assert ours.cfg.to_dict() == want
    assert ours.hook_z_reshaping_mode == theirs.hook_z_reshaping_mode == hook.endswith("_z")


@pytest.mark.parametrize("name", ALL)
def test_weights(name: str) -> None:
    theirs, ours = both(name)
    want, got = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert set(got) == set(want) == set(ours.state_dict())
    for key, value in want.items():
        assert (got[key].dtype, got[key].shape) == (value.dtype, value.shape)
        assert torch.equal(got[key], value), key
        assert getattr(ours, key) is got[key]
    assert (ours.b_enc is None) == (theirs.b_enc is None)
    assert hasattr(ours, "threshold") == hasattr(theirs, "threshold")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", FOLDABLE)
@torch.no_grad()
def test_folded_decoder_norms(name: str) -> None:
    theirs, ours = both(name)
    ours.W_dec  # noqa: B018  # read before it is folded
    norms = theirs.get_W_dec_norm()
    for _ in range(2):  # the second time does nothing
        theirs.fold_W_dec_norm()
        alike(ours.fold_and_get_W_dec_norm(), norms)
        norms = torch.ones_like(norms)
        for key, value in theirs.named_parameters():
            alike(getattr(ours, key), value)
        x = rows_of(name, ours.cfg.d_in)
        alike(ours.encode(x), theirs.encode(x))
        alike(ours(x), theirs(x))
        alike(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)))


@pytest.mark.parametrize("name", sorted(set(ALL) - set(FOLDABLE)))
def test_norms_that_choose_features_are_not_folded(name: str) -> None:
    for sae in both(name):
        with pytest.raises(NotImplementedError):
            sae.fold_W_dec_norm()


def same_points(theirs: Any, ours: SAE, x: Any) -> None:
    theirs.use_error_term = ours.use_error_term = True
    want = theirs.run_with_cache(x)[1]
    got = ours.run_with_cache(x)[1]
    assert set(got) == set(want)
    assert len(want) == 6
    for point in want:
        alike(got[point], want[point], theirs.dtype)


@pytest.mark.parametrize("name", MORE)
@torch.no_grad()
def test_what_is_beside_the_codes(name: str) -> None:
    """forward has it, decode has not, and it stays where codes are edited at a hook."""
    theirs, ours = both(name)
    x = torch.from_numpy(random_rows(20, ours.cfg.d_in)).reshape(2, 10, ours.cfg.d_in)
    want = theirs.encode(x)
    got = ours.encode(x)
    same_acts(got, want)
    alike(ours.decode(got), theirs.decode(want))
    alike(ours(x), theirs(x))
    assert float((ours(x) - ours.decode(ours.encode(x))).abs().max()) > 1e-2
    for sae in (theirs, ours):
        sae.hook_sae_acts_post.register_forward_hook(lambda module, given, acts: acts * 0.5)
    alike(ours(x), theirs(x))
    if name == "temporal":
        with pytest.raises(libsae.ShapeError, match="takes sequences"):
            ours.encode(x[0, 0])
        with pytest.raises(NotImplementedError, match="cannot be folded"):
            ours.fold_W_dec_norm()
        return
    alike(ours.W_skip, theirs.W_skip)
    assert [n for n, _ in ours.named_parameters()].count("W_skip") == 1
    for sae in (theirs, ours):
        sae.use_error_term = theirs.cfg.d_in == theirs.cfg.d_out
        sae.fold_W_dec_norm()
    alike(ours(x), theirs(x))
    assert not hasattr(both("transcoder")[1], "W_skip")


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_encode_and_decode(name: str) -> None:
    theirs, ours = both(name)
    x = rows_of(name, ours.cfg.d_in)
    same_acts(ours.encode(x), theirs.encode(x))
    alike(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)))
    alike(ours(x), theirs(x))


@pytest.mark.parametrize("name", UNSEEN)
def test_hook_points_that_are_not_shown(name: str) -> None:
    _, ours = both(name)
    ours.hook_sae_acts_pre.register_forward_hook(lambda *_: None)
    with pytest.raises(libsae.UnsupportedError, match="hook_sae_acts_pre"):
        ours.encode(rows_of(name, ours.cfg.d_in))


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_every_hook_point_shows_the_same(name: str) -> None:
    theirs, ours = both(name)
    same_points(theirs, ours, rows_of(name, ours.cfg.d_in))


@pytest.mark.parametrize("name", sorted(set(F32) & set(FOLDABLE)))
@torch.no_grad()
def test_every_hook_point_shows_the_same_when_folded(name: str) -> None:
    theirs, ours = both(name)
    theirs.fold_W_dec_norm()
    ours.fold_W_dec_norm()
    same_points(theirs, ours, rows_of(name, ours.cfg.d_in))


def negate(value: Any, hook: Any) -> Any:
    return -value


def first_only(value: Any, hook: Any) -> Any:
    kept = torch.zeros_like(value)
    kept[..., :5] = value[..., :5].abs()
    return kept


@pytest.mark.parametrize("point", ["hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_output"])
@pytest.mark.parametrize("change", [negate, first_only])
@pytest.mark.parametrize("name", ["jumprelu_f32", "gated", "topk_rescale_by_decoder_norm", "standard_layer_norm", "standard_relu"])
@torch.no_grad()
def test_every_hook_point_changes_the_same(name: str, change: Callable[..., Any], point: str) -> None:
    theirs, ours = both(name)
    x = rows_of(name, ours.cfg.d_in)
    want = theirs.run_with_hooks(x, fwd_hooks=[(point, change)])
    assert float((want - theirs(x)).abs().max()) > 1e-3
    alike(ours.run_with_hooks(x, fwd_hooks=[(point, change)]), want)
    alike(ours(x), theirs(x))  # the hook is gone again


@torch.no_grad()
def test_shapes_and_types_of_rows() -> None:
    theirs, ours = both("jumprelu_f32")
    d = ours.cfg.d_in
    x = torch.from_numpy(random_rows(24, d))
    for given in (
        x[0],
        x,
        x.reshape(2, 3, 4, d),
        x[::3],
        x.T.contiguous().T,
        x[:1].expand(5, d),
        x[:0],
        x.to(torch.bfloat16),
        x.half(),
        x.double(),
    ):
        got, want = ours.encode(given), theirs.encode(given)
        assert got.shape == want.shape
        assert torch.equal(got != 0, want != 0)
        assert torch.allclose(got, want, atol=1e-4)
        assert torch.allclose(ours.decode(got), theirs.decode(want), atol=1e-3)
    with pytest.raises(libsae.ShapeError, match=f"last axis must be {d}"):
        ours.encode(x.reshape(d, 24))  # as many elements, but no rows


def test_dtype_is_that_of_results() -> None:
    ours = SAE.load_from_disk(GOLDEN / "jumprelu_f32", dtype="bfloat16")
    assert ours.encode(torch.zeros(2, ours.cfg.d_in)).dtype == ours.W_dec.dtype == torch.bfloat16
    for sae in (ours.to(torch.float16), ours.half(), ours.to("cpu").to(dtype=torch.float16), ours.to(torch.zeros(1).half())):
        assert sae is ours
        assert (ours.dtype, ours.cfg.dtype, ours.W_dec.dtype) == (torch.float16, "float16", torch.float16)
    with pytest.raises(libsae.ArgError, match="float64"):
        ours.double()
    assert ours.eval().training is False
    assert ours.train().training is True


def test_the_other_machine_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cuda.*x\.cpu\(\)"):
        SAE.load_from_disk(GOLDEN / "jumprelu_f32", device="cuda")
    ours = SAE.load_from_disk(GOLDEN / "jumprelu_f32")
    for call in (
        lambda: ours.to("cuda"),
        lambda: ours.to(device=torch.device("cuda", 1)),
        lambda: ours.encode(torch.empty(1, 37, device="meta")),
    ):
        with pytest.raises(TypeError, match=r"x\.cpu\(\)"):
            call()


def test_there_is_no_gradient() -> None:
    ours = SAE.load_from_disk(GOLDEN / "jumprelu_f32")
    x = torch.from_numpy(random_rows(4, ours.cfg.d_in)).requires_grad_()
    acts = ours.encode(x)
    for result in (acts, ours(x), ours.decode(acts.detach().requires_grad_())):
        with pytest.raises(NotImplementedError, match="no gradient"):
            result.sum().backward()
    assert not ours.encode(x.detach()).requires_grad


def test_rows_are_scaled_back_as_they_were_scaled() -> None:
    ours = SAE.load_from_disk(GOLDEN / "standard_layer_norm")
    acts = torch.ones(3, ours.cfg.d_sae)
    with pytest.raises(RuntimeError, match="3 rows are decoded after 0"):
        ours.decode(acts)
    ours.encode(torch.ones(2, ours.cfg.d_in))
    with pytest.raises(RuntimeError, match="3 rows are decoded after 2"):
        ours.decode(acts)
    ours.decode(acts[:2])
    with pytest.raises(RuntimeError, match="2 rows are decoded after 0"):  # once, as with sae-lens
        ours.decode(acts[:2])
    heads = SAE.load_from_disk(GOLDEN / "standard_hook_z")
    with pytest.raises(RuntimeError, match="encode first"):
        heads.decode(torch.ones(3, heads.cfg.d_sae))


@torch.no_grad()
def test_scaling_factor_is_folded_as_sae_lens_does_it() -> None:
    for name in ("standard_expected_average_only_in", "jumprelu_expected_average_only_in"):
        theirs, _ = both(name)
        theirs.fold_activation_norm_scaling_factor(0.37)
        ours = SAE.load_from_disk(GOLDEN / name, norm_scaling_factor=0.37)
        assert ours.cfg.normalize_activations == theirs.cfg.normalize_activations == "none"
        for key, value in theirs.named_parameters():
            alike(getattr(ours, key), value)
        x = rows_of(name, ours.cfg.d_in)
        same_acts(ours.encode(x), theirs.encode(x))
        alike(ours(x), theirs(x))


def test_from_pretrained_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def from_pretrained(release: str, sae_id: str, **options: Any) -> libsae.Sae:
        asked.append((release, sae_id, options))
        return libsae.open(GOLDEN / "standard_bf16")

    hub = types.ModuleType("libsae.hub")
    hub.from_pretrained = from_pretrained  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libsae.hub", hub)
    monkeypatch.setattr(libsae, "hub", hub, raising=False)
    sae, cfg, sparsity = SAE.from_pretrained_with_cfg_and_sparsity("a/b", "layer_3", threads=2, fold_W_dec_norm=True)
    assert asked == [("a/b", "layer_3", {"threads": 2})]
    assert (sae.dtype, cfg["dtype"], sparsity) == (torch.float32, "float32", None)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae))


def test_without_transformer_lens_it_is_a_plain_module() -> None:
    code = f"""
import sys
sys.modules["transformer_lens"] = None
import torch
from libsae.saelens import SAE
sae = SAE.load_from_disk({str(GOLDEN / "jumprelu_f32")!r})
x = torch.ones(2, sae.cfg.d_in)
before = sae(x)
sae.hook_sae_acts_post.register_forward_hook(lambda module, given, acts: acts * 0)
assert torch.allclose(sae(x), sae.b_dec.expand(2, -1)) and not torch.allclose(before, sae.b_dec.expand(2, -1))
print(type(sae).__mro__[1].__name__, "sae_lens" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["Module", "False"]


# ---- inside a language model ----


@pytest.fixture(scope="module", params=[37, 36])
def model(request: pytest.FixtureRequest) -> Any:
    """Random, small, with sae-lens' place for SAEs; as wide as the fixtures."""
    heads = HEADS if request.param == 36 else 1
    config = HookedTransformerConfig(
        n_layers=2,
        d_model=request.param,
        n_heads=heads,
        d_head=request.param // heads,
        n_ctx=CONTEXT,
        d_vocab=TOKENS,
        act_fn="gelu",
        seed=5,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HookedSAETransformer(config).eval()


def names_for(model: Any) -> list[str]:
    return ["standard_hook_z"] if model.cfg.d_model == 36 else [n for n in F32 if both(n)[1].cfg.d_in == 37]


def untied(name: str, folder: Path) -> tuple[Any, SAE]:
    """Both sides, without the equal features of the top-k fixtures, of which torch takes any."""
    theirs, ours = both(name)
    if "topk" not in ours.cfg.architecture():
        return theirs, ours
    with torch.no_grad():
        theirs.b_enc += 0.01 * torch.randn(theirs.cfg.d_sae, generator=torch.Generator().manual_seed(1))
    theirs.save_model(folder / name)
    return theirs, SAE.load_from_disk(folder / name)


def tokens(seed: int = 3) -> Any:
    return torch.randint(TOKENS, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_language_model_says_the_same(model: Any, tmp_path: Path) -> None:
    plain = model(tokens())
    for name in names_for(model):
        theirs, ours = untied(name, tmp_path)
        for error_term in (False, True):
            want = model.run_with_saes(tokens(), saes=theirs, use_error_term=error_term)
            alike(model.run_with_saes(tokens(), saes=ours, use_error_term=error_term), want)
            assert (float((want - plain).abs().max()) > 1e-3) != error_term
        want = model.run_with_cache_with_saes(tokens(), saes=[theirs])[1]
        got = model.run_with_cache_with_saes(tokens(), saes=[ours])[1]
        assert set(got) == set(want)
        point = ours.cfg.metadata.hook_name
        for key in (f"{point}.hook_sae_acts_pre", f"{point}.hook_sae_acts_post", f"{point}.hook_sae_output"):
            alike(got[key], want[key])
        model.add_sae(ours)
        alike(model(tokens()), model.run_with_saes(tokens(), saes=theirs))
        model.reset_saes()
        want = model.run_with_hooks(tokens(), fwd_hooks=[(point, lambda x, hook, sae=theirs: sae(x))])
        alike(model.run_with_hooks(tokens(), fwd_hooks=[(point, lambda x, hook, sae=ours: sae(x))]), want)


def measured(model: Any, sae: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    dataset = Dataset.from_list([{"tokens": tokens(seed)[0].tolist()} for seed in range(60)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ActivationsStore.from_sae(
            model, sae, dataset, context_size=CONTEXT, streaming=False, store_batch_size_prompts=BATCH, sequence_separator_token=None
        )
        config = get_eval_everything_config(batch_size_prompts=BATCH, n_eval_reconstruction_batches=3, n_eval_sparsity_variance_batches=2)
        return run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=[0])


def test_evaluation_gives_the_same_numbers(model: Any, tmp_path: Path) -> None:
    for name in names_for(model):
        theirs, ours = untied(name, tmp_path)
        want, want_features = measured(model, theirs)
        got, got_features = measured(model, ours)
        assert {k: set(v) for k, v in got.items()} == {k: set(v) for k, v in want.items()}
        assert want["sparsity"]["l0"] > 0
        for group, values in want.items():
            for key, value in values.items():
                assert got[group][key] == pytest.approx(value, rel=1e-5, abs=1e-5), (name, group, key)
        assert set(got_features) == set(want_features)
        for key, values in want_features.items():
            np.testing.assert_allclose(got_features[key], values, rtol=1e-5, atol=1e-5, err_msg=f"{name} {key}")


def test_answers_of_the_fixtures() -> None:
    for name in ("jumprelu_f32", "gated", "topk"):
        x = np.load(GOLDEN / name / "x.npy")
        ours = SAE.load_from_disk(GOLDEN / name)
        acts = ours.encode(torch.from_numpy(x))
        close(acts.numpy(), np.load(GOLDEN / name / "z64.npy"), x)
        close(ours.decode(acts).numpy(), np.load(GOLDEN / name / "xhat64.npy"), x)


def test_codes_that_do_not_show_what_chose_them() -> None:
    folder = GOLDEN.parent / "llamascopium" / "sae_topk_dataset_wise"
    x = torch.from_numpy(np.load(folder / "x.npy"))
    plain = libsae.open(folder)
    assert plain.info["returns_unscaled"]
    ours = SAE(plain)
    factor = np.float32(plain.info["norm_scaling_factor"])  # as if folded into the weights
    np.testing.assert_array_equal(ours.W_dec.numpy(), plain.read("W_dec") / factor)
    np.testing.assert_array_equal(ours(x).numpy(), plain.forward(x.numpy()))
    ours.hook_sae_acts_pre.register_forward_hook(lambda *_: None)
    with pytest.raises(libsae.UnsupportedError, match="hook_sae_acts_pre"):
        ours.encode(x)
