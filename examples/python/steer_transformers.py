"""Steers and watches a model of Hugging Face transformers. Needs torch, transformers and libsae; downloads nothing.

    python steer_transformers.py [SAE]      # a file or folder that libsae.open reads; else random weights

The Llama is a small random one: put `AutoModelForCausalLM.from_pretrained(...)` in its place, and an SAE of that model.
"""

from __future__ import annotations

import sys

import libsae
import libsae.hf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYER, FEATURES = 1, [2, 5, 11]

rng = np.random.default_rng(0)
directions = rng.standard_normal((256, 64), np.float32) / 8  # what features write is also what they read
sae = libsae.open(sys.argv[1]) if len(sys.argv) > 1 else libsae.from_weights(directions.T, directions)

torch.manual_seed(0)
sizes = {"hidden_size": sae.info["d_in"], "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
model = LlamaForCausalLM(LlamaConfig(vocab_size=500, pad_token_id=0, eos_token_id=None, **sizes)).eval()

# Two prompts of different length, padded on the left; the first is steered by slot 0, the second by slot 1.
ids = torch.tensor([[7, 8, 9, 10], [0, 0, 7, 8]])
mask = (ids != 0).long()
edits = [libsae.Edit.set(8.0, feature=5), libsae.Edit.add(6.0, feature=11, slot=1)]
plan = libsae.Plan(edits, n_slots=2, sae=sae)


def generate() -> list[list[int]]:
    return model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)[:, ids.shape[1] :].tolist()


plain = generate()
with libsae.hf.steer(model, {LAYER: plan}, slots=[0, 1]) as s, libsae.hf.watch(model, LAYER, sae, FEATURES) as w:
    steered = generate()

for i, (before, after) in enumerate(zip(plain, steered)):
    print(f"sequence {i}: {before} -> {after}")
print(f"layer {LAYER}: {s.counts[LAYER]}")
seen = w.collect()
for row in range(6):
    features, values = seen.codes.row(row)
    codes = ", ".join(f"{f}: {v:.2f}" for f, v in zip(features, values))
    print(f"sequence {seen.sequences[row]}, token {seen.positions[row]}: {codes or 'none of these'}")
