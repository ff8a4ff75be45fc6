"""Whatever is read from outside gives a value or one of our errors: no crash, no hang, no huge memory.

``FUZZ_EXAMPLES=20000 pytest tests/test_fuzz.py`` looks longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit_router import Model, Settings
from bandit_router.asking import read_request, read_word
from bandit_router.bodies import read_json
from bandit_router.config import Config, read_config
from bandit_router.errors import BanditRouterError
from bandit_router.events import new_id
from bandit_router.evidence import Delta, Evidence, Observation, evidence_from_bytes, evidence_to_bytes
from bandit_router.features import FittedFeatures, features_from_spec
from bandit_router.policies import policy_from_spec
from bandit_router.predictions import Predictions
from bandit_router.prompt import Prompt
from bandit_router.rewards import METRICS
from bandit_router.service.app import create_app
from bandit_router.settings import model_from_json
from bandit_router.store.frames import delta_to_bytes, deltas_from_bytes
from feedback.grading import wait_of
from feedback.judge_settings import judge_settings_from_json
from feedback.rubric import Rubric
from feedback.tokens import Token, read_token
from simulations.tables import Table, read_table, write_table

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
SLOW_S = 1.0  # longer than anything may take, on a machine that is not busy
BUSY = 5.0  # times as slow a busy one is
HUGE_BYTES = 64 * 2**20
OURS = (BanditRouterError, ValueError, TypeError)

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Read = Callable[[Any], object]


def survives(read: Read, value: object) -> None:
    """See that a parser comes back soon, with a value or with one of our errors."""
    began = time.process_time()
    with suppress(*OURS):
        read(value)
    assert time.process_time() - began < SLOW_S * BUSY


# -- bytes ----------------------------------------------------------------------------------------


def _observation(at: float) -> Observation:
    return Observation.of([1.0, 0.5, -0.25], 0.75, at=at)


def _evidence(half_life: float | None) -> Evidence:
    sums = Evidence(3, half_life=half_life)
    sums.add(_observation(1.0))
    return sums


def _fitted() -> bytes:
    prompts = [
        Prompt(text=f"{a} {b} {c}") for a in "xyz" for b in ("sun", "sea") for c in ("red", "blue")
    ]
    return FittedFeatures.fit(prompts, components=2).to_bytes()


def _predictions() -> bytes:
    known = Predictions()
    known.sums |= {name: np.arange(len(_fields())) + 1.0 for name in ("small", "große")}
    return known.to_bytes()


def _fields() -> tuple[str, ...]:
    from bandit_router.predictions import _FIELDS

    return _FIELDS


BYTES: dict[str, tuple[Read, list[bytes]]] = {
    "evidence": (
        evidence_from_bytes,
        [evidence_to_bytes({"small": _evidence(None), "große": _evidence(60.0)})],
    ),
    "one model's evidence": (
        Evidence.from_bytes,
        [_evidence(None).to_bytes(), _evidence(9.0).to_bytes()],
    ),
    "predictions": (Predictions.from_bytes, [_predictions()]),
    "deltas": (
        lambda data: list(deltas_from_bytes(data)),
        [delta_to_bytes(Delta(key=3, model="small", observation=_observation(2.0))) * 2],
    ),
    "fitted features": (FittedFeatures.from_bytes, [_fitted()]),
    "JSON": (read_json, [b'{"prompt": "hi", "tags": {"a": "b"}, "x": [1, 2.5e3, null, true]}']),
}


@st.composite
def mutated(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """Bytes that were ours, cut, doubled, flipped, or with lengths that are not theirs."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "double", "length", "end"]))
        if kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif kind == "length":
            size, form = draw(st.sampled_from([(2, "<H"), (4, "<I"), (8, "<Q"), (8, "<d")]))
            number = draw(st.sampled_from([0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            top = 256**size - 1
            data[at : at + size] = struct.pack(form, float(number) if form == "<d" else min(number, top))
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name: str) -> None:
    read, valid = BYTES[name]
    for data in valid:
        read(data)

    @fuzzed
    @given(st.one_of(mutated(valid), st.binary(max_size=200)))
    def check(data: bytes) -> None:
        survives(read, data)

    check()


@fuzzed
@given(mutated([delta_to_bytes(Delta(key=3, model="small", observation=_observation(2.0)))[14:]]))
def test_deltas_whose_checksum_is_right(body: bytes) -> None:
    frame = struct.pack("<4sHII", b"BRDL", 1, len(body), zlib.crc32(body)) + body
    survives(lambda data: list(deltas_from_bytes(data)), frame)


def test_fitted_features_whose_checksum_is_right() -> None:
    from bandit_router.features.fitted import _HEADER

    size, valid = _HEADER.size, _fitted()

    @fuzzed
    @given(mutated([valid[:size] + valid[size + 32 :]]))
    def check(data: bytes) -> None:
        sealed = data[:size] + hashlib.sha256(data).digest() + data[size:]
        survives(FittedFeatures.from_bytes, sealed)

    check()


@pytest.mark.parametrize("name", BYTES)
def test_lengths_that_are_lies_take_no_memory(name: str) -> None:
    read, valid = BYTES[name]
    places = range(min(len(valid[0]), 120))
    for number in (2**31 - 1, 2**31, 2**32 - 1):
        for at in places:
            data = bytearray(valid[0])
            data[at : at + 4] = struct.pack("<I", number)
            tracemalloc.start()
            try:
                survives(read, bytes(data))
                assert tracemalloc.get_traced_memory()[1] < HUGE_BYTES
            finally:
                tracemalloc.stop()


# -- texts ----------------------------------------------------------------------------------------

ODD = st.characters(codec=None)  # lone surrogates too
TEXTS: dict[str, tuple[Read, list[str]]] = {
    "policy": (
        policy_from_spec,
        ["thompson", "linucb:alpha=0.5", "igw:gamma=100", "egreedy:epsilon=0.05", "greedy", "uniform"],
    ),
    "features": (features_from_spec, ["hashed", "hashed:buckets=128", "vectors:dim=26", "fitted:x"]),
    "grade": (Rubric().read, ['{"grade": 4}', '```json\n{"grade": 4.5, "reason": "fine"}\n```']),
    "Retry-After": (lambda text: wait_of(text, 0.0), ["2.5", "Thu, 01 Jan 1970 00:01:00 GMT"]),
    "token": (
        lambda text: read_token(text, [b"secret"], now=0.0),
        [Token(decision_id=new_id(), ends=2**40, user="ann").sign(b"secret")],
    ),
}


@st.composite
def garbled(draw: st.DrawFn, valid: list[str]) -> str:
    """A text that was ours, with some of it changed."""
    text = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 3))):
        at, end = (draw(st.integers(0, len(text))) for _ in range(2))
        odd = st.sampled_from(["=", ":", ",", "nan", "1e999", "9" * 5_000, "-", "\0", "[" * 3_000, "{"])
        text = text[:at] + draw(st.text(ODD, max_size=8) | odd | st.just(text)) + text[max(at, end) :]
    return text[:100_000]


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str) -> None:
    read, valid = TEXTS[name]

    @fuzzed
    @given(garbled(valid) | st.text(ODD, max_size=100))
    def check(text: str) -> None:
        survives(read, text)

    check()


