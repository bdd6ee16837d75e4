"""The reference engine against transformers' Llama as it saves itself, and against the `tokenizers` package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
families = pytest.importorskip("families")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

ENGINE = os.environ["ENGINE"]
IDS = [1, 5, 200, 7, 7, 120, 2, 64, 299, 31]


def said(*args: object) -> dict:
    return json.loads(subprocess.run([ENGINE, *map(str, args), "--json"], check=True, capture_output=True, text=True).stdout)


def model(**config: object) -> object:
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **config})).eval()


@pytest.mark.parametrize(
    "config",
    [{}, {"num_key_value_heads": 4, "tie_word_embeddings": True}, {"num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-3}],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_logits_equal_transformers(tmp_path: Path, config: dict, dtype: str) -> None:
    model(**config).to(getattr(torch, dtype)).save_pretrained(tmp_path / "m")
    m = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    with torch.no_grad():
        want = m(torch.tensor([IDS])).logits[0].numpy()
    said("logprobs", "--model", tmp_path / "m", "--tokens", ",".join(map(str, IDS)), "--logits", tmp_path / "l.npy")
    assert np.abs(np.load(tmp_path / "l.npy") - want).max() <= 1e-4 * (1 + np.abs(want).max())


@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_rope(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 200.0}
    if kind == "llama3":
        rope |= {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    m = model(rope_parameters=rope)
    m.save_pretrained(tmp_path / "m")
    with torch.no_grad():
        want = m(torch.tensor([IDS])).logits[0].numpy()
    said("logprobs", "--model", tmp_path / "m", "--tokens", ",".join(map(str, IDS)), "--logits", tmp_path / "l.npy")
    assert np.abs(np.load(tmp_path / "l.npy") - want).max() <= 1e-4 * (1 + np.abs(want).max())


@pytest.mark.parametrize("name", families.NAMES)
def test_tokens_equal_tokenizers(tmp_path: Path, name: str) -> None:
    """A freshly trained tokenizer, on the texts of the suite and on real ones; what the suite keeps is still what the package says."""
    text = families.make(name)
    (tmp_path / "tokenizer.json").write_text(text)
    kept = json.loads((families.GOLDEN / f"{name}.cases.json").read_text())
    stored = (families.GOLDEN / f"{name}.tokenizer.json").read_text()
    assert [c["ids"] for c in kept] == families.encoded(stored, [c["text"] for c in kept])
    texts = [*families.TEXTS]
    if os.environ.get("SAE_TEST_DATA"):
        stories = (Path(os.environ["SAE_TEST_DATA"]) / "text" / "tinystories_1000.txt").read_text().split("<|endoftext|>")
        texts += [s for s in stories[:40] if s.strip()]
    m = model()
    m.save_pretrained(tmp_path / "m")
    for at in range(0, len(texts), 20):
        some = texts[at : at + 20]
        prompts = [a for t in some for a in ("--prompt", t)]
        got = said("tokenize", "--model", tmp_path / "m", "--tokenizer", tmp_path / "tokenizer.json", *prompts)["tokens"]
        assert got == families.encoded(text, some)
