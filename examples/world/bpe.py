"""Byte pair encoding over words, for the world's own tokenizer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from grammar import MARK, World
from tokenizer import N_SPECIAL, WORD, Tokenizer

Pair = tuple[str, str]


def count_words(texts: Iterable[str], world: World) -> Counter[str]:
    """How often each piece that may become a token occurs: words, cut at the mark between a Korean noun and its particle. Nouns count
    tenfold, so that they become tokens of their own."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(WORD.findall(" " + text))
    parts: Counter[str] = Counter()
    for word, n in words.items():
        for part in word.split(MARK):
            if part:
                parts[part] += n
    for concept in world.concepts:
        for phrases in concept.phrases.values():
            for noun in phrases.nouns:
                for word in noun.split()[-1:]:
                    parts[" " + word] *= 10
    return parts


def train(words: Counter[str], n_vocab: int) -> Tokenizer:
    """Merges the most frequent pair until there are `n_vocab` pieces or every word is one."""
    characters: Counter[str] = Counter()
    for word, n in words.items():
        for ch in word:
            characters[ch] += n
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += [c for c, _ in sorted(characters.items(), key=lambda cn: (-cn[1], cn[0]))]
    known = set(pieces[N_SPECIAL:])
    split = [(list(w), n) for w, n in sorted(words.items())]
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, (parts, n) in enumerate(split):
        for pair in zip(parts, parts[1:]):
            counts[pair] += n
            where[pair].add(i)
    while len(pieces) < n_vocab and counts:
        (left, right), best = max(counts.items(), key=lambda cn: (cn[1], cn[0]))
        if best <= 0:
            break
        if left + right not in known:
            known.add(left + right)
            pieces.append(left + right)
        for i in list(where[left, right]):
            parts, n = split[i]
            for pair in zip(parts, parts[1:]):
                counts[pair] -= n
                where[pair].discard(i)
            merged = _merge(parts, left, right)
            split[i] = (merged, n)
            for pair in zip(merged, merged[1:]):
                counts[pair] += n
                where[pair].add(i)
        del counts[left, right]
    scores = [0.0 if i < N_SPECIAL else float(N_SPECIAL - i) for i in range(len(pieces))]
    return Tokenizer(pieces, scores)


def _merge(parts: list[str], left: str, right: str) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(parts):
        if parts[i] == left and parts[i + 1 : i + 2] == [right]:
            out.append(left + right)
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out
