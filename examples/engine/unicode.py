"""Writes unicode.h, the ranges of letters and numbers that byte-level tokenizers split a text by: python unicode.py > unicode.h"""

from __future__ import annotations

import sys
import unicodedata


def ranges(category: str) -> list[tuple[int, int]]:
    """First and last code point of every stretch whose general category begins with this letter."""
    out: list[tuple[int, int]] = []
    for c in range(sys.maxunicode + 1):
        if unicodedata.category(chr(c))[0] == category:
            if out and out[-1][1] == c - 1:
                out[-1] = (out[-1][0], c)
            else:
                out.append((c, c))
    return out


def table(name: str, category: str) -> str:
    body = ", ".join(f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(category))
    return f"static const uint32_t {name}[][2] = {{{body}}};\n"


print(f"/* Written by unicode.py: letters (L) and numbers (N) of Unicode {unicodedata.unidata_version}. */")
print("#ifndef ENGINE_UNICODE_H\n#define ENGINE_UNICODE_H\n\n#include <stdint.h>\n\n/* clang-format off */")
for text in (table("letters", "L"), table("numbers", "N")):
    line = ""
    for word in text.split(" "):
        if len(line) + len(word) > 138:
            print(line)
            line = "    "
        line += (" " if line.strip() else "") + word
    print(line)
print("/* clang-format on */\n#endif")
