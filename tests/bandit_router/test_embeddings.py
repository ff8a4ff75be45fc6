"""Embeddings as features: in time or not at all, never learnt from where they are missing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream import Reply, Upstream
from weeks import Clock, archive, talk

from bandit_router import Decision, EmbeddedFeatures, Model, Router
from bandit_router.checks import Check, features_checks
from bandit_router.embeddings import (
    Endpoint,
    Projection,
    SentenceModel,
    artefact_of,
    embeds,
    extractor_from_spec,
)
from bandit_router.embeddings.sources import CONNECTIONS
from bandit_router.embeddings.timely import Timely
from bandit_router.errors import (
    EmbeddingsUnavailableError,
    FeaturesError,
    FormatError,
    SettingsError,
)
from bandit_router.features.signals import NAMES
from bandit_router.prompt import Prompt

SIZE, DIM = 24, 6
MODELS = [Model("small"), Model("large")]
START = 1 + len(NAMES)  # of the components
SLACK_S = 2.0  # for a machine that is busy
PATIENT = {"dim": DIM, "timeout_s": 20.0}
TEXTS = [f"Explain the {a} of {b}" for a in ("cat", "court", "gene") for b in ("été", "漢字", "law")]


def vector_of(text: str) -> list[float]:
    """An embedding that any process gives alike: sums of one direction a word."""
    total = np.ones(SIZE)
    for word in text.split():
        digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
        total += np.frombuffer(digest[:SIZE], dtype=np.int8) / 64
    return [float(number) for number in total]


def embed(texts: list[str]) -> list[list[float]]:
    return [vector_of(text) for text in texts]


def answer(vectors: list[Any], **reply: Any) -> Reply:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    body = {"object": "list", "data": data[::-1], "model": "m", "usage": {"prompt_tokens": 1}}
    return Reply(raw=json.dumps(body).encode(), **reply)


def good(body: dict[str, Any]) -> Reply:
    return answer(embed(body["input"]))


def slow(seconds: float) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: answer(embed(body["input"]), slow_s=seconds)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(good) as server:
        yield server


@pytest.fixture
def endpoint(upstream: Upstream) -> Iterator[Endpoint]:
    made = Endpoint("m", base_url=upstream.url)
    yield made
    made.close()


def own(call: Callable[[list[str]], Any] = embed, **size: Any) -> EmbeddedFeatures:
    return EmbeddedFeatures.of(call, name="words", version="1", **{**PATIENT, **size})


class Gate:
    """A function that embeds when it is open, and waits while it is closed."""

    def __init__(self) -> None:
        self.opened, self.calls = threading.Event(), 0

    def __call__(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        assert self.opened.wait(60)
        return embed(texts)


# -- features ------------------------------------------------------------------------------------------


def _every_check() -> Iterator[Any]:  # Any: pytest does not name the type of a parameter set
    fitted = own().fit([Prompt(text=text) for text in TEXTS])
    for name, features in {"random": own(), "fitted": fitted, "wide": own(dim=SIZE)}.items():
        for check in features_checks(lambda features=features: features):  # type: ignore[misc] # bound now
            yield pytest.param(check, id=f"{name}-{check}")


@pytest.mark.parametrize("check", list(_every_check()))
def test_contract(check: Check) -> None:
    check()


def test_contract_over_http(endpoint: Endpoint) -> None:
    features = EmbeddedFeatures(endpoint, **PATIENT)
    for check in features_checks(lambda: features):
        check()


def test_x_is_the_constant_signals_and_components() -> None:
    features, prompt = own(), Prompt(text="Explain quantum computing")
    x, bare = features.extract(prompt), features.stopgap(prompt)
    np.testing.assert_array_equal(x[:START], bare[:START])
    np.testing.assert_array_equal(bare[START:], 0.0)
    unit = np.array(vector_of(prompt.text)) / np.linalg.norm(vector_of(prompt.text))
    wanted = unit @ Projection.random(SIZE, DIM, seed=0).components.astype(np.float64)
    np.testing.assert_allclose(x[START:], wanted, rtol=0, atol=1e-12)
    assert features.stopgap_version == features.version + "~"


def test_a_blank_text_has_no_embedding_and_needs_no_call() -> None:
    gate = Gate()
    features = own(gate)
    np.testing.assert_array_equal(features.extract(Prompt(text=" \n"))[START:], 0.0)
    assert gate.calls == 0


def test_a_huge_text_is_cut(upstream: Upstream, endpoint: Endpoint) -> None:
    EmbeddedFeatures(endpoint, **PATIENT).extract(Prompt(text="a" * 500_000 + "b" * 500_000))
    (sent,) = upstream.requests[0]["input"]
    assert (sent.count("a"), sent.count("b")) == (6_000, 2_000)


def test_scale_is_that_of_fitted_features() -> None:
    prompts = [Prompt(text=text) for text in TEXTS]
    fitted = own().fit(prompts, dim=4).extract_many(prompts)[:, START:]
    assert float(np.square(fitted).sum(axis=1).mean()) == pytest.approx(0.7, rel=1e-5)
    np.testing.assert_allclose(fitted.mean(axis=0), 0.0, atol=1e-6)
    energy = np.square(fitted).sum(axis=0)
    assert (np.diff(energy) < 1e-6).all()  # not whitened: it falls with rank
    vectors = np.random.default_rng(1).normal(size=(400, 256))
    random = Projection.random(256, 32, seed=0)
    mean = np.mean([np.square(random.project(v)).sum() for v in vectors])
    assert mean == pytest.approx(0.7, abs=0.05)  # its standard error is below 0.01


def test_batches_and_memory(upstream: Upstream, endpoint: Endpoint) -> None:
    features = EmbeddedFeatures(endpoint, **PATIENT)
    prompts = [Prompt(text=f"text {i}") for i in range(130)] * 2
    rows = features.extract_many(prompts)
    assert sorted(len(body["input"]) for body in upstream.requests) == [2, 64, 64]
    np.testing.assert_array_equal(features.extract(prompts[7]), rows[7])
    assert len(upstream.requests) == 3
    assert upstream.requests[0]["model"] == "m"


def test_what_is_asked_at_once_is_asked_once() -> None:
    gate = Gate()
    features = own(gate)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(features.extract, Prompt(text="same")) for _ in range(8)]
        time.sleep(0.05)
        gate.opened.set()
        rows = [one.result() for one in asked]
    assert gate.calls == 1
    assert all(np.array_equal(row, rows[0]) for row in rows)


def test_memory_is_bounded() -> None:
    calls: list[str] = []
    timely = Timely(lambda text: np.array([len(calls.append(text) or text)]), timeout_s=20, memory=2)  # type: ignore[func-returns-value] # counted
    for text in ("a", "b", "a", "c", "a", "b"):
        timely.get(text)
    assert calls == ["a", "b", "c", "b"]  # b was the least recently used


# -- in time, or not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Reply(status=429), "429"),
        (Reply(status=500), "500"),
        (Reply(status=404), "404"),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), "302"),
        (Reply(raw=b"not JSON"), "another body"),
        (Reply(raw=b'{"data": 1}'), "another body"),
        (answer([]), "another body"),
        (answer([vector_of("a"), vector_of("b")]), "another body"),
        (answer([[float("nan")] * SIZE]), "finite"),
        (answer([[1e999] * SIZE]), "finite"),
        (answer([[0.0] * SIZE]), "zero"),
        (answer([["x"] * SIZE]), "numbers"),
        (answer([[[1.0]] * SIZE]), "shape"),
        (answer([[]]), "shape"),
        (answer([vector_of("a")[:-1]]), f"expected {SIZE} numbers"),
        (answer([vector_of("a")], cut=0.5), "RemoteProtocolError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_good_is_said(
    upstream: Upstream, endpoint: Endpoint, bad: Reply, message: str
) -> None:
    features = EmbeddedFeatures(endpoint, **PATIENT)
    features.extract(Prompt(text="first"))
    upstream.then(bad)
    with pytest.raises(EmbeddingsUnavailableError, match=message):
        features.extract(Prompt(text="second"))
    assert features.extract(Prompt(text="second"))[START:].any()


def test_more_components_than_numbers_are_refused() -> None:
    with pytest.raises(EmbeddingsUnavailableError, match="FeaturesError"):
        own(dim=SIZE + 1).extract(Prompt(text="x"))
    with pytest.raises(FeaturesError, match=f"at most {SIZE}"):
        own(dim=SIZE + 1).extract_many([Prompt(text="x")])


def test_a_late_embedding_is_there_for_the_next(upstream: Upstream, endpoint: Endpoint) -> None:
    upstream.usual = slow(0.4)
    features = EmbeddedFeatures(endpoint, dim=DIM, timeout_s=0.1)
    began = time.monotonic()
    with pytest.raises(EmbeddingsUnavailableError, match=r"within 0.1 s"):
        features.extract(Prompt(text="x"))
    assert time.monotonic() - began < 0.1 + SLACK_S
    _eventually(lambda: features._timely.find("x") is not None)
    assert features.extract(Prompt(text="x"))[START:].any()


def test_bytes_that_drip_hold_nobody(upstream: Upstream, endpoint: Endpoint) -> None:
    upstream.usual = lambda body: answer(embed(body["input"]), drip_s=0.02)
    features = EmbeddedFeatures(endpoint, dim=DIM, timeout_s=0.1)
    began = time.monotonic()
    with pytest.raises(EmbeddingsUnavailableError, match="within"):
        features.extract(Prompt(text="x"))
    assert time.monotonic() - began < 0.1 + SLACK_S


def test_a_dead_endpoint_costs_only_the_first_few(caplog: pytest.LogCaptureFixture) -> None:
    gate, now = Gate(), [0.0]
    timely = Timely(lambda text: np.array(gate([text])[0]), timeout_s=0.2, clock=lambda: now[0])
    for text in ("a", "b", "c"):
        with pytest.raises(EmbeddingsUnavailableError, match="within"):
            timely.get(text)
    assert timely.trouble is not None
    assert "nobody waits" in caplog.text
    began = time.monotonic()
    for i in range(50):
        with pytest.raises(EmbeddingsUnavailableError, match="nobody waits"):
            timely.get(f"text {i}")
    assert time.monotonic() - began < SLACK_S
    assert gate.calls == 3
    gate.opened.set()
    now[0] += 1.5
    with pytest.raises(EmbeddingsUnavailableError, match="nobody waits"):
        timely.get("tries")  # runs beside; nobody waits for it
    _eventually(lambda: timely.trouble is None)
    assert timely.get("later") is not None


def test_a_text_that_is_refused_is_nobody_elses_trouble(upstream: Upstream, endpoint: Endpoint) -> None:
    features = EmbeddedFeatures(endpoint, **PATIENT)
    upstream.then(*[Reply(status=400)] * 10)
    for i in range(10):
        with pytest.raises(EmbeddingsUnavailableError, match="400"):
            features.extract(Prompt(text=f"odd {i}"))
    assert features.trouble is None


def test_so_many_are_under_way_and_no_more() -> None:
    gate = Gate()
    timely = Timely(lambda text: np.array(gate([text])[0]), timeout_s=30.0)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asked = [pool.submit(timely.get, f"text {i}") for i in range(CONNECTIONS)]
        _eventually(lambda: gate.calls == CONNECTIONS)
        with pytest.raises(EmbeddingsUnavailableError, match="under way"):
            timely.get("one more")
        gate.opened.set()
        assert all(one.result() is not None for one in asked)


def test_many_are_never_taken_for_granted(upstream: Upstream, endpoint: Endpoint) -> None:
    features, waits = EmbeddedFeatures(endpoint, **PATIENT), []
    upstream.then(Reply(status=429), Reply(status=503))
    features._embed_patiently(["a"], sleep=waits.append)
    assert waits == [1.0, 4.0]
    upstream.then(*[Reply(status=500)] * 4)
    with pytest.raises(EmbeddingsUnavailableError, match="500"):
        features._embed_patiently(["b"], sleep=waits.append)
    upstream.then(Reply(status=401))
    with pytest.raises(EmbeddingsUnavailableError, match="401"):
        features.extract_many([Prompt(text="c")])


def test_nothing_at_the_other_end() -> None:
    with Upstream() as gone:
        url = gone.url
    features = EmbeddedFeatures(Endpoint("m", base_url=url), **PATIENT)
    with pytest.raises(EmbeddingsUnavailableError, match="ConnectError"):
        features.extract(Prompt(text="x"))
    features.close()


def test_the_event_loop_goes_on() -> None:
    gate = Gate()
    features = own(gate)

    async def both() -> int:
        asked = asyncio.gather(*(features.aextract(Prompt(text=f"text {i % 4}")) for i in range(16)))
        ticks = 0
        while not asked.done():
            await asyncio.sleep(0.001)
            ticks += 1
            if ticks == 50:
                gate.opened.set()
        await asked
        return ticks

    assert asyncio.run(both()) >= 50
    assert gate.calls == 4


def test_an_event_loop_may_end_before_an_embedding_comes() -> None:
    gate = Gate()
    features = own(gate, timeout_s=0.05)
    with pytest.raises(EmbeddingsUnavailableError, match="within"):
        asyncio.run(features.aextract(Prompt(text="x")))
    gate.opened.set()
    _eventually(lambda: features._timely.find("x") is not None)


def _eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- keys and texts ----------------------------------------------------------------------------------------


def test_a_key_is_sent_and_never_told(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    environ = {"MY_API_KEY": "marker-key"}
    source = Endpoint("m", base_url=upstream.url, api_key_env="MY_API_KEY", environ=environ)
    features = EmbeddedFeatures(source, **PATIENT)
    features.extract(Prompt(text="marker-text"))
    assert upstream.headers[0]["authorization"] == "Bearer marker-key"
    upstream.then(Reply(status=500))
    with pytest.raises(EmbeddingsUnavailableError) as raised:
        features.extract(Prompt(text="marker-text again"))
    features.close()
    said = f"{raised.value!r} {raised.value.__context__!r} {features!r} {source!r} {caplog.text}"
    assert "marker" not in said


def test_no_key_goes_to_a_stranger(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    source = Endpoint("m", base_url=upstream.url)
    source.embed(["x"], patience_s=20.0)
    source.close()
    assert "authorization" not in upstream.headers[0]
    assert Endpoint("m").api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("environ", "message"),
    [({}, "no OPENAI_API_KEY"), ({"OPENAI_API_KEY": "sch\u00f6n"}, "ASCII")],
)
def test_a_key_that_is_missing_is_said_at_once(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        EmbeddedFeatures(Endpoint("m", environ=environ)).warm()


@pytest.mark.parametrize("name", ["DATABASE_URL", "AWS_SECRET", "openai_api_key", ""])
def test_no_other_secret_is_sent_anywhere(name: str) -> None:
    with pytest.raises(SettingsError, match="api_key_env"):
        Endpoint("m", api_key_env=name)


def test_a_function_that_fails_tells_no_text() -> None:
    def fails(texts: list[str]) -> None:
        raise ValueError(f"cannot embed {texts[0]}")

    with pytest.raises(EmbeddingsUnavailableError) as raised:
        own(fails).extract(Prompt(text="marker"))
    assert "marker" not in str(raised.value)
    assert "ValueError" in str(raised.value)


# -- SPECs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "openai:model=text-embedding-3-small,dim=64",
        "openai:model=a/b:c,base_url=http://127.0.0.1:8000/v1,api_key_env=MY_API_KEY,dim=8,seed=3,timeout_s=0.25",
        "sentence:model=all-MiniLM-L6-v2,dim=32",
        "callable:name=mine,version=2026-01,dim=4",
    ],
)
def test_a_spec_gives_the_features_back(spec: str) -> None:
    features = extractor_from_spec(spec)
    assert features.spec == spec
    assert embeds(spec)
    assert 1 <= len(f"{features.version}~") <= 64


def test_versions_differ_where_numbers_do() -> None:
    same = "openai:model=m,dim=8"
    others = [
        *("openai:model=n,dim=8", "openai:model=m,dim=9", "openai:model=m,dim=8,seed=1"),
        *("openai:model=m,dim=8,base_url=http://host/v1", "sentence:model=m,dim=8"),
    ]
    versions = {extractor_from_spec(spec).version for spec in [same, *others]}
    assert len(versions) == 6
    assert extractor_from_spec(f"{same},timeout_s=1").version in versions


@pytest.mark.parametrize(
    "spec",
    [
        *("openai:dim=8", "openai:model=m,colour=red", "openai:model=m,dim=x", "openai:model=m,dim=0"),
        *("openai:model=m,timeout_s=0", "openai:model=m,timeout_s=nan", "openai:model=m,timeout_s=61"),
        *("openai:model=m,seed=-1", "openai:model=m,base_url=ftp://host", "sentence", "sentence:model="),
        *(
            "openai:model=m,base_url=http://me:secret@host/v1",
            "callable:name=n",
            "openai:model=m,dim=9000",
        ),
    ],
)
def test_a_bad_spec_is_refused(spec: str) -> None:
    with pytest.raises(SettingsError):
        extractor_from_spec(spec)


def test_other_specs_are_read_too() -> None:
    assert extractor_from_spec("hashed:buckets=8").spec == "hashed:buckets=8"
    for spec in ("fitted:none", "openai:model=m,projection=none"):
        with pytest.raises(FeaturesError, match="no extractor 'none'"):
            extractor_from_spec(spec)


def test_a_fitted_projection_is_kept_as_bytes() -> None:
    features = own().fit([Prompt(text=text) for text in TEXTS], dim=3)
    artefact = artefact_of(features)
    assert artefact is not None
    again = extractor_from_spec(features.spec, dict([artefact]).get)
    assert (again.spec, again.version, again.dim) == (features.spec, features.version, START + 3)
    with pytest.raises(FeaturesError, match="damaged"):
        extractor_from_spec(features.spec, lambda version: artefact[1][:-1])


DATA = Projection.random(5, 2, seed=1).to_bytes()


@given(place=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
def test_damaged_bytes_are_refused(place: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= flip
    for bytes_ in (bytes(damaged), DATA[:place]):
        with pytest.raises(FormatError):
            Projection.from_bytes(bytes_)


def test_random_projections_are_orthonormal_and_pinned() -> None:
    basis = Projection.random(40, 8, seed=0).components.astype(np.float64) * np.sqrt(8 / (0.7 * 40))
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-5)
    # A change of these numbers needs another version, or logs would hold two kinds under one name.
    assert Projection.random(40, 8, seed=0).version == "projection-ba3ed5679994cd345a259e66"
    assert Projection.random(40, 8, seed=1).version != Projection.random(40, 8, seed=0).version


@pytest.mark.parametrize("texts", [[], ["one"], [" ", ""]])
def test_too_few_prompts_are_refused(texts: list[str]) -> None:
    with pytest.raises(FeaturesError, match="fit: "):
        own().fit([Prompt(text=text) for text in texts])
    with pytest.raises(FeaturesError, match="alike"):
        own(lambda texts: np.ones((len(texts), SIZE))).fit([Prompt(text="a"), Prompt(text="b")])


# -- sentence-transformers ---------------------------------------------------------------------------------


class Encoder:
    """As much of `SentenceTransformer` as is called."""

    def __init__(self, name: str) -> None:
        if name == "none":
            raise OSError("no such model")

    def encode(
        self, texts: list[str], *, convert_to_numpy: bool, show_progress_bar: bool
    ) -> np.ndarray[Any, Any]:
        assert convert_to_numpy
        assert not show_progress_bar
        return np.array(embed(texts), dtype=np.float32)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("sentence_transformers")
    stand_in.SentenceTransformer = Encoder  # type: ignore[attr-defined] # a module made here
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)


@pytest.mark.usefixtures("package")
def test_a_sentence_model() -> None:
    features = EmbeddedFeatures(SentenceModel("tiny"), **PATIENT)
    for check in features_checks(lambda: features):
        check()
    wanted = own().extract(Prompt(text="the cat"))
    np.testing.assert_allclose(features.extract(Prompt(text="the cat")), wanted, atol=1e-6)
    with pytest.raises(FeaturesError, match="'none' cannot be loaded"):
        EmbeddedFeatures(SentenceModel("none")).warm()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(FeaturesError, match=r"pip install 'bandit-router\[embeddings\]'"):
        Router.open("sqlite://", models=MODELS, features="sentence:model=tiny,dim=6")
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(FeaturesError, match=r"pip install 'bandit-router\[http\]'"):
        EmbeddedFeatures(Endpoint("m", base_url="http://localhost/v1")).warm()


# -- through the router --------------------------------------------------------------------------------------


def spec_of(upstream: Upstream, **options: Any) -> str:
    rest = "".join(f",{name}={value}" for name, value in options.items())
    return f"openai:model=m,base_url={upstream.url},dim={DIM}{rest}"


def known(router: Router) -> float:
    return sum(belief["n"] for belief in router.beliefs().values())


def thumb(router: Router, decision: Decision, value: bool = True) -> None:
    router.feedback(decision.id, "thumb", value, source="user:1")


def test_without_its_embedding_a_decision_is_flagged_and_not_learnt_until_rebuild(
    upstream: Upstream, tmp_path: Path
) -> None:
    url, spec = f"sqlite:///{tmp_path / 'chat.db'}", spec_of(upstream, timeout_s=0.2)
    with Router.open(url, models=MODELS, features=spec) as router:
        version = extractor_from_spec(spec).version
        _eventually(lambda: router.choose("Explain the law").features_version == version)
        usual = router.choose("Explain the law")  # remembered, however slow the machine
        assert (usual.features_version, usual.features[START:].any()) == (version, True)
        assert usual.reason in ("exploit", "explore")
        thumb(router, usual)
        before = known(router)
        upstream.usual = Reply(status=500)
        flagged = router.choose("Prove the theorem")
        assert (flagged.reason, flagged.features_version) == ("degraded", f"{version}~")
        assert flagged.features[:START].any()
        assert not flagged.features[START:].any()
        assert sum(flagged.probabilities.values()) == pytest.approx(1)
        thumb(router, flagged)
        assert known(router) == before  # nothing was learnt from it
        assert router.health().skipped == 1
        upstream.usual = good
        done = router.rebuild()
        assert done.encoded >= 1
        story = router.decision(flagged.id).decision
        wanted = EmbeddedFeatures.of(embed, name="w", version="1", **PATIENT)
        np.testing.assert_allclose(story.features, wanted.extract(Prompt(text="Prove the theorem")))
        assert (story.features_version, story.reason) == (version, "degraded")
        assert known(router) == before + 1
        assert router.health().skipped == 0
    with Router.open(url, create=False) as later:
        assert known(later) == before + 1


def test_rebuild_brings_in_what_was_archived_without_its_embedding(tmp_path: Path) -> None:
    working, clock, url = threading.Event(), Clock(), f"sqlite:///{tmp_path / 'chat.db'}"

    def sometimes(texts: list[str]) -> list[list[float]]:
        if not working.is_set():
            raise OSError("away")
        return embed(texts)

    with clock.in_force(), Router.open(url, models=MODELS, features=own(sometimes)) as router:
        talk(router, clock)
        lacking = router.health().skipped
        assert (lacking > 0, known(router)) == (True, 0)
        assert archive(url, tmp_path / "archive", clock)
        assert known(router) == 0
        working.set()
        assert router.rebuild().encoded == 12
        assert (router.health().skipped, router.rebuild().encoded) == (0, 0)
        everything = known(router)
    # The same weeks, where nothing was lacking.
    with Clock().in_force(), Router.open("sqlite://", models=MODELS, features=own()) as router:
        talk(router, Clock())
        assert known(router) == pytest.approx(everything)


def test_achoose_blocks_no_loop_and_nobody_waits_longer(upstream: Upstream, tmp_path: Path) -> None:
    upstream.usual = slow(30.0)
    spec = spec_of(upstream, timeout_s=0.3)

    async def several(router: Router) -> tuple[list[Decision], float]:
        asked = asyncio.gather(*(router.achoose(f"question {i}") for i in range(12)))
        gaps, last = [], time.monotonic()
        while not asked.done():
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
        return await asked, float(np.median(gaps))

    with Router.open(f"sqlite:///{tmp_path / 'chat.db'}", models=MODELS, features=spec) as router:
        began = time.monotonic()
        made, gap = asyncio.run(several(router))
        assert time.monotonic() - began < 0.3 + SLACK_S
        assert gap < 0.1
        assert {decision.reason for decision in made} == {"degraded"}
        began = time.monotonic()
        made = [router.choose(f"more {i}") for i in range(20)]
        assert time.monotonic() - began < SLACK_S  # and not 20 times the limit
        assert {decision.reason for decision in made} == {"degraded"}


def test_every_worker_makes_them_from_the_log(upstream: Upstream, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    with Router.open(url, models=MODELS) as router:
        for text in TEXTS:
            thumb(router, router.choose(text))
        fitted = router.fit_embeddings(spec_of(upstream, timeout_s=20.0))
        done = router.rebuild(fitted)
        assert (done.encoded, done.features) == (len(TEXTS), fitted.spec)
        with Router.open(url, create=False) as other:
            x = other.choose("Explain the cat of law").features
            np.testing.assert_array_equal(x, router.choose("Explain the cat of law").features)
            assert known(other) == len(TEXTS)
        router.configure(features=f"{fitted.spec.replace(',timeout_s=20.0', '')},timeout_s=9.0")
        assert router.choose("x").features_version == fitted.version  # the same numbers: no rebuild
        with pytest.raises(FeaturesError, match="rebuild"):
            router.configure(features="hashed")


def test_rebuild_says_that_embeddings_do_not_come_and_changes_nothing(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.usual = Reply(status=401)
    with Router.open(f"sqlite:///{tmp_path / 'chat.db'}", models=MODELS) as router:
        decision = router.choose("Explain the law")
        with pytest.raises(EmbeddingsUnavailableError, match="401"):
            router.rebuild(spec_of(upstream))
        assert router.settings.features == "hashed"
        assert router.decision(decision.id).decision.features_version == decision.features_version


def test_a_function_is_given_in_every_process(tmp_path: Path) -> None:
    url, features = f"sqlite:///{tmp_path / 'chat.db'}", own()
    with Router.open(url, models=MODELS, features=features) as router:
        thumb(router, router.choose("Explain the law"))
        assert router.settings.features == features.spec
        with pytest.raises(FeaturesError, match="host's own"):
            Router.open(url, create=False)
        with Router.open(url, features=own()) as other:
            assert known(other) == 1
    with pytest.raises(FeaturesError, match="host's own"):
        Router.open("sqlite://", models=MODELS, features=features.spec)


def test_rebuild_takes_a_function_up(tmp_path: Path) -> None:
    with Router.open(f"sqlite:///{tmp_path / 'chat.db'}", models=MODELS) as router:
        thumb(router, router.choose("Explain the law"))
        router.rebuild(own())
        assert router.choose("Explain the law").features_version == own().version
        assert known(router) == 1


def test_a_ready_vector_waits_for_nothing(tmp_path: Path) -> None:
    gate = Gate()
    with Router.open(f"sqlite:///{tmp_path / 'c.db'}", models=MODELS, features=own(gate)) as router:
        made = router.choose(features=np.ones(START + DIM))
        assert asyncio.run(router.achoose(features=np.ones(START + DIM))).reason != "degraded"
        assert (made.reason != "degraded", gate.calls) == (True, 0)


FORKER = """
import os, sys
from bandit_router import EmbeddedFeatures, Model, Router

embed = lambda texts: [[1.0, len(text), 2.0] for text in texts]
features = EmbeddedFeatures.of(embed, name="n", version="1", dim=2, timeout_s=20.0)
router = Router.open(sys.argv[1], models=[Model("a"), Model("b")], features=features)
router.choose("before the fork")
pid = os.fork()
if pid == 0:
    made = [router.choose("before the fork"), router.choose("in the child")]
    os._exit(any(decision.reason == "degraded" for decision in made))
assert os.waitpid(pid, 0)[1] == 0
router.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_embeds_by_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.db'}"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKER, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
