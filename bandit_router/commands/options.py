"""Options that commands share: which log, which router, which config file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from bandit_router.config import Config, read_config

Command = Callable[..., Any]  # Any: click hands over what each option is


def with_config(command: Command) -> Command:
    """Give a command ``--log``, ``--router`` and ``--config``, read into its first argument."""

    @click.option("--log", default=None, metavar="URL", help="The log, such as sqlite:///chat.db.")
    @click.option("--router", default=None, metavar="NAME", help="Which router.")
    @click.option("--config", "path", default=None, metavar="FILE", help="A TOML file.")
    @wraps(command)
    def wrapped(
        log: str | None, router: str | None, path: str | None, **options: Any
    ) -> Any:  # Any: above
        flags = {"log": log, "router": router}
        config: Config = read_config(path, environ=os.environ, flags=flags)
        return command(config, **options)

    return wrapped
