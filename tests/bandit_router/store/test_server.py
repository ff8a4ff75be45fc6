"""Server: finds out what it talks to, keeps its time limit, and never tells a password."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster

from bandit_router.errors import ClosedError, FormatError, SettingsError, StoreUnavailableError
from bandit_router.store import open_store
from bandit_router.store import server as serving
from bandit_router.store.lua import Script
from bandit_router.store.server import REST_S, SLOW_CALLS, Server
from simulations.chaos.proxy import CLEAR, CUT, HALF_OPEN, Link, Weather, linked
from simulations.chaos.servers import RedisServer, running

Open = Callable[[str], Server]
ECHO = Script.of("return {h.position or 'none', ARGV[1]}")
KEYS = ("{a}:head", "{a}:stream", "{a}:keys", "{a}:snapshot", "{a}:lease")


@pytest.fixture
def connect() -> Iterator[Open]:
    """Open servers; they are closed at the end."""
    opened: list[Server] = []

    def connect_(url: str) -> Server:
        opened.append(Server(url))
        return opened[-1]

    yield connect_
    for server in opened:
        server.close()


def test_a_script_runs_before_and_after_servers_forget_it(redis_url: str, connect: Open) -> None:
    server = connect(redis_url)
    assert server.run(ECHO, KEYS, "one") == [b"none", b"one"]
    server.ask(lambda client: client.script_flush())
    assert server.run(ECHO, KEYS, b"two") == [b"none", b"two"]


def test_a_cluster_is_recognised(redis_cluster_url: str, redis_url: str, connect: Open) -> None:
    assert connect(redis_cluster_url).ask(type) is RedisCluster
    assert connect(redis_url).ask(type) is redis.Redis
    assert connect(redis_cluster_url).run(ECHO, KEYS, "one") == [b"none", b"one"]


def test_a_cluster_is_followed_where_its_slots_move(redis_cluster_url: str, connect: Open) -> None:
    server = connect(redis_cluster_url)
    server.run(ECHO, KEYS, "one")
    with RedisCluster.from_url(redis_cluster_url) as cluster:
        slot = cluster.keyslot("{a}:head")
        old = cluster.get_node_from_key("{a}:head")
        new = next(node for node in cluster.get_primaries() if node != old)
        ids = {node.port: node.redis_connection.cluster("MYID") for node in (old, new)}
        try:
            for node in (new, old):
                node.redis_connection.execute_command(
                    f"CLUSTER SETSLOT {slot} NODE {ids[new.port].decode()}"
                )
            assert server.run(ECHO, KEYS, "two") == [b"none", b"two"]
        finally:
            for node in (old, new):
                node.redis_connection.execute_command(
                    f"CLUSTER SETSLOT {slot} NODE {ids[old.port].decode()}"
                )
    assert server.run(ECHO, KEYS, "three") == [b"none", b"three"]


def test_a_server_may_come_later_and_again(own_redis: RedisServer, connect: Open) -> None:
    own_redis.stop()
    server = connect(own_redis.url)
    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{own_redis.port}"):
        server.run(ECHO, KEYS, "one")
    own_redis.start()
    time.sleep(REST_S)
    assert server.run(ECHO, KEYS, "one") == [b"none", b"one"]
    own_redis.kill()
    own_redis.start()
    assert server.run(ECHO, KEYS, "two") == [b"none", b"two"]  # at once, on a fresh connection


def test_who_accepts_and_never_answers_costs_no_more_than_the_limit(connect: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = connect(f"redis://:hunter2@127.0.0.1:{silent.getsockname()[1]}/0?timeout=0.3")
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailableError) as caught:
                server.run(ECHO, KEYS, "one")
            assert time.monotonic() - begun < 2.0
            assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_who_stops_answering_costs_no_more_than_the_limit(own_redis: RedisServer, connect: Open) -> None:
    server = connect(f"{own_redis.url}?timeout=0.3")
    server.run(ECHO, KEYS, "one")
    own_redis.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        server.run(ECHO, KEYS, "two")
    took = time.monotonic() - begun
    own_redis.process.send_signal(signal.SIGCONT)
    assert took < 5.0  # on a busy machine; else it would be for ever
    time.sleep(REST_S)
    assert server.run(ECHO, KEYS, "three") == [b"none", b"three"]  # and not the answer to the second


def test_who_did_not_answer_is_not_asked_again_for_a_moment(
    connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REST_S", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0?timeout=0.3")
        assert server.trouble is None
        with pytest.raises(StoreUnavailableError) as first:
            server.run(ECHO, KEYS, "one")
        begun = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailableError) as refused:
                server.run(ECHO, KEYS, "one")
        assert time.monotonic() - begun < 1.5
        assert str(refused.value) == str(first.value)  # so that it is told once
        assert server.trouble is not None
        time.sleep(1.5)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError):  # one call tries
            server.run(ECHO, KEYS, "one")
        assert time.monotonic() - begun > 0.25


REFUSALS = {
    "out of memory": ("maxmemory", "1"),
    "loading, or any other refusal": ("requirepass", "secret"),
    "a replica": ("slave-read-only", "yes"),
    "full of clients": ("maxclients", "1"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_whoever_refuses_is_away_until_he_does_not(
    own_redis: RedisServer, connect: Open, refusal: str
) -> None:
    server, writes = connect(own_redis.url), Script.of("redis.call('SET', lease, 'x') return {'done'}")
    setting, value = REFUSALS[refusal]
    with own_redis.client() as client:
        before = client.config_get(setting)[setting]
        client.config_set(setting, value)
        if refusal == "a replica":
            client.replicaof("127.0.0.1", own_redis.port + 1)
        with pytest.raises(StoreUnavailableError) as caught:
            server.run(writes, KEYS)
        assert server.trouble
        assert server.trouble in str(caught.value)
        client.replicaof("no", "one")
        client.config_set(setting, before)
    time.sleep(REST_S)
    assert server.run(writes, KEYS) == [b"done"]
    assert server.trouble is None


@pytest.fixture
def link(own_redis: RedisServer) -> Iterator[Link]:
    """A way to a Redis, whose weather may turn bad."""
    link = Link(own_redis.port, seed=1)
    with linked(link):
        yield link


def turn(link: Link, weather: Weather) -> None:
    """Change the weather, and wait until it is so."""
    link.turn(weather)
    while link.weather != weather:
        time.sleep(0.005)


def test_whoever_is_slow_again_and_again_is_left_alone_but_by_the_patient(
    link: Link, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REST_S", 1.0)
    url = f"redis://127.0.0.1:{link.port}/0?timeout=5&slow=0.05"
    hasty, patient = connect(url), Server(url, patient=True)
    for server in (hasty, patient):
        server.run(ECHO, KEYS, "one")
        assert server.trouble is None
    turn(link, Weather(delay_s=0.15, spread=0.0))  # there and back it is slow, by far
    for server in (hasty, patient):
        for _ in range(SLOW_CALLS):
            assert server.trouble is None
            assert server.run(ECHO, KEYS, "slow") == [b"none", b"slow"]  # an answer all the same
        assert "took" in str(server.trouble)
        if server is hasty:
            with pytest.raises(StoreUnavailableError, match="took"):
                server.run(ECHO, KEYS, "two")
    assert patient.run(ECHO, KEYS, "two") == [b"none", b"two"]
    turn(link, CLEAR)
    time.sleep(1.0)
    for server in (hasty, patient):
        assert server.run(ECHO, KEYS, "three") == [b"none", b"three"]
        assert server.trouble is None
    patient.close()


def test_waiting_on_purpose_is_not_slow(own_redis: RedisServer, connect: Open) -> None:
    server = connect(f"{own_redis.url}?timeout=0.3&slow=0.1")
    for _ in range(SLOW_CALLS + 1):
        server.ask(lambda client: client.xread({"{a}:stream": "0-0"}, block=60), blocking=True)
    assert server.trouble is None


@pytest.mark.parametrize("weather", [CUT, HALF_OPEN], ids=["cut", "half-open"])
def test_a_link_that_breaks_costs_one_time_limit_and_heals(
    link: Link, connect: Open, weather: Weather
) -> None:
    server = connect(f"redis://127.0.0.1:{link.port}/0?timeout=0.3")
    server.run(ECHO, KEYS, "one")
    turn(link, weather)
    begun = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailableError):
            server.run(ECHO, KEYS, "two")
    assert time.monotonic() - begun < 3.0  # and not twenty time limits
    turn(link, CLEAR)
    time.sleep(REST_S)
    assert server.run(ECHO, KEYS, "three") == [b"none", b"three"]


def test_it_tells_how_far_a_clock_is_ahead(own_redis: RedisServer, connect: Open) -> None:
    server = connect(own_redis.url)
    server.run(ECHO, KEYS, "one")
    assert abs(server.skew_s()) < 5
    assert abs(server.skew_s(lambda: time.time() + 600) - 600) < 5


def test_a_password_is_used_and_never_told(connect: Open) -> None:
    with running(RedisServer, "--user", "default", "on", "nopass", "~*", "+@all", "--user", "u", "on",
                 ">hun+ter/2", "~*", "+@all") as protected:  # fmt: skip
        at = f"127.0.0.1:{protected.port}/0"
        assert connect(f"redis://u:hun+ter%2F2@{at}").run(ECHO, KEYS, "one") == [b"none", b"one"]
        wrong = connect(f"redis://u:hunter3@{at}")
        with pytest.raises(StoreUnavailableError, match=r"redis://u:\*\*\*@") as caught:
            wrong.run(ECHO, KEYS, "one")
        assert "hunter3" not in "".join(traceback.format_exception(caught.value))
        assert "hunter3" not in wrong.address


def test_a_socket_file_will_do(tmp_path: Path, connect: Open) -> None:
    with running(RedisServer, "--unixsocket", str(tmp_path / "redis.sock")):
        server = connect(f"unix://{tmp_path}/redis.sock?db=1")
        assert server.run(ECHO, KEYS, "one") == [b"none", b"one"]


def test_what_the_server_refuses_is_not_an_answer(own_redis: RedisServer, connect: Open) -> None:
    server = connect(own_redis.url)
    server.run(ECHO, KEYS, "one")
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailableError, match=r"OOM|memory"):
            server.run(Script.of("redis.call('SET', lease, 'x') return {'done'}"), KEYS)
        client.config_set("maxmemory", "0")
        client.set("{a}:stream", "a string")
    time.sleep(REST_S)
    with pytest.raises(FormatError, match="WRONGTYPE"):
        server.run(Script.of("return {redis.call('XLEN', stream)}"), KEYS)
    assert server.trouble is None  # it did answer


def test_a_closed_server_answers_no_more(redis_url: str, connect: Open) -> None:
    server = connect(redis_url)
    server.run(ECHO, KEYS, "one")
    server.close()
    server.close()
    with pytest.raises(ClosedError, match="was closed"):
        server.run(ECHO, KEYS, "two")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_fork_leaves_the_connections_of_its_parent_alone(redis_url: str) -> None:
    program = f"""
