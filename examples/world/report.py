"""Progress on a terminal, one line at each tenth elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """A running mean of what `step` is told, on stderr."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.done = 0
        self.means: dict[str, float] = {}
        self.began = time.monotonic()
        self.live = sys.stderr.isatty()

    def step(self, **values: float) -> None:
        for name, v in values.items():
            self.means[name] = v if name not in self.means else 0.97 * self.means[name] + 0.03 * v
        self.done += 1
        tenth = max(1, self.total // 10)
        if self.live or self.done % tenth == 0:
            self._show("\r" if self.live else "\n")

    def end(self) -> None:
        if self.live:
            print(file=sys.stderr)

    def _show(self, end: str) -> None:
        means = " ".join(f"{k} {v:.3f}" for k, v in self.means.items())
        seconds = time.monotonic() - self.began
        print(f"{self.what} {self.done}/{self.total} {means} {seconds:.0f} s", end=end, file=sys.stderr, flush=True)
