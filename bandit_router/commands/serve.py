"""``bandit-router serve``: the service, with many workers over one log and one store."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import click
import sqlalchemy as sa

from bandit_router.commands.options import check_installed, with_config
from bandit_router.config import Config
from bandit_router.log import EventLog
from bandit_router.log.keys import read_keys
from bandit_router.opening import register
from bandit_router.store import open_store


@click.command()
@with_config
@click.option(
    "--store", default=None, metavar="URL", help="Where workers share beliefs; by default memory://."
)
@click.option("--host", default=None, help="The address to listen on; by default 127.0.0.1.")
@click.option("--port", type=int, default=None, help="By default 8080; 0 takes a free one.")
@click.option("--workers", type=int, default=None, help="Processes that serve; by default 1.")
@click.option("--drain-s", type=float, default=None, help="How long ending may take [s]; by default 10.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default=None,
    help="What the program says on stderr; by default text.",
)
def serve(config: Config) -> None:
    """Serve the router over HTTP.

    SIGTERM ends it gently, a second one at once; SIGHUP replaces its workers one after another.
    """
    check_installed("serve", "fastapi", "uvicorn", "prometheus_client")
    with tempfile.TemporaryDirectory(prefix="bandit-router-serve-") as folder:
        config, keyed = _prepared(config, Path(folder))
        sys.exit(_supervise(config, Path(folder), keyed=keyed))


def _prepared(config: Config, folder: Path) -> tuple[Config, bool]:
    """Bring the log up to date once, before workers open it; return its place, and whether there are keys.

    Raises
    ------
    SettingsError, LogUnavailableError, LogVersionError
        Said here once, instead of by every worker.
    """
    open_store(config.store).close()
    _check_tables(config)
    place = _kept(config.log, folder)
    with EventLog.open(place) as log:
        now = time.time()
        models, settings = config.models, config.settings
        found = register(log, config.router, models, settings, apply=False, create=True, now=now)
        if not found.models:
            known = "give them in --config, or by `bandit-router models put`"
            click.secho(f"Router {config.router!r} has no models yet: {known}.", fg="red", err=True)
        keyed = any(key.valid(now) for key in log.read(read_keys))
        return replace(config, log=log.url), keyed


def _check_tables(config: Config) -> None:
    """Read what only workers heed."""
    from bandit_router.service.tracing import check_tracing
    from feedback.thresholds import thresholds_from_json

    thresholds_from_json(config.alarms)
    check_tracing(config.tracing)
    if config.judge:
        from feedback.judge import find_api_key, judge_settings_from_json

        find_api_key(judge_settings_from_json(config.judge), os.environ)


def _kept(log: str, folder: Path) -> str:
    """The log's URL; one in memory is kept in a file, so that workers share it."""
    try:
        url = sa.make_url(log)
    except sa.exc.ArgumentError:
        return log  # said better by `EventLog.open`
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return url.set(database=str(folder / "log.db")).render_as_string(hide_password=False)
    return log


def _supervise(config: Config, folder: Path, *, keyed: bool) -> int:
    from prometheus_client.multiprocess import mark_process_dead

    from bandit_router.service.logs import log_to_stderr
    from bandit_router.service.serving import listen, work
    from bandit_router.service.workers import Supervisor

    log_to_stderr(config.service.log_format)
    listener = listen(config.service)
    metrics = folder / "metrics"
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # for the workers, which inherit it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads make small products slower
    host, port = listener.getsockname()[:2]
    loopback = is_loopback(host)
    supervisor = Supervisor(
        work,
        (config, loopback, listener),
        workers=config.service.workers,
        drain_s=config.service.drain_s,
        ready=lambda: _say_ready(config, host, port, keyed=keyed),
        stopping=listener.close,
        buried=lambda pid: mark_process_dead(pid, str(metrics)),  # type: ignore[no-untyped-call]  # as it is
    )
    with listener:
        return supervisor.run()


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return ip_address(address.partition("%")[0]).is_loopback


def _say_ready(config: Config, host: str, port: int, *, keyed: bool) -> None:
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    workers, loopback = config.service.workers, is_loopback(host)
    keys = "every call needs a key" if keyed or not loopback else "no key is needed from this machine"
    click.echo(f"Listening on {where} ({workers} worker{'s'[: workers > 1]}); {keys}.")
    if not keyed and not loopback:
        loud = (
            "There is no key yet: every call is refused until `bandit-router keys create` has made one."
        )
        click.secho(loud, fg="red", bold=True, err=True)
