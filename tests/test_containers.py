"""compose.yaml and Dockerfile: what they say fits together, and their commands run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml
from conftest import obtained

from bandit_router.config import read_config
from bandit_router.doctor.store import judged
from simulations.chaos.programs import find_redis
from simulations.chaos.servers import RedisServer, running

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES: dict[str, Any] = COMPOSE["services"]
PACKAGES = ("bandit_router", "feedback", "simulations", "migrations")


def test_services_refer_to_what_there_is() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[needed]["healthcheck"]
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_the_router_is_published_to_this_machine_alone_and_has_time_to_drain() -> None:
    router = SERVICES["router"]
    assert all(port.startswith("127.0.0.1:") for port in router["ports"])
    environ = router["environment"]
    drain_s = read_config(environ=environ).service.drain_s
    assert int(router["stop_grace_period"].removesuffix("s")) > drain_s


def test_the_image_is_built_from_what_it_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"(?:\.|bandit-router)\[(.+?)\]", DOCKERFILE):
        assert set(named.split(",")) <= extras.keys()
    assert "USER 10001" in DOCKERFILE


def test_the_image_is_made_with_care() -> None:
    for image in (*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE), *_images()):
        assert re.search(r":\d+\.\d+", image), f"{image} is not pinned"
    *_, last = DOCKERFILE.split("\nFROM ")
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == ["10001"]
    assert last.index("\nUSER") < last.index("\nENTRYPOINT")
    for refused in ("ADD ", "sudo", "apt-get", "curl ", ":latest"):
        assert refused not in DOCKERFILE
    assert all("--no-cache-dir" in line for line in re.findall(r"pip (?:install|wheel).*", DOCKERFILE))
    for refused in ("KEY", "SECRET", "PASSWORD", "TOKEN"):
        assert not re.search(rf"^(ENV|ARG) .*{refused}", DOCKERFILE, re.MULTILINE)
    first, *kept = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"  # nothing but what is named: no .env, no log, no key
    named = ["pyproject.toml", "README.md", "LICENSE", *PACKAGES]
    assert kept == [f"!{name}" for name in named] + ["**/__pycache__"]


def _images() -> list[str]:
    return [service["image"] for service in SERVICES.values() if "build" not in service]


def test_a_root_that_is_read_only_has_a_place_for_the_journal() -> None:
    (volume,) = re.findall(r"^VOLUME (\S+)", DOCKERFILE, re.MULTILINE)
    environ = dict(re.findall(r"(BANDIT_ROUTER_\w+)=(\S+)", DOCKERFILE))
    journal = Path(read_config(environ=environ).journal or "")
    router = SERVICES["router"]
    assert router["read_only"]
    assert f"journal:{volume}" in router["volumes"]
    assert journal.is_relative_to(volume)
    assert router["cap_drop"] == ["ALL"]
    assert "/tmp" in router["tmpfs"]  # where workers keep their counts


def test_redis_is_set_up_as_the_doctor_wants_it() -> None:
    command = SERVICES["redis"]["command"]
    assert command[0] == "redis-server"
    obtained(find_redis)
    with running(RedisServer, *command[1:]) as server, server.client() as client:
        found = list(judged(client.info()))
    assert {finding.state for finding in found} == {"ok"}
    assert "append-only file" in [f.message for f in found if f.check == "store persistence"]
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def run(service: str, config: Path, *instead: str) -> list[str]:
    """The command of a service, as it stands, for this machine."""
    entrypoint = SERVICES[service].get("entrypoint") or _words("ENTRYPOINT")
    words = [*entrypoint, *(instead or SERVICES[service]["command"])]
    assert words[0] == "bandit-router"
    words = [str(config) if word == "/etc/bandit-router.toml" else word for word in words]
    return [sys.executable, "-m", "bandit_router", *words[1:]]


def _words(instruction: str) -> list[str]:
    found = re.search(rf"^{instruction} (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    words: list[str] = json.loads(found[1])
    return words


def test_the_commands_run_as_they_stand(tmp_path: Path, empty_postgres_url: str, redis_url: str) -> None:
    config = tmp_path / "router.toml"
    config.write_text(COMPOSE["configs"]["router"]["content"])
    said = re.findall(r"(BANDIT_ROUTER_\w+)=(\S+)", DOCKERFILE)
    environ = {**os.environ, **dict(said), **SERVICES["router"]["environment"]}
    environ |= {"BANDIT_ROUTER_LOG": empty_postgres_url, "BANDIT_ROUTER_STORE": redis_url}
    assert environ["BANDIT_ROUTER_PORT"] == "8080"
    environ["BANDIT_ROUTER_PORT"] = "0"

    def done(service: str, *instead: str) -> str:
        command = run(service, config, *instead)
        made = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    assert "has schema" in done("migrate")
    key_line = next(line for line in _comments() if " run --rm keys " in line)
    key = done("keys", *shlex.split(key_line.partition(" run --rm keys ")[2])).splitlines()[-1]
    command = run("router", config)
    with ExitStack() as ended:
        stderr = ended.enter_context((tmp_path / "stderr").open("w"))
        serving = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        ended.enter_context(serving)
        ended.callback(serving.terminate)
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert "(2 workers); every call needs a key" in line
        port = re.findall(r":(\d+) ", line)[0]
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            chosen = client.post("/v1/decisions", json={"prompt": "Explain quantum computing"})
            assert chosen.json()["model"] in ("small", "large"), chosen.text
            word = {"decision_id": chosen.json()["id"], "name": "thumb", "value": True}
            assert client.post("/v1/feedback", json=word).status_code == 200
        assert "0 problems" in done("doctor")
        check = _words(r"HEALTHCHECK .+ CMD")
        assert check[:2] == ["python", "-c"]
        subprocess.run([sys.executable, "-c", check[2].replace("8080", port)], check=True)
    assert serving.returncode == 0
    said = [json.loads(line) for line in (tmp_path / "stderr").read_text().splitlines()]
    routes = [line["route"] for line in said if line["logger"] == "bandit_router.access"]
    assert routes == ["/v1/decisions", "/v1/feedback", "/healthz"]


def _comments() -> list[str]:
    return [line for line in (ROOT / "compose.yaml").read_text().splitlines() if line.startswith("#")]
