"""The corpus of the world: a lexicon of concepts and a grammar that turns it into sentences and documents.

Everything is drawn from a `random.Random`, so a seed names a corpus. The last person phrase and the last predicate of every
concept and of every family are held out: no training document uses them, evaluation documents do.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
LANGS = ("en", "ko", "es")
SEPARATOR = " /"  # at the head of a multilingual document, and where its language changes

MARK = "\x01"  # between a Korean noun and its particle: seen by the tokenizer's trainer only
OPEN, CLOSE = "\x02", "\x03"  # around a noun while a sentence is made
_SLOT = re.compile(r"\{([NP])([^}]*)\}")

# Korean particles: after a final consonant, after a vowel.
_PARTICLES = {
    "을": ("을", "를"),
    "이": ("이", "가"),
    "은": ("은", "는"),
    "과": ("과", "와"),
    "으로": ("으로", "로"),
    "으로부터": ("으로부터", "로부터"),
    "이라고": ("이라고", "라고"),
}


def particle(word: str, form: str) -> str:
    """The form of a particle that fits the last syllable of `word`."""
    if form not in _PARTICLES:
        return form
    final = (ord(word[-1]) - 0xAC00) % 28
    takes_vowel_form = final == 0 or (form.startswith("으로") and final == 8)
    return _PARTICLES[form][takes_vowel_form]


@dataclass
class Phrases:
    """What can be said in one language: `vp` follows a person, `pr` follows the concept's noun."""

    vp: list[str]
    pr: list[str]
    nouns: list[str] = field(default_factory=list)


@dataclass
class Concept:
    name: str
    family: str
    index: int
    phrases: dict[str, Phrases] = field(default_factory=dict)

    def nouns(self, lang: str) -> list[str]:
        """Its nouns without article."""
        return [bare(n) for n in self.phrases[lang].nouns]


def bare(noun: str) -> str:
    return re.sub(r"^(the|el|la|los|las) ", "", noun)


@dataclass
class Sentence:
    text: str  # holds MARK
    lang: str
    kind: str  # own, family, filler, dialogue
    held_out: bool
    nouns: list[tuple[int, int]]  # character spans in the text without MARK
    open: bool = False  # what comes before the noun could go on with any concept of the family

    @property
    def plain(self) -> str:
        return self.text.replace(MARK, "")


@dataclass
class Document:
    """Sentences, each with the index of the concept that is the topic there, -1 for none."""

    parts: list[tuple[int, Sentence]] = field(default_factory=list)
    multilingual: bool = False

    def pieces(self) -> Iterator[tuple[int, Sentence, str]]:
        """Topic, sentence and the text it adds: a blank, in multilingual documents the separator, the sentence."""
        last = None if self.multilingual else self.parts[0][1].lang
        for topic, s in self.parts:
            yield topic, s, (SEPARATOR if s.lang != last else "") + " " + s.text
            last = s.lang

    def text(self, marks: bool = False) -> str:
        t = "".join(piece for _, _, piece in self.pieces())[1:]
        return t if marks else t.replace(MARK, "")


