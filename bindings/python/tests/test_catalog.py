"""Catalogs: everything goes in and comes back, search, pages, transactions, refusals, files that SQLite made."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
from oracle import Oracle

import libsae
from libsae import Catalog, Example, Feature, Token

WHOLE = Feature(
    3,
    "다리를 건너는 사람",
    density=0.25,
    mean=1.5,
    max=7.0,
    promoted=(Token(" bridge", 2.5), Token("▁다리", 1.25)),
    suppressed=(Token("car", -3.0),),
    examples=(Example((Token("the", 0.0), Token(" bridge", 7.0)), 1, 12, 40), Example((Token("x", 0.5),))),
    model_id="gemma",
    layer="12-res",
)


@pytest.fixture
def sae() -> libsae.Sae:
    return Oracle("standard").open()


def test_everything_comes_back(tmp_path: Path, sae: libsae.Sae) -> None:
    path = tmp_path / "a.features"
    with Catalog.create(path, sae) as c:
        c.put(WHOLE)
        c.put(Feature(5))
        assert c.about.fingerprint == sae.fingerprint
        assert c.about.d_sae == sae.info["d_sae"]
    with Catalog(path, sae=sae) as c:
        assert c[3] == WHOLE
        assert c[5] == Feature(5)
        assert [f.id for f in c.get([5, 4, 3])] == [5, 3]
        assert len(c) == 2
        assert 3 in c
        assert 4 not in c
        with pytest.raises(KeyError):
            c[4]
        found = c.search("다리")
        assert [f.id for f in found] == [3]
        assert found[0].label == WHOLE.label
        assert found[0].score > 0
        assert found[0].examples == ()
        assert c.search("bridges") == []
        assert [f.id for f in c] == [3, 5]
        with pytest.raises(libsae.ArgError, match="open for reading"):
            c.put(WHOLE)
    with pytest.raises(ValueError, match="this Catalog is closed"):
        len(c)
    assert os.listdir(tmp_path) == ["a.features"]


def test_pages(tmp_path: Path, sae: libsae.Sae) -> None:
    with Catalog.create(tmp_path / "a", sae) as c:
        with c.transaction():
            for i in range(20):
                c.put(Feature(i, density=i % 3 / 4, max=None if i == 7 else -float(i)))
        for by in ("density", "max", "id"):
            for descending in (False, True):
                seen: list[Feature] = []
                while page := c.page(by, descending=descending, limit=4, after=seen[-1] if seen else None):
                    seen += page
                want = sorted((f for f in c if getattr(f, by) is not None), key=lambda f: (getattr(f, by), f.id), reverse=descending)
                assert seen == want
        with pytest.raises(libsae.ArgError, match="by = 'label'"):
            c.page("label")


def test_transactions(tmp_path: Path, sae: libsae.Sae) -> None:
    path = tmp_path / "a"
    with Catalog.create(path, sae) as c, Catalog(path, write=True, wait=0.05) as other:
        with pytest.raises(ZeroDivisionError), c.transaction():
            c.put(Feature(1))
            raise ZeroDivisionError
        assert len(c) == 0
        with c.transaction():
            c.put(Feature(1))
            with pytest.raises(libsae.BusyError, match="in use by another program, which did not finish within 50 ms"):
                other.put(Feature(2))
        other.put(Feature(2))
        assert len(c) == 2


def test_refusals(tmp_path: Path, sae: libsae.Sae) -> None:
    path = tmp_path / "a"
    with pytest.raises(libsae.NotFoundError):
        Catalog(path)
    with Catalog.create(path, sae) as c:
        for wrong in (Feature(-1), Feature(10**6), Feature(1, max=float("inf")), Feature(1, "\ud800"), Feature(1, "a\0")):
            with pytest.raises(libsae.ArgError):
                c.put(wrong)
        with pytest.raises(libsae.ArgError, match="not finite"):
            c.put(Feature(1, promoted=[("x", float("nan"))]))
        with pytest.raises(libsae.ArgError, match="limit = 0"):
            c.search("x", 0)
    with pytest.raises(libsae.IoError, match="exists already"):
        Catalog.create(path, sae)
    other = Oracle("jumprelu").open()
    with pytest.raises(libsae.ShapeError, match=f"{sae.fingerprint}.*{other.fingerprint}"):
        Catalog(path, sae=other)
    Catalog(path, sae=other, force=True).close()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE VIEW v AS SELECT 1", "holds 'v'"),
        ("CREATE TRIGGER t AFTER INSERT ON feature BEGIN DELETE FROM feature; END", "holds 't'"),
        ("CREATE TABLE other(x)", "holds 'other'"),
        ("CREATE VIEW words_v AS SELECT 1", "holds 'words_v'"),
        ("DROP INDEX feature_max", "lacks 'feature_max'"),
        ("DROP TABLE words", "lacks 'words'"),
        ("DELETE FROM about WHERE key = 'hook_name'", "does not say which SAE"),
        ("UPDATE about SET value = 'x' WHERE key = 'd_sae'", "does not say which SAE"),
        ("UPDATE about SET value = 0 WHERE key = 'd_in'", "does not say which SAE"),
        ("UPDATE about SET value = x'00' WHERE key = 'fingerprint'", "does not say which SAE"),
        ("UPDATE about SET value = x'ff' WHERE key = 'model_name'", "does not say which SAE"),
    ],
)
def test_files_that_sqlite_made(tmp_path: Path, sae: libsae.Sae, sql: str, why: str) -> None:
    path = tmp_path / "a"
    with Catalog.create(path, sae) as c:
        c.put(WHOLE)
    with sqlite3.connect(path) as db:
        db.execute(sql)
    db.close()
    with pytest.raises(libsae.FormatError, match=why):
        Catalog(path)


def test_bodies_of_strangers(tmp_path: Path, sae: libsae.Sae) -> None:
    path = tmp_path / "a"
    with Catalog.create(path, sae) as c:
        c.put(WHOLE)
    db = sqlite3.connect(path)
    (body,) = db.execute("SELECT body FROM feature").fetchone()
    huge = b"\xff\xff\xff\x7f"
    wrong = [
        b"",
        body[:-1],
        body + b"\0",
        huge + body[4:],
        body[:8] + huge + body[12:],
        b"\xff" * 16,
        body.replace(b"\x02\0\0\0\x01\0\0\0\x0c", b"\x02\0\0\0\x02\0\0\0\x0c"),  # the peak beyond the tokens
        body[:12] + b"\0\0\xc0\x7f" + body[16:],
    ]
    for bad in wrong:
        with db:
            db.execute("UPDATE feature SET body = ?", (bad,))
        with Catalog(path) as c, pytest.raises(libsae.FormatError, match="tokens and examples of feature 3 are damaged"):
            c[3]
    with db:
        db.execute("UPDATE feature SET label = CAST(x'ff' AS TEXT)")
    with Catalog(path) as c, pytest.raises(libsae.FormatError, match="a text of feature 3 is not UTF-8"):
        c.page()
    db.close()


def test_threads_share_a_catalog(tmp_path: Path, sae: libsae.Sae) -> None:
    with Catalog.create(tmp_path / "a", sae) as c:
        with c.transaction():
            for i in range(50):
                c.put(Feature(i, f"feature number{i}"))
        wrong: list[BaseException] = []

        def work(k: int) -> None:
            try:
                for i in range(20):
                    assert c[(i + k) % 50].label == f"feature number{(i + k) % 50}"
                    assert c.search(f"number{k}")[0].id == k
                    c.put(Feature(50 + k, f"thread{k}"))
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert wrong == []
        assert len(c) == 54