def test_tokens_whose_signature_is_right() -> None:
    from feedback.tokens import _encode, _signature

    @fuzzed
    @given(st.binary(max_size=300))
    def check(payload: bytes) -> None:
        said = _encode(payload)
        survives(TEXTS["token"][0], f"brt1.{said}.{_signature(b'secret', said)}")

    check()


# -- values as JSON and TOML have them ------------------------------------------------------------

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(ODD, max_size=12)
    | st.sampled_from(["", "h:", 10**400, -1, 0, 2**63, 1e308, "nan", "memory://", "\0"])
)
ANY = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(ODD, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
SETTINGS = Settings().to_json()
JUDGE = {"url": "https://api.example/v1", "model": "m", "share": 0.5, "options": {"temperature": 0}}
WORD = {"source": "ann", "key": "k", "comment": "c", "at": "2026-01-01T00:00:00Z", "conversation": None}
CHOICE = {"models": ["a"], "max_cost_usd": 1.0, "max_tokens": 5, "user": "u", "conversation": "c"}
CHOICE |= {"tags": {"a": "b"}, "key": "k", "features": [1.0, 2.0]}
MODEL = {"name": "m", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0, "context_tokens": 5}


def _word(options: dict[str, Any]) -> object:
    given = {name: options[name] for name in options if name != "value"}
    return read_word("d", "rating", options.get("value", 0.5), given, metrics=METRICS, now=2e9)


VALUES: dict[str, tuple[Read, dict[str, Any]]] = {
    "settings": (Settings.from_json, SETTINGS),
    "model": (model_from_json, MODEL),
    "judge": (judge_settings_from_json, JUDGE),
    "feedback": (_word, WORD | {"value": 0.5}),
    "choice": (lambda options: read_request("hi", options), CHOICE),
    "messages": (
        lambda body: Prompt.of(body["messages"]),
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    ),
}


@st.composite
def bent(draw: st.DrawFn, valid: dict[str, Any]) -> dict[str, Any]:
    """An object that was ours, with some of its entries changed."""
    body = dict(valid)
    for _ in range(draw(st.integers(1, 3))):
        body[draw(st.sampled_from(sorted(body)) | st.text(max_size=5))] = draw(ANY)
    return body


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    read, valid = VALUES[name]
    read(valid)

    @fuzzed
    @given(bent(valid))
    def check(body: dict[str, Any]) -> None:
        survives(read, body)

    check()


FILE = """
log = "sqlite://"
store = "memory://"
[settings]
policy = "thompson"
half_life_s = 5
[settings.preference]
price_weight = 0.3
[service]
port = 80
cors = ["https://a.example"]
[limits]
user_per_minute = 5
[privacy]
user_key_env = "HOME"
[judge]
url = "https://api.example/v1"
[[models]]
name = "small"
input_usd_per_mtok = 0.15
"""


def test_config_files_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "router.toml"
    names = st.sampled_from(
        ["LOG", "POLICY", "PORT", "CORS", "KEY_BURST", "USER_KEY_FILE", "METRICS", "X"]
    )
    variables = st.dictionaries(names, garbled(["1", "[1]", "{a = 1}", "linucb:alpha=2"]), max_size=2)
    everything = {"HOME": "0123456789abcdef"}

    @fuzzed
    @given(garbled([FILE]) | st.text(ODD, max_size=40), variables)
    def check(text: str, said: dict[str, str]) -> None:
        file.write_text(text, "utf-8", errors="surrogatepass")
        environ = everything | {f"BANDIT_ROUTER_{name}": value for name, value in said.items()}
        survives(lambda _: read_config(file, environ=environ), None)

    check()


# -- tables ---------------------------------------------------------------------------------------


def _tables(folder: Path) -> list[Path]:
    table = Table(
        name="t",
        prompt_ids=("a", "b", "c"),
        prompts=("hi", "wie geht's?", "2 + 2"),
        models=(Model("m0", output_usd_per_mtok=1.0), Model("m1")),
        quality=np.array([[0.5, 1.0], [0.25, 0.0], [1.0, 1.0]]),
        cost_usd=np.array([[1e-4, 1e-3], [1e-4, 2e-3], [2e-4, 1e-3]]),
    )
    paths = [folder / "t.parquet", folder / "t.csv"]
    for path in paths:
        write_table(table, path)
    bench = folder / "bench.csv"
    bench.write_text("sample_id,eval_name,prompt,m,m|total_cost\na,b,\"['hi', 'there']\",True,0.5\n")
    return [*paths, bench, folder / "models.json"]


def test_tables(tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in _tables(tmp_path)}

    @fuzzed
    @given(st.data())
    def check(data: st.DataObject) -> None:
        changed = data.draw(st.sampled_from(sorted(files)))
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / changed).write_bytes(data.draw(mutated([files[changed]])))
        name = "t.csv" if changed == "models.json" else changed
        survives(lambda _: read_table(tmp_path / name), None)

    check()


