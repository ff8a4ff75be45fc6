"""Options that commands share: which log, which router, which config file."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import click
from rich.console import Console

from bandit_router.config import Config, Service, read_config
from bandit_router.errors import SettingsError

LOG_HELP = "The log, such as sqlite:///chat.db; by default sqlite:///bandit_router.db."
PIPE_WIDTH = 140  # characters
_ENTRIES = {"store", *(entry.name for entry in fields(Service))}
Command = Callable[..., Any]  # Any: click hands over what each option is


def console() -> Console:
    """Where results go: as wide as the terminal, and wide enough for a table where there is none."""
    plain = Console()
    return plain if plain.is_terminal or "COLUMNS" in os.environ else Console(width=PIPE_WIDTH)


def with_config(command: Command) -> Command:
    """Give a command ``--log``, ``--router`` and ``--config``, read into its first argument.

    Options of the command's own that are named like an entry of the config are read into it too.
    """

    @click.option("--log", default=None, metavar="URL", help=LOG_HELP)
    @click.option("--router", default=None, metavar="NAME", help='Which router; by default "default".')
    @click.option(
        "--config",
        "config_file",
        default=None,
        metavar="FILE",
        help="A TOML file with these and settings.",
    )
    @wraps(command)
    def wrapped(
        log: str | None, router: str | None, config_file: str | None, **options: Any
    ) -> Any:  # Any: above
        own = {name: options.pop(name) for name in _ENTRIES & options.keys()}
        flags = {"log": log, "router": router, **own}
        config: Config = read_config(config_file, environ=os.environ, flags=flags)
        return command(config, **options)

    return wrapped


def check_installed(what: str, *packages: str, extras: str = "service,http") -> None:
    """See that optional packages are there.

    Raises
    ------
    SettingsError
        Some are not; the message says how to get them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        how = f"pip install 'bandit-router[{extras}]'"
        raise SettingsError(f"{what}: {', '.join(missing)} must be installed: {how}")
