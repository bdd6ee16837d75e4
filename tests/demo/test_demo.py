"""The demo, run as `make demo` runs it: what it says, the page that it writes, and how it refuses."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("B", "build")
WORLD = ROOT / os.environ.get("WORLD", "examples/world/files")
LANGS = ["en", "ko", "es"]
pytestmark = pytest.mark.skipif(not WORLD.exists(), reason=f"{WORLD} is not there")
sys.path.insert(0, str(ROOT / "examples" / "demo"))
from collect import Nouns, sentences, split_article  # noqa: E402
from demo import write_page  # noqa: E402
from terminal import Terminal  # noqa: E402
from tools import MAX_PROMPTS, Tools  # noqa: E402

Json = dict[str, Any]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(ROOT / "examples/demo/demo.py"), "--build", str(BUILD), "--world", str(WORLD), *words]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def page_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Json]:
    page = tmp_path_factory.mktemp("demo") / "demo.html"
    done = demo("--json", "--output", str(page))
    assert done.returncode == 0, done.stderr
    return page.read_text(encoding="utf-8"), json.loads(done.stdout)


@pytest.fixture
def data(page_and_data: tuple[str, Json]) -> Json:
    return page_and_data[1]


def test_page_holds_the_data_and_asks_for_nothing(page_and_data: tuple[str, Json]) -> None:
    page, data = page_and_data
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert block and json.loads(block[1]) == data
    outside = page.replace(block[1], "")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//|url\(|@import|\bfetch\(|innerHTML""", outside)
    assert "default-src 'none'" in outside


def test_tokens_add_up_to_the_texts(data: Json) -> None:
    texts = json.loads((ROOT / "examples/demo/texts.json").read_text(encoding="utf-8"))
    for k in LANGS:
        tokens = data["reading"][k]
        assert "".join(t["text"] for t in tokens).strip() == texts["languages"][k]["reading"]
        assert all(t["top"] == sorted(t["top"], key=lambda f: -f[1]) and t["top"] for t in tokens)


def test_one_feature_fires_in_every_language_and_mostly_at_its_own_nouns(data: Json) -> None:
    truth = {c["name"]: c for c in json.loads((WORLD / "truth.json").read_text(encoding="utf-8"))["concepts"]}
    for c in data["concepts"]:
        assert c["feature"] == truth[c["name"]]["feature"]
        assert all(max(c["about"][k]["values"]) > 0 for k in LANGS), c["name"]
        assert all(len(c["about"][k]["values"]) == len(c["about"][k]["tokens"]) for k in LANGS)
        assert c["at_nouns"][0][0] == c["name"] and len(c["at_nouns"]) == len(truth)
        assert len(c["neighbors"]) == 6 and c["examples"] and c["promotes"]


def test_doses_steer(data: Json) -> None:
    steering = data["steering"]
    for c in steering["concepts"]:
        assert [a["dose"] for a in c["at"]] == steering["doses"]
        at = {a["dose"]: a for a in c["at"]}
        for k in LANGS:
            assert all(0 <= a["probability"][k] <= 1 for a in c["at"])
            assert at[-1]["probability"][k] < c["off"][k] < at[1]["probability"][k], (c["name"], k)
            assert at[1]["texts"][k] != steering["off"][k]


def test_catalog_and_cost(data: Json) -> None:
    assert len(data["features"]) == data["world"]["features"]
    assert all(data["found"][q] for q in data["queries"])
    assert all(data["bench"][key]["microseconds"] > 0 for key in ("bare", "watch_8", "clamp_4"))
    ids = {f[0] for f in data["features"]}
    assert all(int(f) in ids for f in data["owners"]) and data["machine"]


