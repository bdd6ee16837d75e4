"""A feature watched and clamped in llama.cpp from Python. Needs llama-cpp-python and libsae; downloads nothing.

    python steer_llama.py MODEL.gguf SAE LAYER FEATURE VALUE PROMPT

Prints the most probable continuation as it is and as it becomes, the feature's code at each token, and what the callback counted.
"""

from __future__ import annotations

import sys

import libsae
import libsae.llama
import llama_cpp


def main(path: str, sae_path: str, layer: int, feature: int, value: float, prompt: str) -> None:
    sae = libsae.open(sae_path)
    plan = libsae.Plan([libsae.Edit.set(value, feature=feature)], sae=sae)
    tap = libsae.llama.Tap(layer, plan=plan, sae=sae, features=[feature])
    taps = libsae.llama.Taps([tap], library=llama_cpp)
    llm = taps.make(llama_cpp.Llama, model_path=path, n_ctx=256, verbose=False)
    for label, slot in (("as it is", -1), ("steered", 0)):
        taps.slots = slot  # and a text begins anew: keys and values keep the steer
        taps.clear()
        text = llm(prompt, max_tokens=24, temperature=0)["choices"][0]["text"]
        codes = taps.collect(tap.tensor).codes
        values = [float(codes.row(r)[1].sum()) for r in range(len(codes))]
        print("codes:", *(f"{v:.1f}" for v in values))
        print(f"{label}:{text}")
    counts = taps.counts[tap.tensor]
    print(f"{tap.tensor}: {counts.graphs} graphs, {counts.rows} rows seen, {counts.edited} edited, {counts.left} left alone")
    llm.close()  # first: the callback uses the taps
    taps.close(freed=True)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])
