"""The tokenizer of llama2.c (`tokenizer.bin`): greedy merges by score, bytes where a character is unknown."""

from __future__ import annotations

import re
import struct
from pathlib import Path

UNKNOWN, BOS, EOS, FIRST_BYTE, N_SPECIAL = 0, 1, 2, 3, 259
# No piece crosses the border of such a word, so each can be encoded alone.
WORD = re.compile(r" ?[^\s.,:]+|[.,:]|\s")


class Tokenizer:
    """`pieces[i]` is the text of token i; a piece with a higher score merges earlier."""

    def __init__(self, pieces: list[str], scores: list[float]) -> None:
        self.pieces = pieces
        self.scores = scores
        self._ids: dict[str, int] = {}
        for i, p in enumerate(pieces[N_SPECIAL:], N_SPECIAL):
            self._ids.setdefault(p, i)
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    @classmethod
    def load(cls, path: str | Path, n_vocab: int) -> Tokenizer:
        data = Path(path).read_bytes()
        at = 4
        pieces, scores = [], []
        for _ in range(n_vocab):
            score, size = struct.unpack_from("<fi", data, at)
            pieces.append(data[at + 8 : at + 8 + size].decode("utf-8"))
            scores.append(score)
            at += 8 + size
        return cls(pieces, scores)

    def save(self, path: str | Path) -> None:
        raw = [p.encode() for p in self.pieces]
        with open(path, "wb") as f:
            f.write(struct.pack("<i", max(map(len, raw))))
            for score, r in zip(self.scores, raw):
                f.write(struct.pack("<fi", score, len(r)) + r)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without BOS and without the blank llama2.c puts in front of a prompt."""
        return [i for w in WORD.findall(text) for i in self._word(w)]

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens, and for each the number of characters up to its end (bytes of an unknown character count one each)."""
        ids, ends, at = [], [], 0
        for w in WORD.findall(text):
            for i in self._word(w):
                at += len(self.pieces[i]) if i >= N_SPECIAL else 1
                ids.append(i)
                ends.append(at)
        return ids, ends

    def decode(self, ids: list[int]) -> str:
        out = b""
        for i in ids:
            if i >= N_SPECIAL:
                out += self.pieces[i].encode()
            elif i >= FIRST_BYTE:
                out += bytes([i - FIRST_BYTE])
        return out.decode("utf-8", "replace")

    def _word(self, word: str) -> list[int]:
        if word not in self._cache:
            self._cache[word] = self._merge(word)
        return self._cache[word]

    def _merge(self, word: str) -> list[int]:
        ids: list[int] = []
        for ch in word:
            known = self._ids.get(ch)
            ids += [known] if known is not None else [FIRST_BYTE + b for b in ch.encode()]
        while True:
            best = None
            for i in range(len(ids) - 1):
                joined = self._ids.get(self.pieces[ids[i]] + self.pieces[ids[i + 1]])
                mergeable = joined is not None and min(ids[i], ids[i + 1]) >= N_SPECIAL
                if mergeable and (best is None or self.scores[joined] > self.scores[best[0]]):
                    best = (joined, i)
            if best is None:
                return ids
            ids[best[1] : best[1] + 2] = [best[0]]
