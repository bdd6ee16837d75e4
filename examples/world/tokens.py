"""Documents as tokens, each with what the grammar knows about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from grammar import LANGS, MARK, Document
from tokenizer import BOS, Tokenizer

CONTEXT = 256


@dataclass
class Tokens:
    """One document. Arrays run over its tokens, BOS included (topic -1)."""

    ids: np.ndarray  # int64
    topic: np.ndarray  # concept of the sentence, -1 for none
    lang: np.ndarray  # index into LANGS
    filler: np.ndarray  # bool: sentence without a topic of its own
    known: np.ndarray  # bool: the topic has been mentioned before the end of this token
    noun: np.ndarray  # bool: part of the concept's noun
    held_out: np.ndarray  # bool: in a held-out phrase
    open: np.ndarray  # bool: the sentence up to here could go on with any concept of the family


def label(doc: Document, tok: Tokenizer) -> Tokens:
    """Tokens of a document. A topic counts as known from the end of its first noun on, or of its first sentence without a noun."""
    rows = [(BOS, -1, 0, True, False, False, False, False)]
    mentioned: set[int] = set()
    for topic, s, marked in doc.pieces():
        text = marked.replace(MARK, "")
        lead = len(text) - len(s.plain)
        ids, ends = tok.encode_with_ends(text)
        first = lead + s.nouns[0][1] if s.nouns else len(text)
        filler = s.kind == "filler"
        for i, end in zip(ids, ends):
            known = topic in mentioned or (not filler and end >= first)
            noun = any(lead + a < end <= lead + b for a, b in s.nouns)
            rows.append((i, topic, LANGS.index(s.lang), filler, known, noun, s.held_out, s.open and end <= first))
        if not filler:
            mentioned.add(topic)
    columns = [np.array(c) for c in zip(*rows[:CONTEXT])]
    return Tokens(*columns)
