"""libsae.llama: taps on llama.cpp from Python, without ggml's structs. The bindings are those of capi.py, and llama-cpp-python's own where
it is installed; judges are those of test_llamacpp.py."""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capi
import gguf
import libsae
import libsae.llama
import numpy as np
import pytest
from conftest import ROOT, Array
from libsae.llama import Tap, Taps
from test_llamacpp import DELTA, EXACT, IDS, MODEL, SAE, TRUTH, engine, far, judged

Made = Callable[..., capi.Llama]
LAST = MODEL.n_layers - 1
OTHER = np.full(64, 1, np.float32)


def adding(vector: Array = DELTA, **more: Any) -> libsae.Plan:
    return libsae.Plan([libsae.Edit.add(1.0, vector=vector, **more)])


@pytest.fixture
def bound(llama: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    monkeypatch.setattr(capi, "llama_cpp", capi.module(llama))
    return llama


@pytest.fixture
def made(bound: ctypes.CDLL, world: Path) -> Any:
    """Makes models with taps, or without, and closes them."""
    models: list[capi.Llama] = []

    def make(taps: Taps | None = None, **options: Any) -> capi.Llama:
        models.append(capi.Llama(str(world), **options) if taps is None else taps.make(capi.Llama, str(world), **options))
        return models[-1]

    yield make
    for m in models:
        m.close()


@pytest.fixture(scope="module")
def sae() -> libsae.Sae:
    return libsae.open(SAE)


# ---- steering ----


@pytest.mark.parametrize("n_ubatch", [7, 16, 512])
@pytest.mark.parametrize("layer", range(MODEL.n_layers))
def test_a_window_at_each_layer(made: Made, bound: ctypes.CDLL, layer: int, n_ubatch: int) -> None:
    taps = Taps({layer: adding()}, bound, slots=lambda rows: np.where((rows.positions >= 30) & (rows.positions < 50), 0, -1))
    got = made(taps, n_ubatch=n_ubatch).decode(IDS)
    slot = np.array([0 if 30 <= r < 50 else -1 for r in range(len(IDS))])
    assert far(got, judged(IDS, layer, (slot[:, None] + 1) * DELTA)) < EXACT
    assert np.array_equal(got[:30], made(n_ubatch=n_ubatch).decode(IDS)[:30])
    assert taps.counts == {f"l_out-{layer}": (-(-60 // n_ubatch), 60, 20, 40)}
    assert taps.asks > 100 and taps.unannounced == 0


@pytest.mark.parametrize("n_ubatch", [7, 512])
def test_last_layer_has_the_rows_with_outputs(made: Made, bound: ctypes.CDLL, sae: libsae.Sae, n_ubatch: int) -> None:
    """0 rows in most pieces; what is read says which rows came."""
    features = [3, 87]
    taps = Taps([Tap(LAST, plan=adding(), sae=sae, features=features)], bound)
    output = [int(r in (3, 4, 41, 59)) for r in range(60)]
    got = made(taps, n_ubatch=n_ubatch).decode(IDS, output=output)
    assert far(got, judged(IDS, LAST, DELTA)[[3, 4, 41, 59]]) < EXACT
    seen = taps.collect(f"l_out-{LAST}")
    assert list(seen.positions) == [3, 4, 41, 59] and taps.counts[f"l_out-{LAST}"].edited == 4
    x = MODEL.blocks(MODEL.embed(np.array([IDS])), 0, MODEL.n_layers)[0][[3, 4, 41, 59]].astype(np.float32)
    assert far(dense(seen.codes)[:, features], sae.probe(x, features)) < 1e-3


def test_several_sequences(made: Made, bound: ctypes.CDLL) -> None:
    plan = libsae.Plan([libsae.Edit.add(v, vector=DELTA, slot=s) for s, v in enumerate((1.0, -1.0))], n_slots=2)
    rows = [(s, r) for r in range(10) for s in range(3)]
    where: dict[str, Any] = {"pos": [r for _, r in rows], "seq": [s for s, _ in rows]}
    taps = Taps({2: plan}, bound, slots=lambda rows: rows.sequences - 1)
    got = made(taps, n_seq=3, unified=True, n_ubatch=7).decode([IDS[10 * s + r] for s, r in rows], **where)
    for s in range(3):
        want = judged(IDS[10 * s : 10 * s + 10], 2, (0, 1, -1)[s] * DELTA)
        assert far(got[[i for i, row in enumerate(rows) if row[0] == s]], want) < EXACT
    with pytest.raises(libsae.ArgError, match="kv_unified"):
        made(Taps({2: adding()}, bound), n_seq=3, n_ubatch=7).decode([IDS[i] for i in range(30)], **where)


def test_several_taps_at_once(made: Made, bound: ctypes.CDLL) -> None:
    taps = Taps([Tap(-1, plan=adding(), name="embd"), Tap(1, plan=adding(-DELTA)), Tap(3, plan=adding(), name="ffn_out")], bound)
    x = MODEL.blocks(MODEL.embed(np.array([IDS])) + DELTA, 0, 2) - DELTA
    x = MODEL.blocks(x, 2, 4) + DELTA
    assert far(made(taps).decode(IDS), MODEL.logits(MODEL.blocks(x, 4, 5))[0]) < EXACT
    assert [c.edited for c in taps.counts.values()] == [60, 60, 60]


@pytest.mark.parametrize("concept", TRUTH[::17], ids=lambda c: c["name"])
def test_concepts_as_in_our_engine(made: Made, bound: ctypes.CDLL, sae: libsae.Sae, concept: dict[str, Any]) -> None:
    feature, value = concept["feature"], round(concept["max_activation"], 3)
    plan = libsae.Plan([libsae.Edit.set(value, feature=feature)], sae=sae)
    taps = Taps([Tap(2, plan=plan, sae=sae, features=[feature])], bound, slots=-1)
    model = made(taps)
    for slot, how in ((-1, []), (0, ["--sae", SAE, "--set", f"{feature}={value}"])):
        taps.slots = slot
        s = engine("run", "--prompt", "In the morning", "--new", "40", *how)["sequences"][0]
        assert model.greedy(s["prompt_tokens"], len(s["tokens"])) == s["tokens"]
    assert taps.counts["l_out-2"].edited == taps.counts["l_out-2"].left


def test_slots_that_change_begin_anew(made: Made, bound: ctypes.CDLL) -> None:
    """Keys and values are as they were steered: a model made with taps is told to forget them."""
    taps = Taps({2: adding()}, bound)
    model = made(taps)
    model.decode(IDS)
    taps.slots = -1
    assert model.resets == 1
    assert np.array_equal(model.decode(IDS), made().decode(IDS))


# ---- watching ----


def dense(codes: libsae.Codes) -> Array:
    out = np.zeros((len(codes), codes.d_sae), np.float32)
    for r in range(len(codes)):
        which, values = codes.row(r)
        out[r, which] = values
    return out


@pytest.mark.parametrize("n_ubatch", [7, 512])
def test_watching_changes_no_bit(made: Made, bound: ctypes.CDLL, sae: libsae.Sae, n_ubatch: int) -> None:
    bare = made(n_ubatch=n_ubatch).decode(IDS)
    some = sorted(c["feature"] for c in TRUTH[::5])
    few, all_ = (Taps([Tap(2, sae=sae, features=f)], bound, max_rows=60) for f in (some, None))
    for taps in (few, all_):
        assert np.array_equal(made(taps, n_ubatch=n_ubatch).decode(IDS), bare)
    a, b = few.collect("l_out-2"), all_.collect("l_out-2")
    assert np.array_equal(dense(a.codes)[:, some], dense(b.codes)[:, some]) and dense(a.codes).any()
    assert len(b.codes.indices) > len(a.codes.indices)
    x = MODEL.blocks(MODEL.embed(np.array([IDS])), 0, 3)[0].astype(np.float32)
    assert far(dense(b.codes), dense(sae.encode(x))) < 1e-2
    for seen in (a, b):
        assert list(seen.positions) == list(range(60)) and not seen.sequences.any() and not seen.decodes.any()
    few.clear()
    assert len(few.collect("l_out-2").codes) == 0 and few.counts["l_out-2"].rows == 60


# ---- the low-level API ----


def test_hook_and_batch(bound: ctypes.CDLL, world: Path) -> None:
    api = capi.llama_cpp
    model = api.llama_model_load_from_file(str(world).encode(), api.llama_model_default_params())
    taps, params = Taps({2: adding()}, bound), api.llama_context_default_params()
    taps.hook(params, model)
    params.type_k = params.type_v = params.flash_attn_type = 0
    context = capi.Context(api, model, params)
    batch = capi.Batch(api, IDS, range(60), [0] * 60, [1] * 60)
    with taps.batch(batch.batch):
        assert api.llama_decode(context.ctx, batch.batch) == 0
    logits = np.array([np.ctypeslib.as_array(api.llama_get_logits_ith(context.ctx, i), (MODEL.n_vocab,)) for i in range(60)])
    assert far(logits, judged(IDS, 2, DELTA)) < EXACT
    api.llama_memory_clear(api.llama_get_memory(context.ctx), True)
    slots = [-1] * 59 + [0]
    with taps.batch(60, slots=slots, positions=range(60), outputs=[1] * 60):
        api.llama_decode(context.ctx, batch.batch)
    assert taps.counts["l_out-2"] == (2, 120, 61, 59)
    one = capi.Batch(api, [5], [60], [0], [1])
    assert api.llama_decode(context.ctx, one.batch) == 0  # not announced
    assert taps.unannounced == 1 and taps.counts["l_out-2"].edited == 61
    for wrong in (59, 61):
        api.llama_memory_clear(api.llama_get_memory(context.ctx), True)
        with (
            pytest.raises(libsae.SaeError, match=r"60 rows where 59 are left|60 of the batch's 61 rows"),
            taps.batch(wrong, outputs=[1] * wrong),
        ):
            api.llama_decode(context.ctx, batch.batch)
    busy = pytest.raises(libsae.BusyError, match="data of its own")
    with pytest.raises(libsae.BusyError, match="a batch is open"), taps.batch(60), busy, taps.batch(60):
        pass  # both are told: their rows may be mixed up
    context.close()
    api.llama_model_free(model)


def test_addresses_for_other_bindings(bound: ctypes.CDLL, world: Path) -> None:
    taps = Taps({2: adding()}, bound)
    with pytest.raises(TypeError, match="set callback and user_data by yourself"):
        taps.hook(object())
    api = capi.llama_cpp
    params = api.llama_context_default_params()
    params.cb_eval, params.cb_eval_user_data = capi.callback(taps.callback), taps.user_data
    model = api.llama_model_load_from_file(str(world).encode(), api.llama_model_default_params())
    context = capi.Context(api, model, params)
    batch = capi.Batch(api, IDS, range(60), [0] * 60, [1] * 60)
    with pytest.raises(libsae.ArgError, match="model is not known"), taps.batch(batch):
        pass
    with taps.batch(batch, n_layer=5, unified=False):
        context.decode(batch)
    assert taps.counts["l_out-2"].edited == 60
    context.close()
    api.llama_model_free(model)


# ---- what is refused ----


def test_a_package_of_another_version(bound: ctypes.CDLL) -> None:
    with pytest.raises(
        libsae.VersionError, match=r"capi 2026.10.11549 declares .* of 160 bytes, but .* is llama 0\.6\.0-dev with ggml 0\.26"
    ):
        Taps({2: adding()}, bound).hook(capi.older_context_params())


def test_libraries_that_are_none() -> None:
    with pytest.raises(libsae.UnsupportedError, match="has no ggml_get_name: give the library that holds llama.cpp"):
        Taps({2: adding()}, ctypes.CDLL("libc.so.6"))
    with pytest.raises(TypeError, match="library is a int"):
        Taps({2: adding()}, 3)
    with pytest.raises(OSError, match="none-such"):
        Taps({2: adding()}, "none-such.so")
    if importlib.util.find_spec("llama_cpp") is None:
        with pytest.raises(ImportError, match="pip install llama-cpp-python"):
            Taps({2: adding()})


@pytest.mark.parametrize(
    "taps, error, says",
    [
        ([], libsae.ArgError, "no tensor is tapped"),
        ([3], TypeError, "taps holds a int"),
        ([Tap(2)], libsae.ArgError, "l_out-2 has neither a plan nor a sae"),
        ([Tap(2, plan="x")], TypeError, "l_out-2: plan is a str"),
        ([Tap(2, plan=adding(), features=[3])], libsae.ArgError, "names features, but no sae"),
        ([Tap(2, plan=adding()), Tap(2, plan=adding())], libsae.ArgError, "two taps are at one tensor"),
        ([Tap(-2, plan=adding())], libsae.ArgError, r"taps\[0\].*layer from 0"),
        ([Tap(2, plan=adding(), name="x" * 60)], libsae.ArgError, "1 to 47 bytes"),
        ([Tap(2, sae="world", features=[])], libsae.ArgError, "features is empty"),
        ([Tap(2, sae="world", features=[10**6])], libsae.ArgError, "1000000"),
        ([Tap(2, sae="world", plan=adding(OTHER))], libsae.ShapeError, r"taps\[0\]: d = 64, but the probe is for rows of 128|probe|plan"),
    ],
)
def test_taps_that_cannot_be(bound: ctypes.CDLL, sae: libsae.Sae, taps: list[Any], error: type[Exception], says: str) -> None:
    given = [Tap(t.layer, t.plan, sae, t.features, t.name) if getattr(t, "sae", None) == "world" else t for t in taps]
    with pytest.raises(error, match=says):
        Taps(given, bound)


@pytest.mark.parametrize(
    "tap, says",
    [
        (Tap(2, plan=adding(OTHER)), "l_out-2: the model has rows of 128 elements, the tap's plan and SAE are for 64"),
        (Tap(5, plan=adding()), "l_out-5: the model has layers 0 .. 4"),
    ],
)
def test_taps_that_do_not_fit_the_model(bound: ctypes.CDLL, world: Path, tap: Tap, says: str) -> None:
    with pytest.raises(libsae.SaeError, match=says):
        Taps([tap], bound).make(capi.Llama, str(world))


@pytest.mark.parametrize("name, says", [("l_owt", "l_owt of layer 2 came with 0 of the batch's 60 rows"), ("Qcur", "Qcur-2")])
def test_a_tensor_that_does_not_fit(made: Made, bound: ctypes.CDLL, name: str, says: str) -> None:
    bare = made().decode(IDS)
    with pytest.raises(libsae.SaeError, match=says):
        made(Taps([Tap(2, plan=adding(), name=name)], bound)).decode(IDS)
    model = made(Taps([Tap(2, plan=adding(), name=name)], bound, strict=False))
    with pytest.warns(RuntimeWarning, match=f"not steered as asked: .*{says}"):
        got = model.decode(IDS)
    assert name == "Qcur" or np.array_equal(got, bare)  # several nodes have that name, and the first is a matrix of rows


def test_rows_and_slots_that_do_not_fit(made: Made, bound: ctypes.CDLL, sae: libsae.Sae) -> None:
    model = made(Taps([Tap(2, sae=sae, features=[3])], bound, max_rows=59))
    with pytest.raises(libsae.CapacityError, match="l_out of layer 2 has room for 59 rows, the batch has 60"):
        model.decode(IDS)
    assert len(model.decode(IDS[:59])) == 59
    taps = Taps({2: adding()}, bound)
    model = made(taps)
    for slots, says in (([0], "slots has shape"), ([1] * 60, "slot 1, the plan has slots 0 .. 0"), (lambda _: 7, "slot 7")):
        taps.slots = slots
        with pytest.raises(libsae.SaeError, match=says):
            model.decode(IDS)


def test_one_context_for_each(made: Made, bound: ctypes.CDLL, world: Path) -> None:
    taps = Taps({2: adding()}, bound)
    with pytest.raises(ValueError, match="Failed to load model"):
        taps.make(capi.Llama, "none-such.gguf")
    made(taps)
    with pytest.raises(libsae.ArgError, match="hooked to a context already"):
        taps.make(capi.Llama, str(world))
    with pytest.raises(libsae.ArgError, match="hooked to a context already"):
        taps.hook(capi.llama_cpp.llama_context_default_params())
    with pytest.raises(TypeError, match="no class of llama-cpp-python"):
        Taps({2: adding()}, bound).make(dict)
    with pytest.raises(libsae.ArgError, match="the model is NULL: was it made"):
        Taps({2: adding()}, bound).for_model(ctypes.c_void_p(None))


def test_a_context_without_the_callback(made: Made, bound: ctypes.CDLL) -> None:
    taps, model = Taps({2: adding()}, bound), made()
    with pytest.raises(libsae.ArgError, match="the engine asked for no tensor"), taps.batch(60, n_layer=5):
        model.decode(IDS)


def test_what_is_closed_before_the_context(made: Made, bound: ctypes.CDLL) -> None:
    """A plan and an SAE stay with the taps; taps that are closed leave their context running, unsteered."""
    sae = libsae.open(SAE)
    plan = adding()
    taps = Taps([Tap(2, plan=plan, sae=sae, features=[3])], bound)
    model = made(taps)
    plan.close()
    sae.close()
    assert far(model.decode(IDS), judged(IDS, 2, DELTA)) < EXACT
    model.reset()
    taps.close()
    taps.close()
    with pytest.raises(ValueError, match="this Taps is closed"):
        model.decode(IDS)
    context = capi.Context.decode
    context(model._ctx, capi.Batch(capi.llama_cpp, IDS, range(60), [0] * 60, [1] * 60))
    assert taps.counts["l_out-2"].edited == 60 and taps.unannounced == 1


def test_memory_is_freed_when_the_context_is(bound: ctypes.CDLL, world: Path) -> None:
    before = len(libsae.llama._kept)
    taps = Taps({2: adding()}, bound)
    model = taps.make(capi.Llama, str(world))
    model.decode(IDS)
    assert len(libsae.llama._kept) == before + 1
    model.close()
    for _ in range(2):
        taps.close(freed=True)
    assert len(libsae.llama._kept) == before
    assert taps.counts["l_out-2"].edited == 60 and taps.asks > 100
    forgotten = Taps({2: adding()}, bound)
    handle = forgotten._handle
    del forgotten
    assert handle._address is None


def test_a_temporal_sae_is_refused(bound: ctypes.CDLL) -> None:
    temporal = libsae.open(ROOT / "tests" / "golden" / "saelens" / "temporal")
    with pytest.raises(libsae.UnsupportedError, match="l_out-2: the codes of a temporal SAE depend on all rows before"):
        Taps([Tap(2, sae=temporal)], bound)


def test_an_exception_in_a_batch_is_passed_on(made: Made, bound: ctypes.CDLL) -> None:
    taps = Taps({2: adding()}, bound)
    model = made(taps)
    with pytest.raises(ZeroDivisionError), taps.batch(60):
        _ = 1 // 0
    assert len(model.decode(IDS)) == 60


# ---- control vectors ----


def test_control_vectors_are_additive_plans(made: Made, bound: ctypes.CDLL, sae: libsae.Sae, world: Path, tmp_path: Path) -> None:
    feature = TRUTH[3]["feature"]
    plans = {1: adding(), 3: libsae.Plan([libsae.Edit.add(4.0, feature=feature), libsae.Edit.add(2.0, vector=DELTA, unit="unit")], sae=sae)}
    control, tapped = made(), made(Taps(plans, bound))
    libsae.llama.set_control_vectors(control._ctx.ctx, plans, MODEL.n_layers, bound)
    want = tapped.decode(IDS)
    assert far(control.decode(IDS), want) < EXACT and far(want, MODEL.forward(np.array([IDS]))[0]) > 1
    assert control.greedy(IDS[:5], 40) == tapped.greedy(IDS[:5], 40)
    control.reset()
    libsae.llama.set_control_vectors(control._ctx.ctx, {}, MODEL.n_layers, bound)
    assert np.array_equal(control.decode(IDS), made().decode(IDS))
    files = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for file in files:
        libsae.llama.save_control_vectors(file, plans, MODEL.n_layers)
    assert files[0].read_bytes() == files[1].read_bytes()
    again = libsae.llama.load_control_vectors(files[0])
    assert list(again) == [1, 3]
    assert np.array_equal(libsae.llama.control_vectors(again, 5), libsae.llama.control_vectors(plans, 5))
    twice = libsae.llama.control_vectors(libsae.llama.load_control_vectors(files[0], strength=2.0), 5)
    assert np.array_equal(twice, 2 * libsae.llama.control_vectors(plans, 5)) and not twice[1].any()


def normalising() -> libsae.Plan:
    w = np.eye(8, dtype=np.float32)
    return libsae.Plan([libsae.Edit.add(1.0, feature=1)], sae=libsae.from_weights(w, w, normalize_activations="layer_norm"))


@pytest.mark.parametrize(
    "plans, says",
    [
        (lambda: {0: adding()}, "layer 0: llama.cpp has control vectors from layer 1 on"),
        (lambda: {5: adding()}, "layer 5: the model has layers 0 .. 4"),
        (lambda: {2: libsae.Plan([libsae.Edit.set(1.0, vector=DELTA)])}, r"edits\[0\] of layer 2 is 'set'"),
        (lambda: {2: libsae.Plan([libsae.Edit.ablate(vector=DELTA)])}, r"edits\[0\] of layer 2 is 'ablate'"),
        (lambda: {2: libsae.Plan([], d=128, n_slots=2)}, "the plan of layer 2 has 2 slots: .* no masks"),
        (lambda: {2: normalising()}, r"normalises rows \(layer_norm\)"),
        (lambda: {1: adding(), 2: adding(OTHER)}, "the plans are for rows of 64 and 128 elements"),
        (dict, "no plan is given"),
    ],
)
def test_what_a_control_vector_cannot_say(tmp_path: Path, plans: Callable[[], Any], says: str) -> None:
    for call in (
        lambda p: libsae.llama.control_vectors(p, 5),
        lambda p: libsae.llama.save_control_vectors(tmp_path / "c.gguf", p, 5),
    ):
        with pytest.raises(libsae.SaeError, match=says):
            call(plans())
    assert not (tmp_path / "c.gguf").exists()


def test_control_vectors_of_another_width(made: Made, bound: ctypes.CDLL) -> None:
    with pytest.raises(libsae.ShapeError, match="takes no vectors of 64 elements"):
        libsae.llama.set_control_vectors(made()._ctx.ctx, {2: adding(OTHER)}, 5, bound)


def bad_file(path: Path, architecture: str, tensors: dict[str, Array]) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NAN = np.array([1, np.nan], np.float32)


@pytest.mark.parametrize(
    "architecture, tensors, says",
    [
        ("llama", {"direction.1": DELTA}, "holds the architecture 'llama'"),
        ("controlvector", {"direction.0": DELTA}, r"'direction.0' is no direction.N with N from 1"),
        ("controlvector", {"direction.x": DELTA}, "is no direction.N"),
        ("controlvector", {"direction.1": DELTA.astype(np.float16)}, "direction.1 is F16"),
        ("controlvector", {"direction.1": np.ones((2, 3), np.float32)}, "of 2 axes"),
        ("controlvector", {"direction.1": DELTA, "direction.2": OTHER}, "directions have 128 and 64 elements"),
        ("controlvector", {"direction.1": NAN}, "not finite"),
    ],
)
def test_files_of_control_vectors_that_are_refused(tmp_path: Path, architecture: str, tensors: dict[str, Array], says: str) -> None:
    path = bad_file(tmp_path / "c.gguf", architecture, tensors)
    with pytest.raises(libsae.FormatError, match=says):
        libsae.llama.load_control_vectors(path)


def test_damaged_files_of_control_vectors(tmp_path: Path) -> None:
    path = tmp_path / "c.gguf"
    libsae.llama.save_control_vectors(path, {1: adding()}, 5)
    data = path.read_bytes()
    for cut in (0, 3, 20, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:cut])
        with pytest.raises(libsae.FormatError, match="damaged, or no GGUF file"):
            libsae.llama.load_control_vectors(path)
    with pytest.raises(FileNotFoundError):
        libsae.llama.load_control_vectors(tmp_path / "none.gguf")


# ---- llama-cpp-python itself, and the example for it ----


class Speaking(capi.Llama):
    """Called as the package's Llama is; its text is the numbers of the tokens."""

    def __init__(self, model_path: str, n_ctx: int, verbose: bool) -> None:
        super().__init__(model_path)

    def __call__(self, prompt: str, max_tokens: int, temperature: float) -> dict[str, Any]:
        tokens = self.greedy(engine("tokenize", "--prompt", prompt)["tokens"][0], max_tokens)
        return {"choices": [{"text": f" {tokens}"}]}


def test_example_program(bound: ctypes.CDLL, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    package = types.ModuleType("llama_cpp")
    package.Llama, package.llama_cpp = Speaking, capi.llama_cpp  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    concept = TRUTH[0]
    feature, value = concept["feature"], round(concept["max_activation"], 3)
    script = runpy.run_path(str(ROOT / "examples" / "python" / "steer_llama.py"), run_name="example")
    script["main"](str(world), str(SAE), 2, feature, value, "In the morning")
    said = capsys.readouterr().out
    for label, how in (("as it is", []), ("steered", ["--sae", SAE, "--set", f"{feature}={value}"])):
        s = engine("run", "--prompt", "In the morning", "--new", "24", "--watch", feature, *how, *([] if how else ["--sae", SAE]))
        assert f"{label}: {s['sequences'][0]['tokens']}\n" in said
    assert said.count("codes: ") == 2 and "l_out-2: 50 graphs, 56 rows seen, 28 edited, 28 left alone\n" in said


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python takes minutes to build")
def test_llama_cpp_python(world: Path) -> None:
    """In a process of its own: this one holds the functions of another llama.cpp, by the same names."""
    concept = TRUTH[0]
    feature, value = concept["feature"], round(concept["max_activation"], 3)
    command = [sys.executable, ROOT / "examples" / "python" / "steer_llama.py", world, SAE, 2, feature, value, "In the morning"]
    said = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    for label, how in (("as it is", []), ("steered", ["--sae", SAE, "--set", f"{feature}={value}"])):
        text = engine("run", "--prompt", "In the morning", "--new", "24", *how)["sequences"][0]["text"]
        assert f"{label}:{text}\n" in said
    assert "l_out-2: 48 graphs, 54 rows seen, 27 edited, 27 left alone\n" in said
