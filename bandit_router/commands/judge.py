"""``bandit-router judge``: a judge model grades a sampled share of the answers."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bandit_router.commands.options import with_config
from bandit_router.config import Config
from bandit_router.errors import SettingsError
from bandit_router.router import Router

if TYPE_CHECKING:
    from feedback.judge import Judge


@click.group()
def judge() -> None:
    """Let a judge model grade a sampled share of the answers, as the [judge] table of a config file says."""


@judge.command()
@with_config
@click.option("--once", is_flag=True, help="Grade what is due now, and end.")
def run(config: Config, *, once: bool) -> None:
    """Grade answers until interrupted; any number of these may run over one log."""
    with _judge(config) as (_, grader):
        if once:
            done = grader.run_once()
            _show(asdict(done))
            if done.put_back and not done.graded:
                where = grader.settings.url
                raise click.ClickException(f"{where} let nothing through: {done.put_back} answers wait")
            return
        leaving = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: leaving.set())
        grader.start()
        click.echo(f"{grader.settings.model} grades answers of router {config.router!r}.", err=True)
        leaving.wait()
        grader.stop()


@judge.command()
@with_config
def status(config: Config) -> None:
    """Show how many answers wait, were graded, or could not be, and what was spent today."""
    with _judge(config, keyless=True) as (_, grader):
        _show(asdict(grader.status()))


@judge.command()
@with_config
@click.option("--prompts", type=click.IntRange(1), default=20, show_default=True, help="On so many.")
@click.option(
    "--apply", is_flag=True, help="Take from the judge's weight what the constants leave of it."
)
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write it there too."
)
def probe(config: Config, *, prompts: int, apply: bool, path: Path | None) -> None:
    """Let the judge grade constant texts on prompts whose answers it has graded: it should not like them."""
    with _judge(config) as (router, grader):
        from feedback.overlaps import with_probe

        done = grader.probe(prompts=prompts)
        _show({"prompts": done.prompts, "real answers": done.real, **done.constants})
        click.echo(f"{'left of weight':16} {done.left:g}")
        if path is not None:
            path.write_text(json.dumps(asdict(done), indent=2) + "\n", "utf-8")
        if apply:
            source = grader.settings.source
            router.configure(metrics=with_probe(router.settings.metrics, source, done.left))
            click.echo(f"Applied; {router.reweigh()} rewards revised.")


@contextmanager
def _judge(config: Config, *, keyless: bool = False) -> Iterator[tuple[Router, Judge]]:
    try:
        from feedback.judge import Judge, judge_settings_from_json
    except ImportError as error:  # httpx is not installed, or this is another package called feedback
        raise click.ClickException(str(error)) from error
    if not config.judge:
        raise SettingsError("the config file has no [judge] table")
    settings = judge_settings_from_json(config.judge)
    if keyless:
        settings = replace(settings, api_key_env=None)
    with Router.open(config.log, store=config.store, name=config.router, create=False) as router:
        yield router, Judge(router, settings)


def _show(counts: dict[str, float]) -> None:
    for name, value in counts.items():
        click.echo(f"{name.replace('_', ' '):16} {value:g}")