@fuzzed
@given(body=ANY)
def test_catalogues(tmp_path: Path, body: object) -> None:
    if not (tmp_path / "t.csv").exists():
        _tables(tmp_path)
    good = json.loads(FIRST) if isinstance(body, dict) else {}
    (tmp_path / "models.json").write_text(json.dumps(good | body if isinstance(body, dict) else body))
    survives(lambda _: read_table(tmp_path / "t.csv", pool="p"), None)


FIRST = '{"pools": {"p": ["m0"]}, "models": [{"id": "m0", "input_usd_per_mtok": 1}]}'


@pytest.mark.parametrize("text", ["[" * 100_000, '{"models": ' + "[" * 100_000, "9" * 100_000])
def test_deep_and_long_files(tmp_path: Path, text: str) -> None:
    _tables(tmp_path)
    (tmp_path / "models.json").write_text(text)
    survives(lambda _: read_table(tmp_path / "t.csv"), None)
    for toml in (f"a = {text}", f"[{'a.' * 5_000}a]", f"{'a.' * 5_000}a = 1", "a = " + "{a=" * 5_000):
        (tmp_path / "router.toml").write_text(toml)
        survives(lambda _: read_config(tmp_path / "router.toml"), None)
        survives(lambda _, said=toml: read_config(environ={"BANDIT_ROUTER_POLICY": said[4:]}), None)
    survives(Rubric().read, text)
    survives(read_json, text.encode())


