"""What anyone would notice about a prompt: its length, script, code, maths, questions, options, history.

Characters are classed by a table of our own, and never by `str.isalpha` and its kin: what those answer
depends on the Unicode tables of the Python release, and features must be the same numbers in all.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from bandit_router.prompt import Prompt

SIGNALS_VERSION = 1  # of signals, character classes and words; raise it with any change of a number
HEAD, TAIL = 8_000, 4_000  # characters that are looked at word by word

_SPACE, _LINE, _LOWER, _UPPER, _DIGIT, _POINT, _MATHS, _CODE, _ALIEN, _IDEOGRAM = range(10)
_CLASSES = 10


def _classes() -> NDArray[np.uint8]:
    """Return the class of each code point up to 0x10000; the last row stands for all above."""
    table = np.full(0x10001, _ALIEN, dtype=np.uint8)
    table[:0x21], table[0x0A], table[0x7F:0xA1] = _SPACE, _LINE, _SPACE
    table[0x21:0x7F] = _POINT
    for kind, characters in ((_MATHS, "+-*/=<>^\\$%|"), (_CODE, "{}[];_#`&@~")):
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
    table[0xFFF0:0x10000] = _POINT
    return table


CLASSES = _classes()
_ASCII_CLASSES = CLASSES[:256].tobytes()
IS_WORD = bytes(c in (_LOWER, _UPPER, _DIGIT, _ALIEN, _IDEOGRAM) for c in range(256))
_IS_DIGIT = bytes(c == _DIGIT for c in range(256))
IDEOGRAM = _IDEOGRAM


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_OPTION = re.compile(r"[A-J1-9](?<![A-Za-z0-9].)[.):]\s")  # the rare part first: three times as fast
_CODE_WORDS = _set(
    "def class return import from function public static void const let var int SELECT FROM elif null "
    "None struct #include assert print lambda = == != += -> => && || // { } }; ();"
)
_ORDERS = _set(
    "write create make generate give list explain describe summarize summarise translate rewrite find "
    "compute calculate solve prove show implement convert compare classify identify act imagine provide "
    "tell help design suggest please answer complete fix improve let determine evaluate use consider"
)
_ASKS = _set(
    "what which who whom whose when where why how is are do does did can could would should was were "
    "will has have"
)

NAMES = (
    *("length", "word_length", "digits", "capitals", "points", "alien", "lines", "numbers", "maths"),
    *("code", "questions", "options", "opening", "history", "parts"),
)


def window(text: str) -> str:
    """Return the text itself, or the head and tail of a long one."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"


def _lower_table() -> NDArray[np.uint32]:
    """Return lower case for Latin, Greek, Cyrillic and Armenian, which no Unicode release changes."""
    lower = [chr(c).lower() for c in range(0x590)]
    return np.array([ord(s) if len(s) == 1 else c for c, s in enumerate(lower)], dtype=np.uint32)


LOWER = _lower_table()
_LOWERING = dict(enumerate(LOWER.tolist()))


def lowered(text: str) -> str:
    """Return a text in lower case, alike in every Python release."""
    return text.lower() if text.isascii() else text.translate(_LOWERING)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the characters of a text as numbers, of shape (len(text),)."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.uint32)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)


def kinds(text: str) -> NDArray[np.uint8]:
    """Return the class of each character, of shape (len(text),)."""
    if text.isascii():  # the same table, by a step that no other thread can delay
        return np.frombuffer(text.encode("ascii").translate(_ASCII_CLASSES), dtype=np.uint8)
    return CLASSES.take(code_points(text), mode="clip")


def marked(table: bytes, classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which characters are of the classes that a table of 256 marks; as `take`, in one step."""
    return np.frombuffer(classes.tobytes().translate(table), dtype=np.bool_)


def signals(prompt: Prompt) -> list[float]:
    """Return the hand-made features of a prompt, each in [-1.5, 1.5], named by `NAMES`."""
    classes = kinds(prompt.text)
    shares = np.bincount(classes, minlength=_CLASSES) / (len(classes) + 1)
    words, numbers = 1 + _runs(IS_WORD, classes), _runs(_IS_DIGIT, classes)
    return [
        *_shape(len(classes), shares.tolist(), words, numbers),
        *_content(prompt.text, window(prompt.text), float(shares[_CODE])),
        *_history(prompt),
    ]


def _runs(table: bytes, classes: NDArray[np.uint8]) -> int:
    """Return how many runs of the classes that a table marks there are."""
    inside = marked(table, classes)
    return int(np.count_nonzero(inside[1:] > inside[:-1])) + bool(inside[:1].any())


def _shape(n: int, share: list[float], words: int, numbers: int) -> list[float]:
    letters = share[_LOWER] + share[_UPPER] + share[_ALIEN]
    return [
        _squash((math.log1p(n) - 5.5) / 1.2),
        _squash(letters * (n + 1) / words - 4.5),
        _squash(4 * math.sqrt(share[_DIGIT]) - 0.5),
        _squash(4 * math.sqrt(share[_UPPER]) - 0.7),
        _squash(4 * math.sqrt(share[_POINT] + share[_MATHS] + share[_CODE]) - 0.8),
        _squash(3 * math.sqrt(share[_ALIEN] + share[_IDEOGRAM])),
        _squash((math.log1p(share[_LINE] * (n + 1)) - 1.0) / 1.2),
        _squash(4 * math.sqrt(numbers / words) - 0.8),
        _squash(8 * math.sqrt(share[_MATHS]) - 0.5),
    ]


def _content(text: str, seen: str, brackets: float) -> list[float]:
    code = len(_CODE_WORDS.intersection(seen.split())) + seen.count("\n    ") + seen.count("```")
    return [
        _squash(math.log1p(code) + 4 * math.sqrt(brackets) - 0.5),
        _squash(math.log1p(text.count("?")) - 0.5),
        _squash(math.log1p(len(_OPTION.findall(seen))) - 0.7),
        _opening(seen),
    ]


def _opening(text: str) -> float:
    """A half for an order, minus a half for a question, zero for anything else."""
    first = text[:200].split(maxsplit=1)[:1]
    word = first[0].strip(".,:;!?*#\"'").lower() if first else ""
    return (float(word in _ORDERS) - float(word in _ASKS)) / 2


def _history(prompt: Prompt) -> list[float]:
    rest = math.log1p(max(prompt.other_chars, 0) / 100) + math.log(max(prompt.turns, 1))
    return [_squash(rest / 3), _squash(math.log1p(max(prompt.images + prompt.tools, 0)))]


def _squash(value: float) -> float:
    """Halve a value and bound it by 1.5.

    Halved, because a prior precision of 30 to 100 then came near the best on four routing tables.
    """
    return 1.5 * math.tanh(value / 3)
