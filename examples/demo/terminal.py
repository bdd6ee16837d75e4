"""The demo's main results as a few lines of text."""

from __future__ import annotations

from typing import Any, TextIO

Json = dict[str, Any]
SHOWN_DOSE = 1


class Terminal:
    """Prints, in colour where the stream is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._colour = stream, stream.isatty()

    def _line(self, text: str = "") -> None:
        print(text, file=self._stream)

    def _style(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def _title(self, text: str) -> None:
        self._line("\n" + self._style("1", text))

    def _mark(self, text: str, on: bool) -> str:
        """A token that fires: coloured, or in brackets where there is no colour."""
        if not on:
            return text
        blank = " " if text.startswith(" ") else ""
        return blank + (self._style("30;43", text.strip()) if self._colour else f"[{text.strip()}]")

    def show(self, data: Json) -> None:
        world, concept, steering = data["world"], data["concepts"][0], data["steering"]["concepts"][0]
        self._line(f"libsae: an SAE with {world['features']} features at {world['hook']} of {world['model']}, a Llama")
        self._fires(data, concept)
        self._nearest(data, concept)
        self._steers(data, concept, steering)
        self._found(data)
        self._costs(data)

    def _fires(self, data: Json, concept: Json) -> None:
        self._title(f"Feature {concept['feature']}, {concept['name']}, where it fires")
        for lang, text in concept["about"].items():
            words = "".join(self._mark(t, v > 0) for t, v in zip(text["tokens"], text["values"]))
            self._line(f"  {lang}  {words.strip()}")
        others = [(name, max(at.values())) for name, at in concept["at_nouns"] if name != concept["name"]]
        silent = sum(value == 0 for _, value in others)
        own = max(max(at.values()) for name, at in concept["at_nouns"] if name == concept["name"])
        self._line(f"  at its own nouns up to {own:.1f}; silent at all nouns of {silent} of the {len(others)} other concepts")

    def _nearest(self, data: Json, concept: Json) -> None:
        labels = {f[0]: f[1] for f in data["features"]}
        self._title("Nearest features")
        for n in concept["neighbors"][:4]:
            self._line(f"  {n['cosine']:.2f}  {n['feature']:5d}  {labels[n['feature']]}")

    def _steers(self, data: Json, concept: Json, steering: Json) -> None:
        at = next(a for a in steering["at"] if a["dose"] == SHOWN_DOSE)
        self._title(f"Text without and with the feature clamped to {SHOWN_DOSE} × its largest activation")
        for lang, prompt in data["steering"]["prompts"].items():
            off, on = steering["off"][lang], at["probability"][lang]
            self._line(f"  {lang}  {prompt}")
            self._line(f"      without  {data['steering']['off'][lang]}")
            self._line(f"      with     {self._style('33', at['texts'][lang])}")
            self._line(f"      probability of its nouns next: {off:.2%} -> {on:.2%}")

    def _found(self, data: Json) -> None:
        self._title("Search in the catalog")
        for query, found in data["found"].items():
            best = f"{found[0]['feature']}  {found[0]['label']}" if found else "nothing"
            self._line(f"  {query}: {best}")

    def _costs(self, data: Json) -> None:
        b = data["bench"]
        self._title(f"Time per token, one thread, {data['machine']}")
        names = {"bare": "alone", "watch_8": "watching 8 features", "clamp_4": "steering 4 features"}
        for key, name in names.items():
            self._line(f"  {name:20s} {b[key]['microseconds']:7.0f} µs  {b[key]['overhead']:+.1%}")
