"""What every `FeatureExtractor` keeps to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bandit_router.checks.check import Check, checks_of, demand, demand_error
from bandit_router.embeddings import artefact_of, extractor_from_spec
from bandit_router.errors import BanditRouterError
from bandit_router.features import FeatureExtractor
from bandit_router.prompt import Prompt
from bandit_router.values import Array

_BOUND = 1e6  # beyond it, an observation is refused

Make = Callable[[], FeatureExtractor]

_TEXTS = (
    "Explain quantum computing",
    "",
    " ",
    "\n\t \r\n",
    "?",
    "x" * 1_000_000,
    "wörd " * 3_000 + "\n```python\nprint(1)\n```",
    "".join(map(chr, range(256))),
    "\x00\x01\x02\x7f",
    "\N{ROCKET}\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-6}\N{ZERO WIDTH JOINER}",
    "Ελληνικά, Русский, العربية, עברית, 中文, 日本語, हिन्दी, ไทย",
    "e\N{COMBINING ACUTE ACCENT}" * 100,
    "\ud800 alone, \udfff too, \udc00\ud800",
    "\N{BYTE ORDER MARK}\N{RIGHT-TO-LEFT OVERRIDE}abc",
)


def features_checks(make_features: Make, *, texts: bool = True) -> Iterator[Check]:
    """Yield the checks that a feature extractor must pass.

    Parameters
    ----------
    make_features : callable
        Returns the extractor; the same one at every call.
    texts : bool
        Whether it reads texts, or takes ready vectors only.
    """
    return checks_of(_OF_ALL + (_OF_TEXTS if texts else ()), make_features)


def _prompts() -> list[Prompt]:
    """Odd texts as the door lets them in and as they are, and odd histories."""
    odd = [Prompt.of(text) for text in _TEXTS] + [Prompt(text=text) for text in _TEXTS]
    long = Prompt(
        text="Hi", turns=10**6, other_chars=10**12, system_chars=10**12, images=10**6, tools=10**6
    )
    return [*odd, Prompt(text="Hi", turns=2, other_chars=9, system_chars=9, images=1, tools=1), long]


def _demand_features(x: Array, dim: int, what: str) -> None:
    demand(x.dtype == np.float64, f"expected float64 for {what}, got {x.dtype}")
    demand(x.shape == (dim,), f"expected shape ({dim},) for {what}, got {x.shape}")
    demand(bool(np.isfinite(x).all()), "expected finite features for {}, got {}", what, x)
    demand(x[0] == 1.0, f"expected a constant 1 in front for {what}, got {x[0]}")
    demand(float(np.abs(x).max()) <= _BOUND, "expected features within 1e6 for {}, got {}", what, x)
    demand(not x.flags.writeable, f"expected features of {what} that cannot be written to")


def _accepted(features: FeatureExtractor) -> Array:
    """A ready vector that the extractor takes: x itself, or x without the constant."""
    for length in (features.dim, features.dim - 1):
        try:
            features.ready(np.ones(length))
        except ValueError:
            continue
        return np.ones(length)
    raise AssertionError(f"expected a ready vector of {features.dim} or one less to be taken")


def has_a_version(make: Make) -> None:
    """At least the constant; a version of 1 to 64 printable characters, and the same for its twin."""
    features = make()
    demand(features.dim >= 1, f"expected at least one feature, got {features.dim}")
    version = features.version
    kept = 1 <= len(version) <= 64 and version.isprintable() and version == make().version
    demand(kept, f"expected a version of 1 to 64 printable characters, always the same, got {version!r}")


def reads_its_spec(make: Make) -> None:
    """The SPEC gives the extractor back, with the artefact that it names where there is one."""
    features = make()
    artefact = artefact_of(features)
    kept = {} if artefact is None else dict([artefact])
    named = all(version in features.spec for version in kept)
    demand(named, f"expected {features.spec!r} to name {[*kept]}")
    try:
        read = extractor_from_spec(features.spec, kept.get)
    except BanditRouterError as error:
        raise AssertionError(f"expected {features.spec!r} to be read, got {error}") from error
    same = (read.spec, read.version, read.dim) == (features.spec, features.version, features.dim)
    demand(same, f"expected {features.spec!r} to give {features!r} back, got {read!r}")


def takes_a_ready_vector(make: Make) -> None:
    """As x: of full length, finite, not writeable, and a copy of what was given."""
    features = make()
    vector = _accepted(features)
    x = features.ready(vector)
    _demand_features(x, features.dim, "a ready vector")
    before = x.copy()
    vector[:] = 7.0
    demand(np.array_equal(x, before), "expected features that keep when the given vector is changed")
    demand(
        np.array_equal(features.ready(np.ones(len(vector)).tolist()), before),
        "expected a list to give the same features as an array",
    )


def refuses_a_wrong_shape(make: Make) -> None:
    """A ready vector of another shape is a ValueError."""
    features = make()
    n = len(_accepted(features))
    for shape in ((n + 1,), (n - 1,), (0,), (), (1, n), (n, 1)):
        demand_error(
            ValueError, partial(features.ready, np.ones(shape)), f"ready vector of shape {shape}"
        )


def refuses_what_is_not_finite(make: Make) -> None:
    """A NaN, an infinity, a number beyond all bounds, and what is no vector at all are ValueErrors."""
    features = make()
    n = len(_accepted(features))
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        vector = np.ones(n)
        vector[-1] = bad
        demand_error(ValueError, partial(features.ready, vector), f"ready vector with {bad}")
    for junk in (None, "text", {"a": 1}, [None] * n, ["x"] * n, [[1.0]] * n, [10**400] * n):
        demand_error(ValueError, partial(features.ready, junk), f"ready vector {junk!r:.40}")


def bounds_its_features(make: Make) -> None:
    """Any text at all gives features that a belief can learn from."""
    features = make()
    for prompt in _prompts():
        _demand_features(features.extract(prompt), features.dim, f"the text {prompt.text[:40]!r}")


def repeats_itself(make: Make) -> None:
    """The same text has the same numbers, to the bit."""
    features = make()
    for prompt in _prompts():
        x = features.extract(prompt)
        for twin in (features, make()):
            kept = np.array_equal(x, twin.extract(prompt))
            demand(kept, "expected the same features of {!r:.60} again", prompt.text)


def reads_many_as_one_by_one(make: Make) -> None:
    """Many prompts at once give the rows that each gives alone; none at all gives no row."""
    features = make()
    prompts = _prompts()
    rows = features.extract_many(prompts)
    demand(rows.shape == (len(prompts), features.dim), f"expected a row each, got {rows.shape}")
    for row, prompt in zip(rows, prompts, strict=True):
        same = np.array_equal(row, features.extract(prompt))
        demand(same, "expected {!r:.60} among many to have the features it has alone", prompt.text)
    none = features.extract_many([])
    demand(none.shape == (0, features.dim), f"expected no rows for no prompts, got {none.shape}")


_OF_ALL = (
    has_a_version,
    reads_its_spec,
    takes_a_ready_vector,
    refuses_a_wrong_shape,
    refuses_what_is_not_finite,
)
_OF_TEXTS = (bounds_its_features, repeats_itself, reads_many_as_one_by_one)
