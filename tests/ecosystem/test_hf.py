"""libsae.hf on models of transformers: what is edited, what is left alone, what is seen, and what is refused."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import libsae
import numpy as np
import pytest
from libsae import Edit, Plan

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import libsae.hf  # noqa: E402

D, D_SAE, LAYERS, VOCAB = 48, 90, 3, 101


def sizes(**more: Any) -> dict[str, Any]:
    common = {"vocab_size": VOCAB, "hidden_size": D, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    return {**common, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, **more}


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes(num_key_value_heads=2)))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=D, n_layer=LAYERS, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=None, pad_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def gpt_neox() -> Any:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes()))


def gemma2() -> Any:
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes(num_key_value_heads=2, head_dim=12)))


def qwen2() -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes(num_key_value_heads=2)))


MODELS = {
    "llama": (llama, "model.layers"),
    "gpt2": (gpt2, "transformer.h"),
    "gpt_neox": (gpt_neox, "gpt_neox.layers"),
    "gemma2": (gemma2, "model.layers"),
    "qwen2": (qwen2, "model.layers"),
}


def built(make: Any, dtype: Any = torch.float32) -> Any:
    torch.manual_seed(3)
    return make().to(dtype).eval()


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> Any:
    return built(llama)


@pytest.fixture(scope="module")
def sae() -> libsae.Sae:
    rng = np.random.default_rng(7)
    w = [rng.standard_normal(shape).astype(np.float32) / 3 for shape in ((D, D_SAE), (D_SAE, D))]
    return libsae.from_weights(*w, b_enc=rng.standard_normal(D_SAE).astype(np.float32) / 3)


def strong(sae: libsae.Sae, **more: Any) -> Plan:
    return Plan([Edit.set(4.0, feature=5), Edit.add(3.0, feature=11), Edit.ablate(feature=2)], sae=sae, **more)


def by_slot(sae: libsae.Sae, n: int) -> Plan:
    edits = [Edit.set(1.0 + slot, feature=3 * slot, slot=slot) for slot in range(n)]
    return Plan([*edits, *(Edit.add(2.0, feature=40 + slot, slot=slot) for slot in range(n))], n_slots=n, sae=sae)


def prompts(n: int = 3, tokens: int = 7, seed: int = 0) -> Any:
    return torch.randint(1, VOCAB, (n, tokens), generator=torch.Generator().manual_seed(seed))


def padded(lengths: list[int], side: str) -> tuple[Any, Any]:
    """Prompts of these lengths, and their attention mask."""
    ids, width = prompts(len(lengths), max(lengths)), max(lengths)
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        where = slice(width - n, width) if side == "left" else slice(0, n)
        mask[row, where] = 1
    return ids * mask, mask


class Taken:
    """What a module gives, copied, as other hooks see it."""

    def __init__(self, model: Any, name: str) -> None:
        self.outputs: list[Any] = []
        self._handle = model.get_submodule(name).register_forward_hook(self._hook)

    def _hook(self, _: Any, __: Any, output: Any) -> None:
        self.outputs.append((output[0] if isinstance(output, tuple) else output).clone())

    def __enter__(self) -> Taken:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and bool((a.contiguous().view(torch.uint8) == b.contiguous().view(torch.uint8)).all())


def layer_output(model: Any, name: str, **inputs: Any) -> Any:
    with Taken(model, name) as taken:
        model(**inputs)
    return taken.outputs[0]


# ---- edits ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_an_edit_is_that_of_the_plan_bit_for_bit(name: str, dtype: Any, sae: libsae.Sae) -> None:
    make, layers = MODELS[name]
    model, plan, ids = built(make, dtype), strong(sae), prompts()
    plain = layer_output(model, f"{layers}.1", input_ids=ids)
    want = plain.clone()
    plan.apply(want.view(-1, D))
    assert not same(want, plain)
    logits = model(ids).logits
    with libsae.hf.steer(model, {1: plan}) as s:
        got = layer_output(model, f"{layers}.1", input_ids=ids)
        steered = model(ids).logits
    assert same(got, want)
    assert not same(steered, logits)
    assert same(model(ids).logits, logits)  # and the hooks are gone
    assert (s.counts[1].calls, s.counts[1].rows, s.counts[1].taken, s.counts[1].skipped) == (2, 42, 42, {})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_it_is_what_a_hook_that_returns_an_edited_tensor_does(name: str, sae: libsae.Sae) -> None:
    make, layers = MODELS[name]
    model, plan, ids = built(make), strong(sae), prompts()

    def edited(_: Any, __: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        y = plan.apply(x.clone().view(-1, D)).view(x.shape)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = model.get_submodule(f"{layers}.0").register_forward_hook(edited)
    want = model(ids).logits
    handle.remove()
    with libsae.hf.steer(model, {f"{layers}.0": plan}):
        assert same(model(ids).logits, want)


def test_generate_fires_once_per_step_and_layer(model: Any, sae: libsae.Sae) -> None:
    ids, options = prompts(2), {"max_new_tokens": 9, "do_sample": False}
    plain = model.generate(ids, **options)
    with libsae.hf.steer(model, {0: strong(sae), 2: strong(sae)}) as s:
        steered = model.generate(ids, **options)
    assert s.passes == 9  # the prompt, then 8 steps of one token
    for counts in s.counts.values():
        assert (counts.calls, counts.rows, counts.taken, counts.skipped) == (9, 2 * 7 + 2 * 8, 2 * 7 + 2 * 8, {})
    assert not torch.equal(plain, steered)
    assert torch.equal(model.generate(ids, **options), plain)


def test_generating_with_a_cache_is_generating_without(model: Any, sae: libsae.Sae) -> None:
    ids, options = prompts(1), {"max_new_tokens": 8, "do_sample": False}
    with libsae.hf.steer(model, {1: strong(sae)}) as s:
        cached = model.generate(ids, **options)
        anew = model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached, anew)
    assert s.counts[1].rows == (7 + 7) + sum(range(7, 15))


def test_a_batch_of_eight_plans_is_eight_runs(model: Any, sae: libsae.Sae) -> None:
    ids, plan = prompts(8), by_slot(sae, 8)
    plain = layer_output(model, "model.layers.1", input_ids=ids)
    with libsae.hf.steer(model, {1: plan}, slots=range(8)) as s:
        got = layer_output(model, "model.layers.1", input_ids=ids)
        logits = model(ids).logits
    for i in range(8):
        alone = Plan([Edit.set(1.0 + i, feature=3 * i), Edit.add(2.0, feature=40 + i)], sae=sae)
        assert same(got[i], alone.apply(plain[i].clone()))
        with libsae.hf.steer(model, {1: alone}):
            solo = model(ids[i : i + 1]).logits[0]
        assert (solo - logits[i]).abs().max() <= 1e-5
    assert s.counts[1].taken == 2 * 8 * 7


def test_sequences_without_a_slot_are_untouched(model: Any, sae: libsae.Sae) -> None:
    ids = prompts(4)
    plain = model(ids).logits
    with libsae.hf.steer(model, {1: by_slot(sae, 2)}, slots=[1, -1, 0, -1]) as s:
        steered = model(ids).logits
        s.slots = [-1, -1, -1, -1]
        none = model(ids).logits
    assert same(steered[1], plain[1]) and same(steered[3], plain[3])
    assert not same(steered[0], plain[0]) and not same(steered[2], plain[2])
    assert same(none, plain)
    assert s.counts[1].skipped == {"slot": 2 * 7 + 4 * 7} and s.counts[1].taken == 2 * 7


# ---- padding, phases, positions ----


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_untouched(side: str, model: Any, sae: libsae.Sae) -> None:
    ids, mask = padded([7, 3, 5], side)
    plain = layer_output(model, "model.layers.1", input_ids=ids, attention_mask=mask)
    with libsae.hf.steer(model, {1: strong(sae)}) as s:
        got = layer_output(model, "model.layers.1", input_ids=ids, attention_mask=mask)
    real = mask.bool()
    assert same(got[~real], plain[~real])
    assert same(got[real], strong(sae).apply(plain[real]))
    assert s.counts[1].skipped == {"padding": 6} and s.counts[1].taken == 15


def test_generate_with_left_padding_is_generating_alone(model: Any, sae: libsae.Sae) -> None:
    ids, mask = padded([7, 3, 5], "left")
    options = {"max_new_tokens": 6, "do_sample": False}
    plan = by_slot(sae, 3)
    with libsae.hf.steer(model, {1: plan}, slots=[0, 1, 2]) as s:
        together = model.generate(ids, attention_mask=mask, **options)
        taken, padding = s.counts[1].taken, s.counts[1].skipped["padding"]
        for i, n in enumerate([7, 3, 5]):
            s.slots = [i]
            alone = model.generate(ids[i : i + 1, 7 - n :], **options)
            assert torch.equal(alone[0, n:], together[i, 7:])
    assert (taken, padding) == (15 + 3 * 5, 6)


def test_prefill_only(model: Any, sae: libsae.Sae) -> None:
    ids = prompts(2)
    with libsae.hf.steer(model, {1: strong(sae)}, prefill_only=True) as s, Taken(model, "model.layers.1") as taken:
        model.generate(ids, max_new_tokens=5, do_sample=False)
    assert s.counts[1].skipped == {"decode": 2 * 4} and s.counts[1].taken == 14 and s.counts[1].calls == 5
    prompt = layer_output(model, "model.layers.1", input_ids=ids)
    assert same(taken.outputs[0], strong(sae).apply(prompt.view(-1, D)).view(prompt.shape))


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_real_tokens(side: str, model: Any, sae: libsae.Sae) -> None:
    ids, mask = padded([6, 3], side)
    plain = layer_output(model, "model.layers.0", input_ids=ids, attention_mask=mask)
    with libsae.hf.steer(model, {0: strong(sae)}, positions=(1, 4)) as s:
        got = layer_output(model, "model.layers.0", input_ids=ids, attention_mask=mask)
    changed = (got != plain).any(dim=-1)
    first = {"left": [0, 3], "right": [0, 0]}[side]
    want = torch.zeros(2, 6, dtype=torch.bool)
    want[0, first[0] + 1 : first[0] + 4] = True
    want[1, first[1] + 1 : first[1] + 3] = True
    assert torch.equal(changed, want)
    assert s.counts[0].skipped == {"padding": 3, "position": 4} and s.counts[0].taken == 5


def test_positions_go_on_through_generate(model: Any, sae: libsae.Sae) -> None:
    ids, mask = padded([5, 3], "left")
    with libsae.hf.steer(model, {0: strong(sae)}, positions=(4, 7)) as s:
        model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    # 5 real tokens, then positions 5 .. 9; and 3, then 3 .. 7
    assert s.counts[0].taken == (1 + 2) + (0 + 3)
    assert s.counts[0].skipped == {"padding": 2, "position": 10 + 10 - 2 - 6}


# ---- watching ----


@pytest.mark.parametrize("features", [None, [5, 2, 11, 5]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_watching_changes_nothing_and_sees_the_codes(features: Any, dtype: Any, sae: libsae.Sae) -> None:
    model = built(llama, dtype)
    ids, mask = padded([7, 3], "left")
    plain = model(ids, attention_mask=mask).logits
    rows = layer_output(model, "model.layers.2", input_ids=ids, attention_mask=mask)
    with libsae.hf.watch(model, 2, sae, features) as w:
        assert same(model(ids, attention_mask=mask).logits, plain)
    seen = w.collect()
    want = np.array(sae.encode_dense(rows[mask.bool()]))
    if features is not None:
        want[:, [i for i in range(D_SAE) if i not in features]] = 0
    assert want.any()
    np.testing.assert_array_equal(seen.codes.dense(), want)
    assert seen.sequences.tolist() == [0] * 7 + [1] * 3
    assert seen.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    assert seen.passes.tolist() == [0] * 10
    assert w.counts[2].skipped == {"padding": 4} and w.counts[2].taken == 10


@pytest.mark.parametrize("features", [None, [3, 8]])
def test_watching_generate(features: Any, model: Any, sae: libsae.Sae) -> None:
    ids, mask = padded([4, 2], "left")
    with libsae.hf.watch(model, 0, sae, features) as w:
        out = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    seen = w.collect()
    assert seen.passes.tolist() == [0] * 6 + [1, 1, 2, 2, 3, 3]
    assert seen.sequences.tolist() == [0, 0, 0, 0, 1, 1] + [0, 1] * 3
    assert seen.positions.tolist() == [0, 1, 2, 3, 0, 1, 4, 2, 5, 3, 6, 4]
    full = torch.cat([mask, torch.ones(2, 4, dtype=mask.dtype)], dim=1)
    with libsae.hf.watch(model, 0, sae, features) as at_once:  # the same text in one pass: the same codes but for rounding
        model(out, attention_mask=full)
    whole = at_once.collect()
    for i in range(len(seen.positions)):
        j = int(np.flatnonzero((whole.sequences == seen.sequences[i]) & (whole.positions == seen.positions[i]))[0])
        np.testing.assert_allclose(seen.codes.dense()[i], whole.codes.dense()[j], atol=1e-5)
    w.clear()
    assert w.collect().codes.shape == (0, D_SAE)


def test_a_watch_attached_after_sees_the_edit(model: Any, sae: libsae.Sae) -> None:
    ids, pin = prompts(1), Plan([Edit.add(50.0, vector=sae.W_enc_row(5), unit="unit")])
    with libsae.hf.watch(model, 1, sae, 5) as before, libsae.hf.steer(model, {1: pin}), libsae.hf.watch(model, 1, sae, 5) as after:
        model(ids)
    assert (after.collect().codes.dense()[:, 5] > before.collect().codes.dense()[:, 5] + 10).all()


def test_codes_of_normalised_rows_decode(model: Any) -> None:
    rng = np.random.default_rng(2)
    w = [rng.standard_normal(shape).astype(np.float32) for shape in ((D, D_SAE), (D_SAE, D))]
    sae = libsae.from_weights(*w, normalize_activations="layer_norm")
    rows = layer_output(model, "model.layers.1", input_ids=prompts(2))
    with libsae.hf.watch(model, 1, sae) as w2:
        model(prompts(2))
        model(prompts(2))
    want = sae.decode(sae.encode(rows.view(-1, D)))
    np.testing.assert_array_equal(sae.decode(w2.collect().codes), np.concatenate([want, want]))


# ---- other shapes of models ----


class Block(torch.nn.Module):
    """A layer as those of transformers 4: it gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(D, D)
        self.same = torch.nn.Identity()

    def forward(self, x: Any) -> Any:
        return (self.same(x) + self.linear(x), "attentions")


