"""Options that commands share: which log, which router, which config file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from rich.console import Console

from bandit_router.config import Config, read_config

LOG_HELP = "The log, such as sqlite:///chat.db; by default sqlite:///bandit_router.db."
PIPE_WIDTH = 140  # characters
Command = Callable[..., Any]  # Any: click hands over what each option is


def console() -> Console:
    """Where results go: as wide as the terminal, and wide enough for a table where there is none."""
    plain = Console()
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(width=PIPE_WIDTH)


def with_config(command: Command) -> Command:
    """Give a command ``--log``, ``--router`` and ``--config``, read into its first argument."""

    @click.option("--log", default=None, metavar="URL", help=LOG_HELP)
    @click.option("--router", default=None, metavar="NAME", help='Which router; by default "default".')
    @click.option(
        "--config", "path", default=None, metavar="FILE", help="A TOML file with these and settings."
    )
    @wraps(command)
    def wrapped(
        log: str | None, router: str | None, path: str | None, **options: Any
    ) -> Any:  # Any: above
        flags = {"log": log, "router": router}
        config: Config = read_config(path, environ=os.environ, flags=flags)
        return command(config, **options)

    return wrapped
