"""What anyone would notice about a prompt: its length, script, code, maths, questions, options, history.

Characters are classed by a table of our own, and never by `str.isalpha` and its kin: what those answer
depends on the Unicode tables of the Python release, and features must be the same numbers in all.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from bandit_router.events import Array, Prompt

SIGNALS_VERSION = 1  # raise it with any change of a number
HEAD, TAIL = 8_000, 4_000  # characters that are looked at word by word

_SPACE, _LINE, _LOWER, _UPPER, _DIGIT, _POINT, _MATHS, _CODE, _ALIEN, _IDEOGRAM = range(10)
_CLASSES = 10


def _classes() -> NDArray[np.uint8]:
    """Return the class of each code point below 0x10000; what is above counts as alien letters."""
    table = np.full(0x10000, _ALIEN, dtype=np.uint8)
    table[:0x21], table[0x0A], table[0x7F:0xA1] = _SPACE, _LINE, _SPACE
    table[0x21:0x7F] = _POINT
    for kind, characters in ((_MATHS, "+-*/=<>^\\$%|"), (_CODE, "{}[]();_#`&@~")):
        table[[ord(c) for c in characters]] = kind
    table[0x30:0x3A], table[0x41:0x5B], table[0x61:0x7B] = _DIGIT, _UPPER, _LOWER
    table[0xA1:0xC0], table[[0xAA, 0xB5, 0xBA]] = _POINT, _ALIEN
    table[0x2000:0x2070], table[0x2000:0x200C], table[0x2028:0x2030] = _POINT, _SPACE, _SPACE
    table[0x2190:0x2300] = _MATHS
    table[0x3000:0x3040], table[0xFF01:0xFF10], table[0x3000] = _POINT, _POINT, _SPACE
    # Scripts without spaces: kana, Han, Thai, Lao, Khmer, Burmese.
    for start, end in ((0x3040, 0x3100), (0x3400, 0xA000), (0xF900, 0xFB00), (0x0E00, 0x0F00)):
        table[start:end] = _IDEOGRAM
    table[0x1000:0x10A0], table[0x1780:0x1800], table[0xD800:0xE000] = _IDEOGRAM, _IDEOGRAM, _POINT
    return table


CLASSES = _classes()
IS_WORD = np.zeros(_CLASSES, dtype=bool)
IS_WORD[[_LOWER, _UPPER, _DIGIT, _ALIEN, _IDEOGRAM]] = True
IDEOGRAM = _IDEOGRAM

_CODE_WORDS = re.compile(
    r"\b(?:def|class|return|import|function|public|static|void|const|let|var|SELECT|FROM|printf|elif"
    r"|null|None|self|lambda|struct|include|int|str|bool|assert)\b"
)
_CODE_MARKS = re.compile(r"```|\n(?: {4}|\t)\S|[=!<>+\-]=|\w\(|;\n|\w\.\w+\(|->|=>|//|#include|</")
_LATEX = re.compile(r"\\[A-Za-z]+|\$[^$\n]{1,80}\$|[A-Za-z0-9)]\s?[=^+*/<>]\s?[-A-Za-z0-9(]")
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")
_OPTIONS = re.compile(r"(?:^|\n|[\s(])(?:[A-J]|[1-9])[.):]\s")
_ORDERS = frozenset(
    "write create make generate give list explain describe summarize summarise translate rewrite find "
    "compute calculate solve prove show implement convert compare classify identify act imagine provide "
    "tell help design suggest please answer complete fix improve let determine evaluate use consider".split()
)
_ASKS = frozenset(
    "what which who whom whose when where why how is are do does did can could would should was were "
    "will has have".split()
)

NAMES = (
    "length", "word_length", "digits", "upper", "points", "alien", "lines", "code", "maths",
    "numbers", "questions", "options", "opening", "history", "parts",
)  # fmt: skip


def window(text: str) -> str:
    """Return the text itself, or the head and tail of a long one."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def _lower_table() -> NDArray[np.uint32]:
    """Return lower case for Latin, Greek, Cyrillic and Armenian, which no Unicode release changes."""
    lower = [chr(c).lower() for c in range(0x590)]
    return np.array([ord(s) if len(s) == 1 else c for c, s in enumerate(lower)], dtype=np.uint32)


LOWER = _lower_table()
_TRANSLATION = dict(enumerate(LOWER.tolist()))


def lowered(text: str) -> str:
    """Return a text in lower case, alike in every Python release."""
    return text.lower() if text.isascii() else text.translate(_TRANSLATION)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the characters of a text as numbers, of shape (len(text),)."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.uint32)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)


def kinds(points: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the class of each character."""
    return CLASSES.take(points, mode="clip")


def signals(prompt: Prompt) -> list[float]:
    """Return the hand-made features of a prompt, each in [-3, 3], named by `NAMES`."""
    text, seen = prompt.text, window(prompt.text)
    classes = kinds(code_points(text))
    counts = np.bincount(classes, minlength=_CLASSES).tolist()
    words = 1 + int(np.count_nonzero(np.diff(IS_WORD.take(classes).view(np.int8)) == 1))
    return [*_shape(text, counts, words), *_content(seen), *_history(prompt)]


def _shape(text: str, counts: list[int], words: int) -> list[float]:
    n = len(text) + 1
    letters = counts[_LOWER] + counts[_UPPER] + counts[_ALIEN]
    return [
        _squash((math.log(n) - 5.5) / 1.2),
        _squash(letters / words - 4.5),
        _squash(4 * math.sqrt(counts[_DIGIT] / n) - 0.5),
        _squash(4 * math.sqrt(counts[_UPPER] / n) - 0.7),
        _squash(4 * math.sqrt((counts[_POINT] + counts[_MATHS] + counts[_CODE]) / n) - 0.8),
        _squash(3 * math.sqrt((counts[_ALIEN] + counts[_IDEOGRAM]) / n)),
        _squash((math.log1p(counts[_LINE]) - 1.0) / 1.2),
    ]


def _content(text: str) -> list[float]:
    n = len(text) + 100
    code = len(_CODE_MARKS.findall(text)) + len(_CODE_WORDS.findall(text))
    return [
        _squash(30 * code / n - 0.3),
        _squash(30 * len(_LATEX.findall(text)) / n - 0.3),
        _squash(30 * len(_NUMBERS.findall(text)) / n - 0.5),
        _squash(math.log1p(text.count("?")) - 0.5),
        _squash(math.log1p(len(_OPTIONS.findall(text))) - 0.7),
        _opening(text),
    ]


def _opening(text: str) -> float:
    """One for an order, minus one for a question, zero for anything else."""
    first = text[:200].split(maxsplit=1)[:1]
    word = first[0].strip(".,:;!?*#\"'").lower() if first else ""
    return float(word in _ORDERS) - float(word in _ASKS)


def _history(prompt: Prompt) -> list[float]:
    rest = math.log1p(prompt.other_chars / 100) + math.log(max(prompt.turns, 1))
    return [_squash(rest / 3), _squash(math.log1p(prompt.images + prompt.tools))]


def _squash(value: float) -> float:
    """Bound a value by 3, leaving small ones nearly as they are."""
    return 3 * math.tanh(value / 3)


def signal_rows(prompts: list[Prompt]) -> Array:
    """Return the signals of many prompts, of shape (n, len(NAMES))."""
    return np.array([signals(prompt) for prompt in prompts]).reshape(len(prompts), len(NAMES))