import os, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_server import ECHO, KEYS, Server
server = Server(sys.argv[1])
server.run(ECHO, KEYS, "before")
pid = os.fork()
for i in range(300):
    assert server.run(ECHO, KEYS, f"{{pid}} {{i}}") == [b"none", f"{{pid}} {{i}}".encode()]
server.close()
if pid:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os._exit(0)
"""
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    run = subprocess.run(
        [sys.executable, "-c", program, redis_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis:",
        "redis://:hunter2@localhost:port/0",
        "redis://:hunt#er2@localhost/0",
        "redis://:hunter2@localhost/0?timeout=0",
        "redis://:hunter2@localhost/0?timeout=soon",
        "redis://:hunter2@localhost/0?timeout=nan",
        "redis://:hunter2@localhost/0?slow=0",
        "redis://:hunter2@localhost/0?slow=2",
        "redis://:hunter2@localhost/0?db=none",
        "redis://:hunter2@localhost/zero",
        "redis://:hunter2@localhost/0?password=hunter2",
        "redis://:hunter2@localhost/0?decode_responses=true",
        "redis://:hunter2@localhost/0?ssl_colour=hunter2",
        "redis://:hunter2@[localhost/0",
        "unix://",
    ],
)
def test_a_bad_url_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(SettingsError, match="expected redis://") as caught:
        Server(url)
    assert "hunt" not in "".join(traceback.format_exception(caught.value)).replace("hunter2@", "")


def test_without_the_driver_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from bandit_router.store import open_store\n"
        "open_store('memory://')\n"
        "try: open_store('redis://localhost')\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'bandit-router[redis]'" in run.stdout


def test_a_store_in_memory_does_not_load_the_driver() -> None:
    program = (
        "import bandit_router.store as s, sys; s.open_store('memory://'); print('redis' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    assert (
        repr(open_store("redis://me:secret@host:1/2"))
        == "RedisStore.from_url('redis://me:***@host:1/2')"
    )
