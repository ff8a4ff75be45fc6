"""Features fitted to a product's own prompts: right, lossless, and safe to read."""

from __future__ import annotations

import hashlib
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from bandit_router.errors import FeaturesError, FormatError
from bandit_router.features import FittedFeatures
from bandit_router.features.fitted import terms
from bandit_router.prompt import Prompt

NOUNS = ("cat", "dog", "integral", "court", "contract", "gene", "été", "漢字", "матрица")
TEXTS = [f"Explain the {a} of a {b}, and the {a} {b}?" for a in NOUNS for b in NOUNS if a < b]
PROMPTS = [Prompt(text=text) for text in TEXTS]
FITTED = FittedFeatures.fit(PROMPTS, components=6)
DATA = FITTED.to_bytes()
START = struct.calcsize("<4sHHIIQ")


def forged(header: bytes, body: bytes) -> bytes:
    return header + hashlib.sha256(header + body).digest() + body


def header(*, version: int = 1, signals: int = 1, n: int = 1, k: int = 1, size: int = 1) -> bytes:
    return struct.pack("<4sHHIIQ", b"BRFF", version, signals, n, k, size)


@given(text=st.sampled_from(TEXTS) | st.text() | st.lists(st.sampled_from(NOUNS)).map(" ".join))
def test_projection_equals_scikit_learn(text: str) -> None:
    tfidf = TfidfVectorizer(analyzer=terms, sublinear_tf=True, min_df=2).fit(TEXTS)
    wanted = tfidf.transform([text]) @ FITTED.components.astype(np.float64)
    np.testing.assert_allclose(FITTED.project(text), wanted[0], rtol=0, atol=1e-9)


def test_fit_is_deterministic_and_named_by_its_content() -> None:
    assert FittedFeatures.fit(PROMPTS, components=6).to_bytes() == DATA
    assert FittedFeatures.fit(iter(PROMPTS), components=5).version != FITTED.version
    assert FITTED.version.startswith("fitted-")


def test_scale_falls_with_rank() -> None:
    energy = (FITTED.extract_many(PROMPTS)[:, -6:] ** 2).sum(axis=0)
    assert (np.diff(energy) < 1e-6).all()


def test_bytes_give_the_same_features_back() -> None:
    again = FittedFeatures.from_bytes(DATA)
    assert (again.version, again.spec, repr(again)) == (FITTED.version, FITTED.spec, repr(FITTED))
    assert again.to_bytes() == DATA
    np.testing.assert_array_equal(again.extract_many(PROMPTS), FITTED.extract_many(PROMPTS))


def test_words_are_pinned() -> None:
    """A change of words needs a new SIGNALS_VERSION, or old artefacts would give other numbers."""
    text = (
        "L'ÉTÉ_2024: x-ray 3.14 漢字カナ 한국어 ด naïve ＡＢ Ωμέγα 👍 \ud800 \N{REPLACEMENT CHARACTER}"
    )
    words = [term for term in terms(text + "w" * 50) if " " not in term]
    wanted = "l été 2024 x ray 3 14 漢 字 カ ナ 한국어 ด naïve ＡＢ ωμέγα 👍"
    assert words == [*wanted.split(), "w" * 40]


def test_ideograms_are_words() -> None:
    assert terms("漢字") == ["漢", "字", "漢 字"]


@pytest.mark.parametrize(
    "texts", [[], ["a cat"], ["a cat", "two dogs"], ["", ""], ["!!", "??", "\ud800"]]
)
def test_too_little_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(FeaturesError, match="fit: "):
        FittedFeatures.fit([Prompt(text=text) for text in texts])


@pytest.mark.parametrize("texts", [["the same"] * 9, ["the cat", "the dog", "a cat"], TEXTS[:4]])
def test_few_texts_give_few_components(texts: list[str]) -> None:
    fitted = FittedFeatures.fit([Prompt(text=text) for text in texts], components=48)
    assert 16 < fitted.dim <= 15 + len(texts)
    assert np.isfinite(fitted.extract_many(PROMPTS)).all()


@pytest.mark.parametrize("name", ["components", "min_df", "max_terms"])
def test_counts_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        FittedFeatures.fit(PROMPTS, **{name: 0})


def test_max_terms_bounds_the_vocabulary() -> None:
    assert len(FittedFeatures.fit(PROMPTS, components=2, max_terms=7).vocabulary) == 7


def test_fit_without_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(FeaturesError, match=r"pip install 'bandit-router\[fitted\]'"):
        FittedFeatures.fit(PROMPTS)


@given(data=st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: DATA[:40] + tail))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        FittedFeatures.from_bytes(data)


@given(length=st.integers(0, len(DATA) - 1))
def test_truncated_bytes_are_refused(length: int) -> None:
    with pytest.raises(FormatError):
        FittedFeatures.from_bytes(DATA[:length])


@given(place=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_damaged_bytes_are_refused(place: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= flip
    with pytest.raises(FormatError):
        FittedFeatures.from_bytes(bytes(damaged))


@given(
    n=st.integers(0, 3),
    k=st.integers(0, 3),
    size=st.integers(0, 9),
    body=st.binary(max_size=60),
)
def test_forged_bytes_are_refused_or_give_no_nan(n: int, k: int, size: int, body: bytes) -> None:
    data = forged(header(n=n, k=k, size=size), body[: size + 8 * n + 4 * n * k])
    try:
        fitted = FittedFeatures.from_bytes(data)
    except FormatError:
        return
    assert np.isfinite(fitted.extract_many(PROMPTS)).all()


def weights(*numbers: float) -> bytes:
    return struct.pack("<d", numbers[0]) + struct.pack(f"<{len(numbers) - 1}f", *numbers[1:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (forged(header(version=2), b"a" + weights(1, 0.5)), "format version 1, got 2"),
        (forged(header(signals=2), b"a" + weights(1, 0.5)), "fit again"),
        (forged(header(), b"\xff" + weights(1, 0.5)), "vocabulary"),
        (forged(header(size=2), b"\n\n" + weights(1, 0.5)), "idf"),
        (forged(header(), b"a" + weights(np.nan, 0.5)), "finite"),
        (forged(header(), b"a" + weights(1, np.nan)), "finite"),
        (forged(header(), b"a" + weights(1, 1e30)), "finite"),
        (forged(header(n=2**32 - 1, k=2**32 - 1, size=2**64 - 1), b""), "damaged"),
    ],
)
def test_wrong_content_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FittedFeatures.from_bytes(data)


def test_a_good_forgery_is_read() -> None:
    assert FittedFeatures.from_bytes(forged(header(), b"a" + weights(1, 0.5))).dim == 17


def test_terms_must_be_unique() -> None:
    with pytest.raises(FeaturesError, match="once"):
        FittedFeatures(["a", "a"], np.ones(2), np.zeros((2, 1), dtype=np.float32))
