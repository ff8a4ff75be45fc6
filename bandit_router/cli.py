"""The command line: ``bandit-router`` and ``python -m bandit_router``."""

from __future__ import annotations

import importlib
import sys

import click

from bandit_router.errors import BanditRouterError

COMMANDS = {
    "demo": "Play the whole loop on a small world.",
    "serve": "Serve the router over HTTP, with many workers.",
    "simulate": "Let policies live through a full-information table.",
    "evaluate": "The field's protocols on a full-information table.",
    "calibrate": "The price weight for a share of strong calls, or for a drop in quality.",
    "replay": "What other policies would have earned, by the log.",
    "tune": "Search exploration settings on a log or a table.",
    "export": "Write a period of the log to Parquet.",
    "compare": "Our defaults beside published bandits, on the same orders.",
    "migrate": "Bring a log's schema up to date.",
    "models": "Show, add, change or retire a router's models.",
    "keys": "Make, show or revoke the keys of the service.",
    "doctor": "Look at all that a service needs, and say what is wrong.",
    "prior": "Import what is known of models before any feedback.",
    "rebuild": "Fold a router's beliefs again from its log.",
    "retention": "Archive old decisions to files; erase users from these.",
    "bench": "Measure speed beside floors and peers.",
    "chaos": "Inject faults, and prove that nothing is lost and nothing doubled.",
    "judge": "Let a judge model grade a sampled share of the answers.",
    "trust": "Learn how far users and judges are to be believed.",
}


class _Lazy(click.Group):
    """Commands that are imported when they are called: `--help` needs none of their libraries."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bandit_router.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bandit-router", prog_name="bandit-router")
def cli() -> None:
    """Pick a language model for every request, and learn from what users and judges say."""


def main() -> None:
    """Run the command line; what the router refuses, or the system, becomes one line and exit code 1."""
    try:
        cli()
    except (BanditRouterError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