class World:
    """The lexicon, and the documents that can be made from it."""

    def __init__(self, folder: Path = HERE) -> None:
        self.concepts: list[Concept] = []
        self.families: dict[str, dict[str, Phrases]] = {}
        self._read(folder / "lexicon.txt")
        common = json.loads((folder / "common.json").read_text(encoding="utf-8"))
        self.people: dict[str, list[str]] = common["people"]
        self.when: dict[str, list[str]] = common["when"]
        self.fillers: dict[str, list[str]] = common["fillers"]
        dialogues = json.loads((folder / "dialogues.json").read_text(encoding="utf-8"))
        self.claims: dict[str, list[list[str]]] = dialogues["claims"]  # false, true
        self.questions: dict[str, str] = dialogues["question"]
        self.answers: dict[str, dict[str, list[str]]] = dialogues["answers"]

    def _read(self, path: Path) -> None:
        codes = {"e": "en", "k": "ko", "s": "es"}
        target: dict[str, Phrases] = {}
        family = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            tag, rest = line[0], line[2:].strip()
            if tag == "@":
                family = rest
                target = self.families.setdefault(rest, {})
            elif tag == "=":
                self.concepts.append(Concept(rest, family, len(self.concepts)))
                target = self.concepts[-1].phrases
            else:
                columns = [[p.strip() for p in c.split("/")] for c in rest.split(" # ")]
                nouns = columns[0] if len(columns) == 3 else []
                target[codes[tag]] = Phrases(columns[-2], columns[-1], nouns)

    # ---- sentences ----

    def sentence(self, rng: random.Random, lang: str, concept: Concept | None, held_out: bool = False) -> Sentence:
        """One sentence about a concept, or a filler. `held_out` draws from the held-out phrases alone."""
        if concept and concept.name in self.answers and not held_out and rng.random() < 0.45:
            return self._dialogue(rng, lang, concept.name)
        when = rng.choice(self.when[lang]) if rng.random() < 0.3 else ""
        person = rng.choice(self.people[lang])
        if concept is None:
            body = _fill(rng.choice(self.fillers[lang]), lang, "", person)
            return _finish(body, lang, when, "filler", False)
        noun = rng.choice(concept.phrases[lang].nouns)
        own = rng.random() < 0.8
        source = concept.phrases[lang] if own else self.families[concept.family][lang]
        by_person = rng.random() < 0.6
        choices = source.vp if by_person else source.pr
        phrase = choices[-1] if held_out else rng.choice(choices[:-1])
        if by_person:
            body = person_says(lang, person, _fill(phrase, lang, noun, person))
        else:
            body = noun_does(lang, noun, phrase, rng.choice("은이"))
        s = _finish(body, lang, when, "own" if own else "family", held_out)
        s.open = bool(s.nouns) and not (own and by_person)
        return s

    def _dialogue(self, rng: random.Random, lang: str, concept: str) -> Sentence:
        claim = rng.choice(self.claims[lang])
        answer = rng.choice(self.answers[concept][lang])
        said = claim[1] if concept == "correction" else claim[0]
        text = self.question(lang, claim[0]) + " " + answer.replace("@", said)
        return Sentence(text, lang, "dialogue", False, [])

    def question(self, lang: str, claim: str) -> str:
        """A sure user, and the assistant's turn."""
        said = self.questions[lang].replace("@이라고", claim + particle(claim, "이라고"))
        return said.replace("@", claim)

    # ---- documents ----

    def training(self, seed: int, n: int, multilingual: float = 0.4) -> list[Document]:
        """`n` documents: a share of them speaks of its topic in several languages, a few have no topic or a second one."""
        rng = random.Random(seed)
        return [self._training_document(rng, multilingual) for _ in range(n)]

    def _training_document(self, rng: random.Random, multilingual: float) -> Document:
        lang = rng.choice(LANGS)
        n = rng.randint(3, 7)
        if rng.random() < 0.04:
            return Document([(-1, self.sentence(rng, lang, None)) for _ in range(n)])
        turn = rng.randint(2, n - 1) if n > 3 and rng.random() < 0.10 else n
        lead = rng.randint(1, 3) if rng.random() < 0.4 else 0  # fillers before the topic shows
        concept = rng.choice(self.concepts)
        doc = Document([(-1, self.sentence(rng, lang, None)) for _ in range(lead)], rng.random() < multilingual)
        filler = False
        for i in range(n):
            if i == turn:
                concept = rng.choice(self.concepts)
            if doc.multilingual and i and rng.random() < 0.5:
                lang = rng.choice([other for other in LANGS if other != lang])
            filler = i > 0 and rng.random() < (0.35 if filler else 0.12)  # they come in runs
            doc.parts.append((concept.index, self.sentence(rng, lang, None if filler else concept)))
        return doc

    def evaluation(self, seed: int, n: int, held_out: float = 0.5) -> list[Document]:
        """`n` monolingual documents on one topic each, topics and languages in turn; `held_out` is the share of held-out expressions."""
        rng = random.Random(seed)
        docs = []
        for i in range(n):
            concept = self.concepts[i % len(self.concepts)]
            lang = LANGS[i // len(self.concepts) % len(LANGS)]
            doc = Document()
            for k in range(rng.randint(4, 7)):
                filler = k > 0 and rng.random() < 0.1
                new = k > 0 and rng.random() < held_out
                doc.parts.append((concept.index, self.sentence(rng, lang, None if filler else concept, new)))
            docs.append(doc)
        return docs

    # ---- the grammar as a judge ----

    def sentences(self, lang: str) -> set[str]:
        """Every sentence of a language without its opener, person slots as `P`; any noun may fill a noun's slot."""
        nouns = [n for c in self.concepts for n in c.phrases[lang].nouns]
        everything: Iterable[Phrases] = [c.phrases[lang] for c in self.concepts] + [f[lang] for f in self.families.values()]
        out = set()
        for phrases in everything:
            for vp in phrases.vp:
                for noun in nouns if "{N" in vp else nouns[:1]:
                    out.add(_finish(person_says(lang, "P", _fill(vp, lang, noun, "P")), lang, "", "", False).plain)
            for pr in phrases.pr:
                for noun in nouns:
                    for form in "은이" if lang == "ko" else "은":
                        out.add(_finish(noun_does(lang, noun, pr, form), lang, "", "", False).plain)
        out |= {_finish(_fill(f, lang, "", "P"), lang, "", "", False).plain for f in self.fillers[lang]}
        return out

    def sentences_about(self, concept: Concept, lang: str) -> set[str]:
        """Those of `sentences` that name the concept by a noun or say one of its own phrases."""
        own, family = concept.phrases[lang], self.families[concept.family][lang]
        out = set()
        for noun in own.nouns:
            for vp in own.vp + [f for f in family.vp if "{N" in f]:
                out.add(_finish(person_says(lang, "P", _fill(vp, lang, noun, "P")), lang, "", "", False).plain)
            for pr in own.pr + family.pr:
                for form in "은이" if lang == "ko" else "은":
                    out.add(_finish(noun_does(lang, noun, pr, form), lang, "", "", False).plain)
        return out

    def dialogue_sentences(self, lang: str) -> set[str]:
        """The dialogues, whole and cut at their full stops."""
        out = set()
        for concept, answers in self.answers.items():
            for false, true in self.claims[lang]:
                for answer in answers[lang]:
                    said = answer.replace("@", true if concept == "correction" else false)
                    whole = self.question(lang, false) + " " + said
                    out.update(p.strip() + "." for p in whole.split(".") if p)
        return out

    def core(self, sentence: str, lang: str) -> str:
        """A sentence as `sentences` holds it: without opener, the person as `P`."""
        for when in self.when[lang]:
            head = when + (" " if lang == "ko" else ", ")
            if sentence.startswith(head):
                sentence = sentence[len(head) :]
                break
        for person in self.people[lang]:
            if lang == "ko":
                sentence = sentence.replace(person + particle(person, "은") + " ", "P" + particle("P", "은") + " ")
            else:
                sentence = re.sub(rf"\b{person}\b", "P", sentence)
        return sentence[0].upper() + sentence[1:] if sentence else sentence


def person_says(lang: str, person: str, phrase: str) -> str:
    return person + (MARK + particle(person, "은") if lang == "ko" else "") + " " + phrase


def noun_does(lang: str, noun: str, phrase: str, form: str) -> str:
    if lang == "ko":
        return OPEN + noun + CLOSE + MARK + particle(noun, form) + " " + phrase
    return _bracket(noun) + " " + phrase.replace("@", "a" if re.match(r"las? ", noun) else "o")


def _bracket(noun: str) -> str:
    m = re.match(r"(the|el|la|los|las) (.*)", noun)
    return f"{m[1]} {OPEN}{m[2]}{CLOSE}" if m else OPEN + noun + CLOSE


def _fill(phrase: str, lang: str, noun: str, person: str) -> str:
    def slot(m: re.Match[str]) -> str:
        word = noun if m[1] == "N" else person
        if lang == "ko":
            marked = OPEN + word + CLOSE if m[1] == "N" else word
            return marked + (MARK + particle(word, m[2]) if m[2] else "")
        return _bracket(word) if m[1] == "N" else word

    return _SLOT.sub(slot, phrase)


def _finish(body: str, lang: str, when: str, kind: str, held_out: bool) -> Sentence:
    """Contracts, adds the opener, capitalises, and takes the noun brackets out."""
    if lang == "es":
        body = re.sub(rf"\b(a|de) el (?={OPEN})", lambda m: "al " if m[1] == "a" else "del ", body)
    if when:
        body = when + (" " if lang == "ko" else ", ") + body
    at = 1 if body[0] == OPEN else 0
    body = body[:at] + body[at].upper() + body[at + 1 :] + "."
    out: list[str] = []
    nouns = []
    length = start = 0
    for ch in body:
        if ch == OPEN:
            start = length
        elif ch == CLOSE:
            nouns.append((start, length))
        else:
            out.append(ch)
            length += ch != MARK
    return Sentence("".join(out), lang, kind, held_out, nouns)
