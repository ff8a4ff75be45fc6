"""Features of a prompt: beside scikit-learn's hashing of the same n-grams, and by length."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

from bandit_router.features import HashedFeatures
from bandit_router.prompt import Prompt
from simulations.benches.rows import Bar, Effort, Row, interleaved, median_us

WORDS = "how do I sort a list of numbers that another program has written into a file of its own "
CHARACTERS, LONG = 500, 1_000_000
_MISSING = "absent: scikit-learn is not installed"


def features(effort: Effort) -> Iterator[Row]:
    """The default features of 500 characters and of a megabyte."""
    extract, prompt = HashedFeatures().extract, Prompt(text=text_of(CHARACTERS))
    contestants = {"ours": lambda: median_us(lambda: extract(prompt), effort.calls)}
    hashing = _hashing(prompt.text)
    if hashing is not None:
        contestants["sklearn"] = lambda: median_us(hashing, effort.calls)
    found = interleaved(contestants, effort.rounds)
    yield Row(
        bench="features",
        what=f"features of {CHARACTERS} characters",
        unit="us",
        ours=found["ours"],
        against="scikit-learn HashingVectorizer, words, pairs and fours",
        theirs=found.get("sklearn"),
        bar=Bar(limit=0.5),
        note=_MISSING if hashing is None else "pure numpy; there is no numba extra",
    )
    yield _by_length(effort, extract)


def text_of(characters: int) -> str:
    """Return a prompt of so many characters."""
    return (WORDS * (characters // len(WORDS) + 1))[:characters]


def _by_length(effort: Effort, extract: Callable[[Prompt], object]) -> Row:
    """The time of a character at full length, beside that at a tenth of it: 1 is linear."""
    sizes = {size: Prompt(text=text_of(size)) for size in (LONG // 10, LONG)}

    def one(size: int) -> Callable[[], float]:
        return lambda: median_us(lambda: extract(sizes[size]), 3) / size * 1000

    found = interleaved({str(size): one(size) for size in sizes}, effort.rounds)
    return Row(
        bench="features",
        what="features of 1 MB, for 1,000 characters",
        unit="us",
        ours=found[str(LONG)],
        against="the same at 100 kB: linear is 1x",
        theirs=found[str(LONG // 10)],
        bar=Bar(limit=1.5),
    )


def _hashing(text: str) -> Callable[[], object] | None:
    """Return scikit-learn's hashing of the same kinds of n-grams into as many buckets."""
    try:
        theirs = importlib.import_module("sklearn.feature_extraction.text").HashingVectorizer
    except ImportError:
        return None
    buckets = HashedFeatures().buckets
    words = theirs(n_features=buckets, ngram_range=(1, 2))
    fours = theirs(n_features=buckets, analyzer="char", ngram_range=(4, 4))
    return lambda: (words.transform([text]), fours.transform([text]))
