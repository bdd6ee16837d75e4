"""The world's language model: a small Llama, trained with torch, saved in llama2.c's format."""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from report import Progress
from tokens import CONTEXT, Tokens
from torch import Tensor, nn


@dataclass
class Shape:
    dim: int = 128
    hidden: int = 352
    layers: int = 5
    heads: int = 4
    context: int = CONTEXT


@dataclass
class Training:
    batch_tokens: int = 3200
    lr: float = 4e-3
    warmup: int = 80
    seed: int = 0
    topic_layer: int = 2  # whose output must tell the topic
    topic_weight: float = 0.03  # of that loss; 0 = none
    topic_share: float = 0.25  # of the tokens, drawn anew in each step: the loss costs as much as the model's own
    topic_words: int = 4  # sampled per token
    near: int = 12  # tokens that the blocks above topic_layer see, beside BOS,
    near_share: float = 0.9  # in this share of the documents: there the topic can reach them by the residual stream alone
    jitter_share: float = 0.5  # of the documents whose topic's strength is changed for the blocks above topic_layer,
    jitter_least: float = -0.5  # by between this and
    jitter_most: float = 1.5  # this times what it is


class Norm(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.w, 1e-5)


class Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads = s.heads
        self.n1, self.n2 = Norm(s.dim), Norm(s.dim)
        self.q, self.k, self.v, self.o = (nn.Linear(s.dim, s.dim, bias=False) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(s.dim, s.hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(s.hidden, s.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None = None) -> Tensor:
        """`seen` [n][1][t][t] narrows what each position attends to."""
        n, t, d = x.shape
        y = self.n1(x)

        def split(z: Tensor) -> Tensor:
            return z.view(n, t, self.heads, -1).transpose(1, 2)

        def rope(z: Tensor) -> Tensor:
            a, b = z[..., 0::2], z[..., 1::2]
            return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

        a = F.scaled_dot_product_attention(rope(split(self.q(y))), rope(split(self.k(y))), split(self.v(y)), seen, is_causal=seen is None)
        x = x + self.o(a.transpose(1, 2).reshape(n, t, d))
        y = self.n2(x)
        return x + self.w2(F.silu(self.w1(y)) * self.w3(y))


class Llama(nn.Module):
    def __init__(self, s: Shape, n_vocab: int) -> None:
        super().__init__()
        self.shape = s
        self.emb = nn.Embedding(n_vocab, s.dim)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = Norm(s.dim)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.04 if "emb" in name else 0.05
                nn.init.normal_(p, 0, std / (math.sqrt(2 * s.layers) if name.endswith(("o.weight", "w2.weight")) else 1))
        half = s.dim // s.heads
        angle = torch.outer(torch.arange(s.context).float(), 10000.0 ** -(torch.arange(0, half, 2).float() / half))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def residuals(
        self, ids: Tensor, split: int = -1, seen: Tensor | None = None, edit: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """The output of every block. Those after block `split` attend to `seen` alone and get its output as `edit` leaves it."""
        t = ids.shape[1]
        x = self.emb(ids)
        out = []
        for i, b in enumerate(self.blocks):
            x = b(x, self.cos[:t], self.sin[:t], seen if i > split else None)
            out.append(x)
            if i == split and edit:
                x = edit(x)
        return out

    def logits(self, resid: Tensor) -> Tensor:
        return F.linear(self.norm(resid), self.emb.weight)

    def tensors(self) -> list[Tensor]:
        """All weights in the order of llama2.c's version 0."""
        names = ("n1.w", "q.weight", "k.weight", "v.weight", "o.weight", "n2.w", "w1.weight", "w2.weight", "w3.weight")
        weights = [b.get_parameter(name) for name in names for b in self.blocks]
        return [t.detach() for t in (self.emb.weight, *weights, self.norm.w, self.cos, self.sin)]


def save(m: Llama, path: Path) -> None:
    """llama2.c version 0: seven int32, then float32 tensors; embedding and head are one."""
    s = m.shape
    with open(path, "wb") as f:
        f.write(struct.pack("<7i", s.dim, s.hidden, s.layers, s.heads, s.heads, m.emb.num_embeddings, s.context))
        for t in m.tensors():
            f.write(t.contiguous().numpy().astype("<f4").tobytes())


def load(path: Path) -> Llama:
    """What `save` wrote."""
    raw = path.read_bytes()
    dim, hidden, layers, heads, _, n_vocab, context = struct.unpack_from("<7i", raw)
    data = np.frombuffer(raw, "<f4", offset=28)
    m = Llama(Shape(dim, hidden, layers, heads, context), n_vocab)
    at = 0
    for t in m.tensors():
        t.copy_(torch.from_numpy(data[at : at + t.numel()].copy()).view_as(t))
        at += t.numel()
    return m.eval()


def pad(rows: list[np.ndarray], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of one length, and which of their elements are real."""
    width = max(map(len, rows))
    x = torch.full((len(rows), width), fill, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, r in enumerate(rows):
        x[i, : len(r)] = torch.from_numpy(r)
        real[i, : len(r)] = True
    return x, real


def batches(docs: list[Tokens], tokens: int, seed: int) -> list[list[int]]:
    """Documents of like length together, about `tokens` a batch, in random order."""
    rng = random.Random(seed)
    order = list(range(len(docs)))
    rng.shuffle(order)
    out: list[list[int]] = []
    for start in range(0, len(order), 4000):
        batch: list[int] = []
        for i in sorted(order[start : start + 4000], key=lambda i: len(docs[i].ids)):
            if batch and len(docs[i].ids) * (len(batch) + 1) > tokens:
                out.append(batch)
                batch = []
            batch.append(i)
        out.append(batch)
    rng.shuffle(out)
    return out


class TopicLoss(nn.Module):
    """Training only, dropped afterwards: the residual after one block must tell words that other documents on the same topic
    use, in all languages. Without it a model this small writes well but hardly carries the topic from token to token."""

    def __init__(self, docs: list[Tokens], n_vocab: int, dim: int, n_concepts: int, t: Training) -> None:
        super().__init__()
        self.t = t
        self.words = nn.Parameter(torch.randn(n_vocab, dim) * 0.1)
        self.generator = torch.Generator().manual_seed(t.seed + 1)
        ids = np.concatenate([d.ids for d in docs])
        topic = np.concatenate([d.topic for d in docs])
        filler = np.concatenate([d.filler for d in docs])
        frequency = np.bincount(ids, minlength=n_vocab) + 1.0
        rarity = torch.tensor(1 / (1 + 1000 * frequency / frequency.sum()))
        rarity[:3] = 0
        bags = []
        for c in range(n_concepts):
            bag = torch.from_numpy(ids[(topic == c) & ~filler])
            bags.append(bag[torch.multinomial(rarity[bag], 20000, True, generator=self.generator)])
        self.register_buffer("bags", torch.stack(bags))

    def forward(self, resid: Tensor, topic: Tensor) -> Tensor:
        """resid [n][dim], topic [n] >= 0."""
        some = torch.rand(len(topic), generator=self.generator) < self.t.topic_share
        resid, topic = resid[some], topic[some]
        pick = torch.randint(self.bags.shape[1], (len(topic), self.t.topic_words), generator=self.generator)
        words = self.bags[topic[:, None], pick]
        h = F.rms_norm(resid, resid.shape[-1:])
        return -F.log_softmax(h @ F.normalize(self.words, dim=1).T, -1).gather(1, words).mean()


class TopicJitter:
    """Training only: makes what a topic's rows have in common weaker or stronger, in some documents, from their first token on. So the
    upper blocks learn to read the topic from this alone, at any strength, with any text before it."""

    def __init__(self, n_concepts: int, dim: int, t: Training) -> None:
        self.t = t
        self.means = torch.zeros(n_concepts, dim)  # moving, without what the rows of a language have in common
        self.dice = torch.Generator().manual_seed(t.seed + 3)

    def edit(self, x: Tensor, topic: Tensor, lang: Tensor) -> Tensor:
        """x [n][length][dim], topic and lang [n][length], -1 = none."""
        self._follow(x.detach(), topic, lang)
        n = len(x)
        strength = self.t.jitter_least + (self.t.jitter_most - self.t.jitter_least) * torch.rand(n, generator=self.dice)
        strength *= torch.rand(n, generator=self.dice) < self.t.jitter_share
        about = _from_the_start(topic)
        return x + torch.where(about >= 0, strength[:, None], 0.0)[..., None] * self.means[about]

    def _follow(self, x: Tensor, topic: Tensor, lang: Tensor) -> None:
        on = topic >= 0
        x, topic, lang = x[on], topic[on], lang[on]
        x = x - _means(x, lang, int(lang.max()) + 1)[0][lang]
        means, count = _means(x, topic, len(self.means))
        rate = 0.02 * (count > 0)
        self.means += rate[:, None] * (means - self.means)


def _means(x: Tensor, group: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and number of the rows of each group."""
    count = torch.bincount(group, minlength=n_groups)
    total = torch.zeros(n_groups, x.shape[1]).index_add_(0, group, x)
    return total / count.clamp(min=1)[:, None], count


def _from_the_start(topic: Tensor) -> Tensor:
    """Tokens before the first topic get that topic."""
    first = (topic >= 0).int().argmax(1)
    begin = topic.gather(1, first[:, None])
    return torch.where((topic < 0) & (torch.arange(topic.shape[1]) < first[:, None]), begin, topic)


def near_only(n: int, length: int, t: Training, generator: torch.Generator) -> Tensor:
    """What the upper blocks see: [n][1][length][length]."""
    at = torch.arange(length)
    back = at[:, None] - at
    causal = back >= 0
    near = causal & ((back < t.near) | (at == 0))
    some = torch.rand(n, generator=generator) < t.near_share
    return torch.where(some[:, None, None], near, causal)[:, None]


def train(docs: list[Tokens], n_vocab: int, n_concepts: int, shape: Shape, t: Training) -> Llama:
    torch.manual_seed(t.seed)
    m = Llama(shape, n_vocab)
    topic_loss = TopicLoss(docs, n_vocab, shape.dim, n_concepts, t) if t.topic_weight else None
    every = list(m.parameters()) + (list(topic_loss.parameters()) if topic_loss else [])
    opt = torch.optim.AdamW(
        [
            {"params": [p for p in every if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in every if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=t.lr,
        betas=(0.9, 0.98),
    )
    dice = torch.Generator().manual_seed(t.seed + 2)
    jitter = TopicJitter(n_concepts, shape.dim, t) if t.jitter_share else None
    plan = batches(docs, t.batch_tokens, t.seed + 5)
    progress = Progress("language model", len(plan))
    for step, batch in enumerate(plan):
        for group in opt.param_groups:
            decay = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / len(plan)))
            group["lr"] = t.lr * min(1, (step + 1) / t.warmup) * decay
        ids, real = (z[:, 1:] for z in pad([docs[i].ids for i in batch]))
        before = pad([docs[i].ids[:-1] for i in batch])[0]
        topic = pad([docs[i].topic[:-1] for i in batch], -1)[0]
        lang = pad([docs[i].lang[:-1] for i in batch])[0]
        seen = near_only(*before.shape, t, dice) if t.near_share else None
        edit = functools.partial(jitter.edit, topic=topic, lang=lang) if jitter else None
        resid = m.residuals(before, t.topic_layer, seen, edit)
        loss = F.cross_entropy(m.logits(resid[-1][real]), ids[real])
        total = loss
        told = 0.0
        if topic_loss:
            extra = topic_loss(resid[t.topic_layer][topic >= 0], topic[topic >= 0])
            total = loss + t.topic_weight * extra
            told = extra.item()
        opt.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(every, 1.0)
        opt.step()
        progress.step(loss=loss.item(), topic=told)
    progress.end()
    return m.eval().requires_grad_(False)


@torch.no_grad()
def held_out_loss(m: Llama, docs: list[Tokens]) -> float:
    """Mean cross entropy in nats per token."""
    total, n = 0.0, 0
    for start in range(0, len(docs), 50):
        ids, real = pad([d.ids for d in docs[start : start + 50]])
        logits = m.logits(m.residuals(ids[:, :-1])[-1][real[:, 1:]])
        total += F.cross_entropy(logits, ids[:, 1:][real[:, 1:]], reduction="sum").item()
        n += int(real[:, 1:].sum())
    return total / n


@torch.no_grad()
def activations(m: Llama, docs: list[Tokens], layer: int) -> np.ndarray:
    """The residual stream after a block, [n_tokens][dim], BOS left out, documents in order."""
    out = []
    for start in range(0, len(docs), 64):
        ids, real = pad([d.ids for d in docs[start : start + 64]])
        real[:, 0] = False
        out.append(m.residuals(ids)[layer][real].numpy())
    return np.concatenate(out)
