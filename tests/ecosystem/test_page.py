"""The demo's page in a real browser: no error, no request, keyboard, phone, dark, and data that tries to be markup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_browser

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("B", "build")
WORLD = ROOT / os.environ.get("WORLD", "examples/world/files")
PROGRAM = find_browser()
pytestmark = [
    pytest.mark.skipif(not WORLD.exists(), reason=f"{WORLD} is not there"),
    pytest.mark.skipif(PROGRAM is None, reason="neither chromium nor google-chrome is there"),
]
SLOT = "/*DATA*/"
TEXT_OF = "document.getElementById('%s').innerText"


@pytest.fixture(scope="module")
def page() -> Path:
    command = [sys.executable, str(ROOT / "examples/demo/demo.py"), "--build", str(BUILD), "--world", str(WORLD)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "demo.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser, page: Path) -> Iterator[Browser]:
    """The page as it opens on a desk; whatever a test does with it, it must make no error and no request."""
    chromium.resize(1280, 900)
    chromium.scheme("light")
    chromium.open(page)
    yield chromium
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith("data:")] == [page.as_uri()]


def text(browser: Browser, name: str) -> str:
    return str(browser.value(TEXT_OF % name))


def focus(browser: Browser, name: str) -> None:
    browser.value(f"document.getElementById('{name}').focus()")


def test_everything_is_filled(browser: Browser) -> None:
    hollow = "(e) => !e.value && !e.innerText?.trim() && !e.children.length"
    empty = browser.value(f"[...document.querySelectorAll('main [id], #lead')].filter({hollow}).map((e) => e.id)")
    assert empty == []
    assert "undefined" not in browser.value("document.body.innerText") and "NaN" not in browser.value("document.body.innerText")


def test_slider_by_keyboard(browser: Browser) -> None:
    focus(browser, "dose")
    assert text(browser, "dose-now") == "1×"
    seen = {text(browser, "pairs")}
    odds = {text(browser, "odds")}
    for key, dose in (("ArrowRight", "1.5×"), ("End", "10×"), ("Home", "−10×")):
        browser.press(key)
        assert text(browser, "dose-now") == dose
        seen.add(text(browser, "pairs"))
        odds.add(text(browser, "odds"))
    assert len(seen) == 4 and len(odds) == 4
    assert browser.value("document.getElementById('pairs').getAttribute('aria-live')") == "polite"
    assert browser.value("document.getElementById('dose').getAttribute('aria-valuetext')") == "-10 times the largest activation"


def test_words_of_the_concept_are_marked(browser: Browser) -> None:
    marks = browser.value("[...document.querySelectorAll('.with mark')].map((m) => m.textContent.toLowerCase())")
    nouns = browser.value("D.concepts[0].nouns")
    assert all(any(m in nouns[k] for m in marks) for k in nouns)


def test_concept_by_keyboard_changes_every_part(browser: Browser) -> None:
    parts = ("pairs", "odds", "one-label", "about", "nouns", "examples", "near")
    before = {part: text(browser, part) for part in parts}
    focus(browser, "concept-one")
    browser.press("ArrowDown")
    assert browser.value("document.getElementById('concept').selectedIndex") == 1
    assert [part for part in parts if text(browser, part) == before[part]] == []


def test_arrows_move_along_the_tokens(browser: Browser) -> None:
    browser.value("document.querySelector('#reading button').focus()")
    said = [text(browser, "chosen")]
    for _ in range(2):
        browser.press("ArrowRight")
        said.append(text(browser, "chosen"))
    assert len(set(said)) == 3 and text(browser, "chosen-top")
    browser.press("ArrowLeft")
    assert text(browser, "chosen") == said[1]
    assert browser.value("document.querySelectorAll('#reading button[tabindex=\"0\"]').length") == 3


def test_tab_reaches_every_input_and_shows_where_it_is(browser: Browser) -> None:
    browser.value("document.body.focus()")
    reached = []
    for _ in range(14):
        browser.press("Tab")
        reached.append(browser.value("document.activeElement.id || document.activeElement.className || document.activeElement.textContent"))
        assert browser.value(
            "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle === 'solid'"
        ), reached
    assert {"concept", "dose", "token", "concept-one", "query"} <= set(reached)


def test_search(browser: Browser) -> None:
    counts = [text(browser, "count")]
    for query in ("lluvia", "다리", "zzzz"):
        browser.value("document.getElementById('query').focus(); document.getElementById('query').select()")
        browser.type(query)
        counts.append(text(browser, "count"))
        hits = browser.value("[...document.querySelectorAll('#hits td:first-child')].map((e) => e.textContent)")
        assert all(query in h for h in hits) and bool(hits) == (query != "zzzz")
    browser.value("document.querySelectorAll('#presets button')[2].click()")
    assert text(browser, "count") == counts[1]


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_horizontal_scrolling(browser: Browser, width: int) -> None:
    browser.resize(width, 800)
    wide = "(e) => e.getBoundingClientRect().right > innerWidth + 0.5"
    for concept in range(browser.value("D.concepts.length")):
        browser.value(f"Object.assign($('concept'), {{ selectedIndex: {concept} }}).dispatchEvent(new Event('change'))")
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(f"[...document.querySelectorAll('body *')].filter({wide}).map((e) => e.outerHTML.slice(0, 90))") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(browser: Browser, scheme: str) -> None:
    """WCAG's 4.5 between each colour of text and the card it stands on."""
    browser.scheme(scheme)
    ratios = browser.value("""(() => {
        const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => linear(v / 255))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const card = light(getComputedStyle(document.querySelector('section')).backgroundColor);
        return ['section p', '.soft', '.tag.en', '.tag.ko', '.tag.es', 'output', 'th', 'label'].map((q) => {
            const ink = light(getComputedStyle(document.querySelector(q)).color);
            return [q, (Math.max(ink, card) + 0.05) / (Math.min(ink, card) + 0.05)];
        });
    })()""")
    assert [r for r in ratios if r[1] < 4.5] == []
    assert browser.value("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 24, 29)" if scheme == "dark" else "rgb(250, 249, 246)"
    )


def test_data_is_never_markup(chromium: Browser, browser: Browser, page: Path, tmp_path: Path) -> None:
    """Every string of the data is followed by what would run, were it read as markup."""
    hostile = "</script><img src=x onerror=alert(1)><b>"

    def spoil(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {k: spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(v, key) for v in value]
        return value + hostile if isinstance(value, str) and key != "name" else value

    data = browser.value("D")
    template = (ROOT / "examples/demo/page.html").read_text(encoding="utf-8")
    spoilt = tmp_path / "spoilt.html"
    sys.path.insert(0, str(ROOT / "examples" / "demo"))
    from demo import write_page

    assert SLOT in template
    write_page(spoilt, json.loads(json.dumps(spoil(data))))
    chromium.open(spoilt)
    assert chromium.errors == [] and chromium.requests[0] == spoilt.as_uri()
    assert chromium.value("document.querySelectorAll('img, b').length") == 0
    assert "onerror" in chromium.value("document.body.innerText")
    chromium.open(page)


def test_keep_screenshots(browser: Browser) -> None:
    """The first screen, which docs/images/demo.png is a copy of, and the whole page on a phone."""
    browser.resize(1100, 1250)
    browser.screenshot(BUILD / "demo.png", whole=False)
    browser.resize(360, 780, 2)
    browser.screenshot(BUILD / "demo-phone.png")
    assert (BUILD / "demo.png").stat().st_size > 50_000
