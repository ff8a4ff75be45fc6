"""``bandit-router doctor``: what is wrong, and what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from bandit_router.commands.options import LOG_HELP
from bandit_router.config import read_config
from bandit_router.doctor import Finding, diagnose
from bandit_router.doctor.finding import problem
from bandit_router.errors import BanditRouterError

_COLORS = {"ok": "green", "warning": "yellow", "problem": "red", "unseen": "blue"}


@click.command()
@click.option("--log", default=None, metavar="URL", help=LOG_HELP)
@click.option(
    "--store", default=None, metavar="URL", help="Where workers share beliefs; by default memory://."
)
@click.option("--router", default=None, metavar="NAME", help="Only this router; by default all.")
@click.option(
    "--config",
    "config_file",
    default=None,
    metavar="FILE",
    help="A TOML file with these and settings.",
)
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write it there too."
)
def doctor(
    log: str | None, store: str | None, router: str | None, config_file: str | None, path: Path | None
) -> None:
    """Look at config, log, store, keys and models, and whether the loop learns.

    It changes nothing and may run beside a service. It ends with 1 where there is a problem, and with 0 where
    all is well or there are only warnings.
    """
    found = []
    for finding in _look(config_file, {"log": log, "store": store, "router": router}):
        _say(finding)
        found.append(finding)
    well = not any(finding.state == "problem" for finding in found)
    if path is not None:
        body = {"ok": well, "checks": [asdict(finding) for finding in found]}
        path.write_text(json.dumps(body, indent=2) + "\n", "utf-8")
    click.echo(_summary(found))
    sys.exit(0 if well else 1)


def _look(config_file: str | None, flags: dict[str, str | None]) -> Iterable[Finding]:
    try:
        config = read_config(config_file, environ=os.environ, flags=flags)
    except BanditRouterError as error:
        return [problem("config", str(error))]
    return diagnose(config, router=flags["router"])


def _say(finding: Finding) -> None:
    state = click.style(f"{finding.state:8}", fg=_COLORS[finding.state])
    whose = "" if finding.router is None else f" {finding.router}"
    click.echo(f"{state} {finding.check}{whose}: {finding.message}")


def _summary(found: Sequence[Finding]) -> str:
    counts = {state: sum(finding.state == state for finding in found) for state in _COLORS}
    return (
        f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} checks are well, "
        f"{counts['unseen']} could not be looked at."
    )