def test_same_texts_each_time_and_lines_for_people(data: Json, tmp_path: Path) -> None:
    done = demo("-o", str(tmp_path / "new" / "page.html"))
    assert done.returncode == 0 and not done.stderr
    steering, first = data["steering"], data["concepts"][0]
    at = next(a for a in steering["concepts"][0]["at"] if a["dose"] == 1)
    for k in LANGS:
        assert steering["off"][k] in done.stdout and at["texts"][k] in done.stdout
    assert f"Feature {first['feature']}, {first['name']}" in done.stdout
    assert "\033" not in done.stdout and str(tmp_path / "new" / "page.html") in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, ""),
        (["--wrong"], 2, "--wrong"),
        (["--world", "/nonexistent"], 1, "/nonexistent"),
        (["--build", "/nonexistent", "-o", os.devnull], 1, "make demo"),
        (["-o", "/proc/none/demo.html"], 1, "/proc/none"),
    ],
)
def test_command_line(words: list[str], status: int, said: str) -> None:
    done = demo(*words)
    assert done.returncode == status and said in done.stderr
    assert status != 1 or (done.stderr.startswith("demo: ") and done.stderr.count("\n") == 1 and not done.stdout)


@pytest.mark.parametrize(("name", "content"), [("truth.json", b"{"), ("features.catalog", b"no catalog"), ("world.bin", b"\0" * 64)])
def test_damaged_world_is_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    shutil.copytree(WORLD, tmp_path / "world")
    (tmp_path / "world" / name).write_bytes(content)
    done = demo("--world", str(tmp_path / "world"), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 1 and name in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_world_without_a_concept_is_named(tmp_path: Path) -> None:
    shutil.copytree(WORLD, tmp_path / "world")
    truth = json.loads((WORLD / "truth.json").read_text(encoding="utf-8"))
    truth["concepts"] = [c for c in truth["concepts"] if c["name"] != "rain"]
    (tmp_path / "world" / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    done = demo("--world", str(tmp_path / "world"), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 1 and "no concept rain" in done.stderr


def test_colour_on_a_terminal_alone(data: Json) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    Terminal(screen).show(data)
    assert "\033[1m" in screen.getvalue() and "\033[30;43m" in screen.getvalue()


def test_no_text_of_the_data_ends_its_block(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", {"text": "</script><!--"})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<!--" not in page


class FewTokens(Tools):
    """Answers for letters as tokens, each as probable as any other of four; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: tuple[str, ...] = ()

    def engine(self, command: str, *_: str, prompts: tuple[str, ...] = (), **__: bool) -> Any:
        return {"tokens": [[ord(c) for c in p.replace(" ", "")] for p in prompts]}

    def logprobs(self, *_: str, prompts: tuple[str, ...]) -> list[Any]:
        self.asked = prompts
        return [{"logprobs": [None] + [math.log(0.25)] * (len(p.replace(" ", "")) - 1)} for p in prompts]


def test_probability_of_nouns() -> None:
    """Within an article the nouns add up, one that goes on from another is not counted twice, and articles are averaged."""
    texts = {"languages": {k: {"neutral": "N.", "articles": a} for k, a in (("en", ["the"]), ("ko", []), ("es", ["el", "la"]))}}
    tools = FewTokens()
    nouns = Nouns(tools, texts, {"nouns": {"en": ["the a", "the b"], "ko": ["a", "ab", "c"], "es": ["el a", "la bc"]}})
    p = nouns.probability(())
    assert tools.asked == ("N. The a", "N. The b", "N. a", "N. c", "N. El a", "N. La bc")
    assert p == {"en": 0.5, "ko": 0.5, "es": float(f"{(0.25 + 0.25**2) / 2:.3g}")}


def test_small_parts() -> None:
    assert split_article("the password", ["the"]) == ("the", "password")
    assert split_article("무한 루프", []) == ("", "무한 루프")
    assert sentences(" One. Two. Thr") == "One. Two." and sentences(" Thr") == "Thr …"


def test_any_number_of_prompts() -> None:
    said = Tools(BUILD, WORLD).logprobs(prompts=tuple("a" * (1 + i % 3) for i in range(MAX_PROMPTS + 1)))
    assert len(said) == MAX_PROMPTS + 1 and said[0] == said[3] == said[-2] and said[-1] == said[1]