class Tuples(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, D)
        self.layers = torch.nn.ModuleList([Block() for _ in range(LAYERS)])

    def forward(self, input_ids: Any, change: Any = None) -> Any:
        x = self.embed(input_ids)
        for layer in self.layers:
            x, what = layer(x if change is None else change(x))
            assert what == "attentions"
        return x


def test_a_layer_that_gives_a_tuple(sae: libsae.Sae) -> None:
    model, ids = built(Tuples), prompts()
    plain = layer_output(model, "layers.1", input_ids=ids)
    with libsae.hf.steer(model, {1: strong(sae)}) as s:
        got = layer_output(model, "layers.1", input_ids=ids)
    assert same(got, strong(sae).apply(plain.clone().view(-1, D)).view(plain.shape))
    assert s.counts[1].taken == 21


def test_a_module_that_hands_on_its_input_does_not_change_it(sae: libsae.Sae) -> None:
    model, ids = built(Tuples), prompts()
    x = model.embed(ids)
    edited = strong(sae).apply(x.clone().view(-1, D)).view(x.shape)
    want = edited + model.layers[0].linear(x)
    with libsae.hf.steer(model, {"layers.0.same": strong(sae)}):
        assert same(layer_output(model, "layers.0", input_ids=ids), want)


def test_rows_that_do_not_lie_evenly(sae: libsae.Sae) -> None:
    model, ids = built(Tuples), prompts()
    plain = layer_output(model, "layers.0.linear", input_ids=ids)

    class Turned(torch.nn.Module):
        """What `inner` gives, laid out with sequences and tokens exchanged."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x).transpose(0, 1).contiguous().transpose(0, 1)

    model.layers[0].linear = Turned(model.layers[0].linear)
    with libsae.hf.steer(model, {"layers.0.linear": strong(sae)}), pytest.raises(TypeError, match="copy=True"):
        model(ids)
    with libsae.hf.steer(model, {"layers.0.linear": strong(sae)}, copy=True):
        got = layer_output(model, "layers.0.linear", input_ids=ids)
    assert same(got, strong(sae).apply(plain.clone().view(-1, D)).view(plain.shape))


class Elsewhere(torch.Tensor):
    """A CPU tensor that says it is on another device."""

    device = property(lambda self: torch.device("cuda", 0))  # type: ignore[assignment]

    def cpu(self) -> Any:
        return self.as_subclass(torch.Tensor).clone()


def test_other_devices_need_copy(sae: libsae.Sae) -> None:
    model, ids = built(Tuples), prompts()
    plain = layer_output(model, "layers.0.linear", input_ids=ids)
    model.layers[0].linear.register_forward_hook(lambda _, __, y: y.as_subclass(Elsewhere))
    with libsae.hf.steer(model, {"layers.0.linear": strong(sae)}), pytest.raises(TypeError, match="cuda:0.*copy=True"):
        model(ids)
    with libsae.hf.steer(model, {"layers.0.linear": strong(sae)}, copy=True), libsae.hf.watch(model, 0, sae, copy=True) as w:
        got = layer_output(model, "layers.0.linear", input_ids=ids)
    assert same(got.as_subclass(torch.Tensor), strong(sae).apply(plain.clone().view(-1, D)).view(plain.shape))
    assert w.counts[0].taken == 21


# ---- what is refused ----


def refused(match: str, error: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(error, match=match) as caught:
        libsae.hf.steer(*args, **options)
    assert "\n" not in str(caught.value)


def test_what_is_refused_when_attaching(model: Any, sae: libsae.Sae) -> None:
    plan, hooks = strong(sae), [len(m._forward_hooks) for m in model.modules()]
    wide = Plan([Edit.add(1.0, vector=np.ones(D + 1, np.float32))])
    refused("model.layers.1 gives rows of 48, .* rows of 49", libsae.ShapeError, model, {1: wide})
    refused("layers 0 .. 2", libsae.ArgError, model, {3: plan})
    refused("layers 0 .. 2", libsae.ArgError, model, {-1: plan})
    refused("no module 'model.layer.1'", libsae.ArgError, model, {"model.layer.1": plan})
    refused("same module", libsae.ArgError, model, {1: plan, "model.layers.1": plan})
    refused("no layer", libsae.ArgError, model, {})
    refused("give a libsae.Plan", TypeError, model, {1: sae})
    refused("torch module", TypeError, "model", {1: plan})
    refused("give an integer", TypeError, model, {1.0: plan})
    refused("slots 0 .. 0", libsae.ArgError, model, {1: plan}, slots=[0, 1])
    refused("holds no token", libsae.ArgError, model, {1: plan}, positions=(4, 4))
    refused("first, stop", libsae.ArgError, model, {1: plan}, positions=(1, 2, 3))
    refused("torch.compile", libsae.ArgError, torch.compile(model), {1: plan})
    with pytest.raises(libsae.ArgError, match="features 0 .. 89|has 0 .. 89"):
        libsae.hf.watch(model, 1, sae, [90])
    temporal = libsae.open(Path(__file__).resolve().parents[1] / "golden" / "saelens" / "temporal")
    with pytest.raises(libsae.UnsupportedError, match="a temporal SAE depend on all rows before"):
        libsae.hf.watch(model, 1, temporal)
    with pytest.raises(TypeError, match="give a libsae.Sae"):
        libsae.hf.watch(model, 1, plan)
    narrow = libsae.from_weights(np.ones((8, 4), np.float32), np.ones((4, 8), np.float32))
    with pytest.raises(libsae.ShapeError, match="rows of 48.*rows of 8"):
        libsae.hf.watch(model, 1, narrow)
    assert hooks == [len(m._forward_hooks) for m in model.modules()]  # nothing stayed behind
    with torch.device("meta"):
        refused("meta device", TypeError, llama(), {1: plan})
    two = torch.nn.ModuleDict({"a": torch.nn.ModuleList([Block()]), "b": torch.nn.ModuleList([Block()])})
    refused("could be a and b", libsae.ArgError, two, {0: plan})
    refused("no list of modules", libsae.ArgError, torch.nn.Linear(D, D), {0: plan})


def test_what_is_refused_before_the_first_token(model: Any, sae: libsae.Sae) -> None:
    ids = prompts(2)
    with libsae.hf.steer(model, {1: strong(sae)}, slots=[0, 0, 0]), pytest.raises(libsae.ShapeError, match="3 sequences.*has 2"):
        model(ids)
    with libsae.hf.steer(model, {1: strong(sae)}) as s:
        with pytest.raises(libsae.ShapeError, match="attention_mask"):
            model(ids, attention_mask=torch.ones(2, 1, 7, 7, dtype=torch.bool))
        with torch.enable_grad(), pytest.raises(TypeError, match="no_grad"):
            model(ids)
        assert s.counts[1].taken == 0
    with libsae.hf.steer(model, {"lm_head": strong(sae)}), pytest.raises(libsae.ShapeError, match=re.escape("(2, 7, 101)")):
        model(ids)
    with libsae.hf.steer(model.to(torch.float64), {1: strong(sae)}), pytest.raises(TypeError, match="float64"):
        model(ids)


def test_a_layer_called_by_itself_is_refused(sae: libsae.Sae) -> None:
    model = built(Tuples)
    with libsae.hf.steer(model, {1: strong(sae)}) as s, pytest.raises(RuntimeError, match=r"layers\.1 was called outside of its model"):
        model(prompts())
        model.layers[1](torch.zeros(3, 7, D))
    assert s.counts[1].calls == 1


@pytest.mark.filterwarnings("ignore")  # torch means to drop these dtypes
def test_a_quantised_output_is_refused(sae: libsae.Sae) -> None:
    model = built(Tuples)
    model.layers[0].linear.register_forward_hook(lambda _, __, y: torch.quantize_per_tensor(y, 0.1, 0, torch.quint8))
    with libsae.hf.steer(model, {"layers.0.linear": strong(sae)}), pytest.raises(TypeError, match="quint8"):
        model(prompts())


def test_removing(sae: libsae.Sae) -> None:
    model = built(llama)
    s = libsae.hf.steer(model, {1: strong(sae)})
    with s:
        s.remove()  # earlier than the end of with, which then has nothing left to do
    with pytest.raises(ValueError, match="removed before"):
        s.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    late = libsae.hf.watch(model, 1, sae)
    del model
    gc.collect()
    with pytest.raises(ValueError, match="is gone"):
        late.remove()


def test_a_failed_pass_leaves_nothing_behind(model: Any, sae: libsae.Sae) -> None:
    ids = prompts(2)
    with libsae.hf.steer(model, {1: strong(sae)}) as s:
        want = model(ids).logits
        with pytest.raises(IndexError):
            model(torch.full((2, 7), VOCAB))
        assert same(model(ids).logits, want)
    assert s.counts[1].calls == 2 and s.passes == 3


def test_the_example_steers_every_token() -> None:
    script = Path(__file__).resolve().parents[2] / "examples/python/steer_transformers.py"
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    # 4 + 2 tokens of the prompts, then 7 steps of two
    assert "Counts(calls=8, rows=22, taken=20, skipped={'padding': 2})" in said
    before, after = re.findall(r"sequence 0: (.*) -> (.*)", said)[0]
    assert before != after
    assert len(re.findall(r"^sequence \d, token \d: ", said, re.MULTILINE)) == 6
