"""SAEs with random weights, and what they should answer, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import libsae

Array = np.ndarray


def bf16(a: Array) -> Array:
    """Nearest bfloat16, as the uint16 that hold it (finite values)."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widen(a: Array) -> Array:
    """float32 of any of the three types."""
    if a.dtype == np.uint16:
        return (a.astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float32)


CAST = {"f32": lambda a: a.astype(np.float32), "f16": lambda a: a.astype(np.float16), "bf16": bf16}


@dataclass
class Oracle:
    """Weights, and the published formulas on them."""

    arch: str
    d_in: int = 24
    d_sae: int = 100
    k: int = 7
    dtype: str = "f32"
    norm: str = "none"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)

        def draw(*shape: int) -> Array:
            return (rng.standard_normal(shape) / np.sqrt(self.d_in)).astype(np.float32)

        self.W_enc = CAST[self.dtype](draw(self.d_in, self.d_sae))
        self.W_dec = CAST[self.dtype](draw(self.d_sae, self.d_in))
        self.vectors = {"b_dec": draw(self.d_in)}
        names = ("b_gate", "b_mag", "r_mag") if self.arch == "gated" else ("b_enc",)
        self.vectors.update({name: draw(self.d_sae) for name in names})
        if self.arch == "jumprelu":
            self.vectors["threshold"] = np.abs(draw(self.d_sae))
        if self.arch == "topk":
            self.options["k"] = self.k
        self.rng = rng

    def open(self, **more: Any) -> libsae.Sae:
        options = {"apply_b_dec_to_input": True, "normalize_activations": self.norm, **self.options, **more}
        return libsae.from_weights(self.W_enc, self.W_dec, architecture=self.arch, **self.vectors, **options)

    def x(self, n: int) -> Array:
        return self.rng.standard_normal((n, self.d_in)).astype(np.float32)

    def pre(self, x: Array) -> Array:
        x = x.astype(np.float64)
        if self.norm == "constant_norm_rescale":
            x = x * np.sqrt(self.d_in) / np.linalg.norm(x, axis=1, keepdims=True)
        bias = self.vectors["b_gate" if self.arch == "gated" else "b_enc"]
        return (x - self.vectors["b_dec"]) @ widen(self.W_enc).astype(np.float64) + bias

    def codes(self, x: Array) -> Array:
        h = self.pre(x)
        if self.arch == "jumprelu":
            return np.where(h > self.vectors["threshold"], h, 0.0)
        if self.arch == "topk":
            chosen = np.argsort(-h, axis=1, kind="stable")[:, : self.k]
            z = np.zeros_like(h)
            np.put_along_axis(z, chosen, np.maximum(np.take_along_axis(h, chosen, 1), 0.0), 1)
            return z
        if self.arch == "gated":
            u = h - self.vectors["b_gate"]
            mag = np.exp(self.vectors["r_mag"].astype(np.float64)) * u + self.vectors["b_mag"]
            return np.where(h > 0, np.maximum(mag, 0.0), 0.0)
        return np.maximum(h, 0.0)

    def decode(self, z: Array, x: Array) -> Array:
        y = z @ widen(self.W_dec).astype(np.float64) + self.vectors["b_dec"]
        if self.norm == "constant_norm_rescale":
            y = y * np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) / np.sqrt(self.d_in)
        return y


ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")


def close(got: Array, want: Array, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
