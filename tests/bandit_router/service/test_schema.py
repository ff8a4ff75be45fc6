"""What the OpenAPI schema allows, and what it does not, sent to a real server: no 5xx, nothing undocumented."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from bandit_router import EventLog, Model
from bandit_router.config import Config
from bandit_router.log.keys import add_key, new_key
from bandit_router.log.writer import committed
from bandit_router.service.app import create_app

CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_headers_conformance, response_schema_conformance, ignored_auth),
]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The header of a key that may all."""
    return {"Authorization": f"Bearer {new_key()}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, header: dict[str, str]) -> Iterator[str]:
    """The address of a service."""
    log_url = f"sqlite:///{Path(tmp_path_factory.mktemp('schema')) / 'chat.db'}"
    with EventLog.open(log_url) as log:
        key = header["Authorization"].removeprefix("Bearer ")
        committed(log.write(lambda c: add_key(c, key, name="schema", scopes=["admin"], now=time.time())))
    app = create_app(Config(log=log_url, models=(Model("small"), Model("large"))))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def api(served: str, header: dict[str, str]) -> OpenApiSchema:
    """Its schema."""
    return schemathesis.openapi.from_url(f"{served}/openapi.json", headers=header)


# schemathesis's own `parametrize` does not run under this pytest: its cases are asked for one by one.
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_documented(
    api: OpenApiSchema, header: dict[str, str], mode: GenerationMode
) -> None:
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            case.call_and_validate(checks=CHECKS, headers=header)

        with contextlib.suppress(Unsatisfiable):  # an operation that takes nothing has no wrong request
            check()
