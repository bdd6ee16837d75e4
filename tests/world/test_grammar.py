"""What the card says of the texts."""

from __future__ import annotations

import re

import pytest
from grammar import LANGS, SEPARATOR, Document, Sentence, World
from measure import Judge, split_sentences

WORD = re.compile(r"\w+")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def words(world: World, lang: str) -> set[str]:
    """Every word form of a language."""
    texts = world.people[lang] + world.when[lang] + world.fillers[lang]
    for p in [c.phrases[lang] for c in world.concepts] + [f[lang] for f in world.families.values()]:
        texts += p.nouns + p.vp + p.pr
    return {w.lower() for t in texts for w in WORD.findall(re.sub(r"{[^}]*}", "", t))}


def test_concepts(world: World) -> None:
    assert len(world.concepts) == 50
    assert len({c.family for c in world.concepts}) == 10
    for c in world.concepts:
        for lang in LANGS:
            p = c.phrases[lang]
            assert (len(p.nouns), len(p.vp), len(p.pr)) == (2, 6, 4), (c.name, lang)


def test_no_word_in_two_languages(world: World) -> None:
    shared = words(world, "en") & words(world, "es")
    assert shared <= {"a", "no"}
    assert not words(world, "ko") & (words(world, "en") | words(world, "es"))


def test_nouns_name_one_concept(world: World) -> None:
    for lang in LANGS:
        nouns = [n for c in world.concepts for n in c.nouns(lang)]
        assert len(nouns) == len(set(nouns)), lang


def sentences(docs: list[Document]) -> list[Sentence]:
    return [s for d in docs for _, s in d.parts]


def test_held_out_phrases_are_in_no_training_document(world: World) -> None:
    trained = sentences(world.training(1, 1000))
    assert not any(s.held_out for s in trained)
    said = {world.core(s.plain, s.lang) for s in trained}
    new = {world.core(s.plain, s.lang) for s in sentences(world.evaluation(5, 300)) if s.held_out}
    assert len(new) > 100
    assert not said & new


def test_languages_change_at_the_separator_alone(world: World) -> None:
    docs = world.training(2, 500)
    assert 0.3 < sum(d.multilingual for d in docs) / len(docs) < 0.5
    for d in docs:
        assert d.multilingual == d.text().startswith(SEPARATOR.strip())
        assert d.multilingual or len({s.lang for _, s in d.parts}) == 1
    assert all(len({s.lang for _, s in d.parts}) == 1 for d in world.evaluation(5, 300))


def test_the_judge_knows_every_sentence_and_no_other(world: World) -> None:
    judge = Judge(world)
    for d in world.evaluation(6, 300):
        for topic, s in d.parts:
            for part in split_sentences(s.plain):
                assert judge.is_grammatical(part, s.lang), part
            if s.kind in ("own", "family"):
                assert judge.is_about(s.plain, s.lang, topic), s.plain
                sibling = topic - topic % 5 + (topic + 1) % 5
                assert not judge.is_about(s.plain, s.lang, sibling), s.plain
    assert not judge.is_grammatical("The bridge bridge joins the banks.", "en")
    assert not judge.is_grammatical("The bridge joins the two banks.", "es")


def test_korean_particles_follow_the_last_sound(world: World) -> None:
    wrong = re.compile(r"(?:대교)(?:을|이|은|과|으로)\b|(?:소나기)(?:을|은|과|으로)\b")
    text = " ".join(s.plain for s in sentences(world.evaluation(7, 450)) if s.lang == "ko")
    assert "대교" in text
    assert not wrong.search(text)


def test_a_seed_names_a_corpus(world: World) -> None:
    one, two = ([d.text() for d in world.training(3, 50)] for _ in range(2))
    assert one == two
    assert one != [d.text() for d in world.training(4, 50)]