# -- HTTP -----------------------------------------------------------------------------------------

CALLS = ("/v1/decisions", "/v1/outcomes", "/v1/feedback", "/v1/feedback/batch", "/v1/routers/default")
SAID = [
    b'{"prompt": "hi", "user": "u", "tags": {"a": "b"}, "max_tokens": 5, "preference": {"price_weight": 1}}',
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}',
    b'{"decision_id": "x", "input_tokens": 5, "latency_s": 0.5, "answer": "hi"}',
    b'{"decision_id": "x", "name": "thumb", "value": true, "at": "2026-01-01T00:00:00Z"}',
    b'{"items": [{"decision_id": "x", "name": "thumb", "value": true}, 5, null]}',
    b'{"policy": "thompson", "half_life_s": 5, "metrics": {"stars": {"low": 1, "high": 5}}}',
]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., httpx.Response]]:
    """Ask a service in this process, whose caller may all."""
    loop = asyncio.new_event_loop()
    app = create_app(Config(log=f"sqlite:///{tmp_path}/log.db", models=(Model("small"),)), loopback=True)
    life = app.router.lifespan_context(app)
    loop.run_until_complete(life.__aenter__())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 1))
    http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
    yield lambda *args, **options: loop.run_until_complete(http.request(*args, **options))
    loop.run_until_complete(http.aclose())
    loop.run_until_complete(life.__aexit__(None, None, None))
    loop.close()


def test_bodies_and_headers(ask: Callable[..., httpx.Response]) -> None:
    header = st.binary(max_size=60).map(lambda data: data.translate(None, b"\r\n\0"))
    bearer = garbled([f"Bearer {Token(decision_id=new_id(), ends=2**40).sign(b's')}", "Bearer br_x"])

    @fuzzed
    @given(st.sampled_from(CALLS), mutated(SAID) | st.binary(max_size=80))
    def bodies(path: str, content: bytes) -> None:
        method = "PUT" if path.startswith("/v1/routers") else "POST"
        answer = ask(method, path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 202, 404, 409, 422), answer.text

    @fuzzed
    @given(
        header
        | bearer.map(lambda text: text.encode("utf-8", "replace")[:500].translate(None, b"\r\n\0"))
    )
    def keys(value: bytes) -> None:
        assert ask("GET", "/v1/routers", headers={b"authorization": value}).status_code in (200, 401)

    @fuzzed
    @given(
        st.sampled_from(["decisions", "routers", "users"]),
        st.text(st.characters(codec="utf-8"), max_size=30),
    )
    def paths(kind: str, name: str) -> None:
        url = httpx.URL("http://127.0.0.1", raw_path=f"/v1/{kind}/{_quoted(name)}".encode())
        answer = ask("DELETE" if kind == "users" else "GET", url)
        assert answer.status_code in (200, 307, 404, 405, 422), answer.text

    bodies(), keys(), paths()


def _quoted(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode())
