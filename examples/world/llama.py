"""A Llama forward pass in NumPy: the independent judge of the engine, and what measures the world.

Reads llama2.c's version 0. Batches are padded on the right, which a causal model does not see.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

Array = np.ndarray
_EPS = np.float32(1e-5)


class Cache:
    """Keys and values of `n` sequences, `[layer][n][position][heads * head_size]`."""

    def __init__(self, m: Llama, n: int) -> None:
        self.k = np.zeros((m.n_layers, n, m.context, m.n_kv_heads * m.head), np.float32)
        self.v = np.zeros_like(self.k)


class Llama:
    """Weights are `[out][in]` as stored. `residual` streams are `[n][positions][dim]`."""

    def __init__(self, shape: tuple[int, ...], tensors: dict[str, Array], theta: float = 10000.0) -> None:
        self.dim, self.hidden, self.n_layers, self.n_heads, self.n_kv_heads, self.n_vocab, self.context = shape
        self.head = self.dim // self.n_heads
        self.t = tensors
        frequency = theta ** -(np.arange(0, self.head, 2) / self.head)
        angle = np.outer(np.arange(self.context), frequency)
        self._cos, self._sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    @classmethod
    def load_bin(cls, path: str | Path) -> Llama:
        data = Path(path).read_bytes()
        dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data)
        tied, vocab = vocab > 0, abs(vocab)
        kv = dim // heads * kv_heads
        sizes: list[tuple[str, tuple[int, ...]]] = [("emb", (vocab, dim)), ("n1", (layers, dim))]
        sizes += [("q", (layers, dim, dim)), ("k", (layers, kv, dim)), ("v", (layers, kv, dim)), ("o", (layers, dim, dim))]
        sizes += [("n2", (layers, dim)), ("w1", (layers, hidden, dim)), ("w2", (layers, dim, hidden)), ("w3", (layers, hidden, dim))]
        sizes += [("norm", (dim,)), ("rope", (context, dim // heads))]
        if not tied:
            sizes.append(("head", (vocab, dim)))
        at, tensors = 28, {}
        for name, size in sizes:
            n = int(np.prod(size))
            tensors[name] = np.frombuffer(data, "<f4", n, at).reshape(size)
            at += 4 * n
        if at != len(data):
            raise ValueError(f"{path} has {len(data)} bytes, its header asks for {at}")
        return cls((dim, hidden, layers, heads, kv_heads, vocab, context), tensors)

    @property
    def unembedding(self) -> Array:
        """W_U with the last norm's weight folded in, [n_vocab][dim]."""
        return self.t.get("head", self.t["emb"]) * self.t["norm"]

    def embed(self, ids: Array) -> Array:
        return self.t["emb"][ids]

    def forward(self, ids: Array) -> Array:
        """Logits [n][positions][n_vocab]."""
        return self.logits(self.blocks(self.embed(ids), 0, self.n_layers))

    def logits(self, residual: Array) -> Array:
        return _norm(residual) @ self.unembedding.T

    def blocks(self, x: Array, first: int, last: int, cache: Cache | None = None, position: Array | None = None) -> Array:
        """The residual after blocks first .. last-1. With a cache, row r's first position is position[r] (default 0)."""
        n, t, _ = x.shape
        at = (np.zeros(n, np.int64) if position is None else position)[:, None] + np.arange(t)
        for layer in range(first, last):
            x = x + self._attention(layer, _norm(x) * self.t["n1"][layer], cache, at)
            y = _norm(x) * self.t["n2"][layer]
            gate = y @ self.t["w1"][layer].T
            x = x + (gate / (1 + np.exp(-gate)) * (y @ self.t["w3"][layer].T)) @ self.t["w2"][layer].T
        return x

    def _attention(self, layer: int, y: Array, cache: Cache | None, at: Array) -> Array:
        n, t, _ = y.shape
        q = self._rope((y @ self.t["q"][layer].T).reshape(n, t, self.n_heads, self.head), at)
        k = self._rope((y @ self.t["k"][layer].T).reshape(n, t, self.n_kv_heads, self.head), at)
        v = (y @ self.t["v"][layer].T).reshape(n, t, self.n_kv_heads, self.head)
        if cache is not None:
            rows, end = np.arange(n)[:, None], int(at.max()) + 1
            cache.k[layer][rows, at] = k.reshape(n, t, -1)
            cache.v[layer][rows, at] = v.reshape(n, t, -1)
            k = cache.k[layer][:, :end].reshape(n, end, self.n_kv_heads, self.head)
            v = cache.v[layer][:, :end].reshape(n, end, self.n_kv_heads, self.head)
        group = self.n_heads // self.n_kv_heads
        k, v = (np.repeat(z, group, axis=2).transpose(0, 2, 1, 3) for z in (k, v))
        score = q.transpose(0, 2, 1, 3) @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(self.head))
        score = np.where(np.arange(k.shape[2]) <= at[:, None, :, None], score, np.float32(-np.inf))
        score = np.exp(score - score.max(-1, keepdims=True))
        score /= score.sum(-1, keepdims=True)
        return (score @ v).transpose(0, 2, 1, 3).reshape(n, t, -1) @ self.t["o"][layer].T

    def _rope(self, z: Array, at: Array) -> Array:
        cos, sin = self._cos[at][:, :, None], self._sin[at][:, :, None]
        a, b = z[..., 0::2], z[..., 1::2]
        out = np.empty_like(z)
        out[..., 0::2] = a * cos - b * sin
        out[..., 1::2] = a * sin + b * cos
        return out


def _norm(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPS)


def log_softmax(logits: Array) -> Array:
    z = logits - logits.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def pad(rows: list[list[int]]) -> tuple[Array, Array]:
    """Rows of one length, and their own lengths."""
    length = np.array([len(r) for r in rows])
    ids = np.zeros((len(rows), int(length.max())), np.int64)
    for i, r in enumerate(rows):
        ids[i, : len(r)] = r
    return ids, length
