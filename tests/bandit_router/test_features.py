"""What every feature extractor promises, and the features that need no fitting."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_router.errors import FeaturesError, SettingsError
from bandit_router.features import (
    FeatureExtractor,
    FittedFeatures,
    HashedFeatures,
    VectorFeatures,
    features_from_spec,
)
from bandit_router.features.hashed import lowered_points
from bandit_router.features.signals import IS_WORD, NAMES, kinds, lowered, marked, signals
from bandit_router.prompt import Prompt
from bandit_router.values import Array

WORDS = ("cat", "dog", "sat", "ran", "def", "x = 1", "two?", "漢字", "été", "A.")
CORPUS = [Prompt(text=f"the {a} and {b}") for a in WORDS for b in WORDS]
FITTED = FittedFeatures.fit(CORPUS, components=5)
EXTRACTORS = [HashedFeatures(), HashedFeatures(7), FITTED]

ODD = {
    "empty": "",
    "space": " \t\n ",
    "one": "a",
    "huge": "lorem ipsum " * 90_000,
    "unbroken": "x" * 1_000_000,
    "huge Han": "漢" * 1_000_000,
    "binary": bytes(range(256)).decode("latin-1") * 40,
    "replaced": "\N{REPLACEMENT CHARACTER}\0" * 500,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 ok",
    "Han": "請用三句話解釋量子計算的基本原理。",
    "Arabic": "اشرح الحوسبة الكمومية",
    "Thai": "อธิบายการคำนวณเชิงควอนตัม",
    "surrogate": "lone \ud800 and \udfff",
    "combining": "e\u0301" * 50,
    "brackets": "{" * 5_000,
    "options": "Which?\n" + "A. b\n" * 3_000,
}

prompts = st.builds(
    Prompt,
    text=st.text(st.characters(exclude_categories=()), max_size=300),
    turns=st.integers(0, 10**6),
    other_chars=st.integers(0, 10**9),
    images=st.integers(0, 10**6),
    tools=st.integers(0, 10**6),
)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool"]),
            "content": st.text(max_size=60)
            | st.none()
            | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=20)})),
        }
    ),
    min_size=1,
    max_size=6,
)


def check(x: Array, extractor: FeatureExtractor) -> None:
    assert x.shape == (extractor.dim,)
    assert x.dtype == np.float64
    assert x[0] == 1.0
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 3.0
    assert not x.flags.writeable


def digest(vectors: Array) -> str:
    # Rounded: the last bits of a logarithm may differ between C libraries.
    return hashlib.sha256((np.round(vectors, 9) + 0.0).astype("<f8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=repr)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_give_bounded_features(extractor: FeatureExtractor, text: str) -> None:
    check(extractor.extract(Prompt(text=text)), extractor)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=repr)
@given(prompt=prompts)
def test_any_prompt_gives_bounded_features(extractor: FeatureExtractor, prompt: Prompt) -> None:
    check(extractor.extract(prompt), extractor)


@given(conversation=messages)
def test_any_messages_give_bounded_features(conversation: list[dict[str, object]]) -> None:
    check(HashedFeatures().extract(Prompt.of(conversation)), HashedFeatures())


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=repr)
@given(many=st.lists(prompts, max_size=5))
def test_many_equal_one_by_one(extractor: FeatureExtractor, many: list[Prompt]) -> None:
    rows = extractor.extract_many(many)
    assert rows.shape == (len(many), extractor.dim)
    assert not rows.flags.writeable
    for row, prompt in zip(rows, many, strict=True):
        np.testing.assert_array_equal(row, extractor.extract(prompt))


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=repr)
def test_versions_are_short(extractor: FeatureExtractor) -> None:
    assert 1 <= len(extractor.version) <= 64


def test_numbers_are_pinned() -> None:
    """A change of a number needs a new version, or logged features and new ones would be mixed."""
    texts = [text for name, text in ODD.items() if not name.startswith("huge")]
    vectors = HashedFeatures().extract_many([Prompt(text=text, turns=3, images=1) for text in texts])
    assert HashedFeatures().version == "hashed-1-48"
    assert digest(vectors) == "2f5e11c903f7d6ee"


PROGRAM = """
import sys
from bandit_router.prompt import Prompt
from bandit_router.features import FittedFeatures, HashedFeatures
prompt = Prompt(text="Explain quantum computing: été, 漢字, def f(x): return 1?")
fitted = FittedFeatures.from_bytes(sys.stdin.buffer.read())
print(HashedFeatures().extract(prompt).tobytes().hex(), fitted.extract(prompt).tobytes().hex())
print(fitted.version, "sklearn" in sys.modules)
"""


def test_processes_agree_and_need_no_scikit_learn() -> None:
    runs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=FITTED.to_bytes(),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert runs.pop().split()[2:] == [FITTED.version.encode(), b"False"]


@given(text=st.text(st.characters(max_codepoint=0x7F)))
def test_plain_texts_are_classed_as_all_others_are(text: str) -> None:
    plain, other = kinds(text), kinds(text + "\u6f22")[:-1]
    assert plain.tobytes() == other.tobytes()
    assert lowered_points(text).tolist() == lowered_points(text + "\u6f22")[:-1].tolist()
    assert marked(IS_WORD, plain).tolist() == [bool(IS_WORD[kind]) for kind in plain]


@given(text=st.text(st.characters(exclude_categories=())))
def test_lower_case_is_that_of_python_where_it_is_stable(text: str) -> None:
    assert len(lowered(text)) == len(text)
    if max(map(ord, text), default=0) < 0x100:
        assert lowered(text) == text.lower()


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("length", "word " * 200, "word"),
        ("word_length", "extraordinary considerations", "a b c d"),
        ("digits", "12345 678", "one two"),
        ("capitals", "SHOUT AT ME", "shout at me"),
        ("points", "well, well... (no)!", "well well no"),
        ("alien", "объясни мне", "explain to me"),
        ("lines", "a\n" * 30, "a " * 30),
        ("numbers", "1 2 3 4 and 5", "one or two"),
        ("maths", r"$\frac{1}{x} + y^2 = 3$", "one over x and so on"),
        ("code", "```\ndef f(x):\n    return x\n```", "define a function of x for me"),
        ("questions", "why? how? what?", "because it is so"),
        ("options", "Pick one:\nA. red\nB. green\nC. blue", "Pick red, green or blue"),
        ("opening", "Write a poem", "A poem"),
        ("opening", "A poem", "What is a poem"),
    ],
)
def test_signals_mean_what_they_say(name: str, more: str, less: str) -> None:
    high, low = (signals(Prompt(text=text))[NAMES.index(name)] for text in (more, less))
    assert high > low + 0.2


def test_signals_see_the_conversation() -> None:
    alone = dict(zip(NAMES, signals(Prompt(text="hi")), strict=True))
    told = dict(zip(NAMES, signals(Prompt(text="hi", turns=5, other_chars=900, images=1)), strict=True))
    assert alone["history"] == alone["parts"] == 0.0
    assert told["history"] > 0.2
    assert told["parts"] > 0.2


def similarity(a: str, b: str) -> float:
    x, y = (HashedFeatures(192).extract(Prompt(text=text))[16:] for text in (a, b))
    return float(4 * x @ y)


def test_buckets_tell_texts_apart_in_any_script() -> None:
    for a, b, c in [
        ("explain quantum computing", "Explain QUANTUM computers", "bake bread with rye flour"),
        ("解釋量子計算的原理", "量子計算是什麼", "今天晚上吃什麼好呢"),
    ]:
        assert similarity(a, a) == pytest.approx(1.0)
        assert similarity(a, b) > similarity(a, c) + 0.15


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=repr)
def test_ready_vectors_are_taken_as_they_are(extractor: FeatureExtractor) -> None:
    x = extractor.extract(CORPUS[0])
    np.testing.assert_array_equal(extractor.ready(list(x)), x)
    assert not extractor.ready(x).flags.writeable


@pytest.mark.parametrize("extractor", [HashedFeatures(1), VectorFeatures(17)], ids=repr)
@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(16), r"expected shape \(17,\), got \(16,\)"),
        (np.ones((17, 1)), r"expected shape \(17,\), got \(17, 1\)"),
        ([np.nan] * 17, "finite"),
        ([-np.inf] * 17, "finite"),
        ([-1.1e6] * 17, "1e.06"),
        ([10**400] * 17, "vector of numbers"),
        ("text", "vector of numbers"),
        ([None, [1.0]], "vector of numbers"),
    ],
)
def test_wrong_vectors_are_refused(extractor: FeatureExtractor, vector: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor.ready(vector)


def test_vectors_get_a_constant_and_texts_are_refused() -> None:
    features = VectorFeatures(3)
    assert (features.dim, repr(features)) == (4, "VectorFeatures(3)")
    np.testing.assert_array_equal(features.ready([1, 2, 3]), [1, 1, 2, 3])
    assert not features.ready([1, 2, 3]).flags.writeable
    with pytest.raises(FeaturesError, match=r"choose\(features=...\)"):
        features.extract(CORPUS[0])
    with pytest.raises(FeaturesError, match=r"choose\(features=...\)"):
        features.extract_many(CORPUS)


@pytest.mark.parametrize(
    "features", [HashedFeatures(), HashedFeatures(128), VectorFeatures(dim=26)], ids=repr
)
def test_spec_and_repr_give_the_features_back(features: FeatureExtractor) -> None:
    assert features_from_spec(features.spec) == features
    assert eval(repr(features)) == features


def test_fitted_spec_needs_its_artefact() -> None:
    assert FITTED.spec == f"fitted:{FITTED.version}"
    with pytest.raises(SettingsError, match="artefact"):
        features_from_spec(FITTED.spec)


@pytest.mark.parametrize(
    "spec",
    [
        *("", "hash", "hashed:", "hashed:buckets", "hashed:buckets=", "hashed:buckets=x"),
        *("hashed:buckets=0", "hashed:buckets=-1", "hashed:buckets=1e3", "hashed:buckets=5000"),
        *("hashed:dim=3", "vectors", "vectors:dim=0", "vectors:dim=²", "vectors:dim=3,buckets=4"),
        "vectors:dim=" + "9" * 5000,
    ],
    ids=lambda spec: spec[:30],
)
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(SettingsError, match="expected"):
        features_from_spec(spec)


@pytest.mark.parametrize("size", [0, -1, 10**6, 2.0, True, "3", None])
def test_sizes_are_checked(size: int) -> None:
    with pytest.raises(SettingsError):
        HashedFeatures(size)
    with pytest.raises(SettingsError):
        VectorFeatures(size)
