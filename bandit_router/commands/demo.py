"""``bandit-router demo``: the whole loop on a small world, live on the terminal."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bandit_router.commands.options import check_installed, console
from bandit_router.errors import BanditRouterError
from bandit_router.policies import Greedy
from bandit_router.preference import Preference
from bandit_router.router import Router
from bandit_router.settings import model_to_json
from bandit_router.values import check_amount
from simulations.demo import Demo, Played, Way, off_policy_value
from simulations.estimators import Estimate
from simulations.worlds import World, small_world

if TYPE_CHECKING:
    from simulations.remote import Remote

REFRESH_S = 0.25


def _amount(_: click.Context, __: click.Parameter, value: float) -> float:
    try:
        return check_amount("price weight", value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=50), default=3_000, show_default=True, help="How many."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the world.")
@click.option(
    "--log", "url", default=None, help="Keep the log in this database; by default a temporary one."
)
@click.option(
    "--price-weight",
    type=float,
    callback=_amount,
    default=0.1,
    show_default=True,
    help="Reward that one cost unit, the mean cost of the dearest model, is worth.",
)
@click.option("--http", is_flag=True, help="Play through the service, over HTTP.")
@click.option("--serve", is_flag=True, help="Leave the service up afterwards, until Ctrl-C.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Of the service."
)
def demo(
    requests: int,
    seed: int,
    url: str | None,
    price_weight: float,
    *,
    http: bool,
    serve: bool,
    workers: int,
) -> None:
    """Play a few thousand users of a small, made-up world through the router."""
    terminal = console()
    world = small_world(seed)
    with tempfile.TemporaryDirectory(prefix="bandit-router-demo-") as folder:
        place = url or f"sqlite:///{Path(folder) / 'demo.db'}"
        name = f"demo-{int(time.time())}" if url else "demo"
        settings = Preference(price_weight=price_weight)

        def report(router: Router | Remote) -> None:
            played = _watch(terminal, Demo(router, world, seed=seed), requests)
            _summary(terminal, played, price_weight)
            _off_policy(terminal, place, name, router.settings.floor)

        if http or serve:
            check_installed("demo --http", "fastapi", "uvicorn", "prometheus_client", "httpx")
            from simulations.remote import Remote

            config = _config_file(Path(folder), place, name, world, price_weight)
            with serving(config, workers=workers) as where, Remote(where, name) as remote:
                report(remote)
                _latencies(terminal, remote)
                if serve:
                    _leave_up(terminal, where, remote)
        else:
            with Router.open(place, name=name, models=world.models, preference=settings) as router:
                report(router)
        if url:
            terminal.print(f"The log is kept: bandit-router models list --log {url} --router {name}")


def _config_file(folder: Path, place: str, name: str, world: World, price_weight: float) -> Path:
    """The demo's router as a config file has it."""
    path = folder / "demo.toml"
    lines = [f"log = {json.dumps(place)}", f"router = {json.dumps(name)}"]
    lines += ["[settings.preference]", f"price_weight = {price_weight!r}"]
    for model in world.models:
        given = {key: value for key, value in model_to_json(model).items() if value is not None}
        lines += ["[[models]]", *(f"{key} = {json.dumps(value)}" for key, value in given.items())]
    path.write_text("\n".join(lines), "utf-8")
    return path


@contextmanager
def serving(config: Path, *, workers: int) -> Iterator[str]:
    """Run ``bandit-router serve`` on a free port, and yield its URL.

    Raises
    ------
    BanditRouterError
        It did not begin.
    """
    command = [sys.executable, "-m", "bandit_router", "serve", "--config", str(config)]
    options = ["--host", "127.0.0.1", "--port", "0", "--workers", str(workers)]
    told = config.with_suffix(".log")
    with told.open("wb") as stderr:
        # A session of its own: Ctrl-C is for the demo, which then ends the service.
        service = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    before = signal.signal(signal.SIGTERM, _exit)
    with service:
        try:
            assert service.stdout is not None
            found = re.search(r"http://\S+\d", service.stdout.readline())
            if found is None:
                raise BanditRouterError(f"the service did not begin: {told.read_text().strip()}")
            yield found[0]
        finally:
            service.terminate()
            signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: object) -> None:
    sys.exit(128 + number)


def _latencies(terminal: Console, remote: Remote) -> None:
    table = Table("call", "n", "p50 ms", "p99 ms", title="\nover HTTP", title_justify="left", box=None)
    for path, (half, most) in sorted(remote.percentiles(0.5, 0.99).items()):
        n = len(remote.seconds[path])
        table.add_row(f"POST {path}", f"{n:,}", f"{1000 * half:.1f}", f"{1000 * most:.1f}")
    terminal.print(table)


def _leave_up(terminal: Console, where: str, remote: Remote) -> None:
    """Say how to try it, and wait for Ctrl-C."""
    decision = remote.choose("Explain quantum computing", user="you")
    asked = {"prompt": "Explain quantum computing", "user": "you", "router": remote.name}
    thumb = {"decision_id": decision.id, "name": "thumb", "value": True}
    terminal.print(f"\n[bold]The service is up at {where}[/] until Ctrl-C. Try:\n")
    for path, body in (("decisions", asked), ("feedback", thumb)):
        line = f"curl {where}/v1/{path} -H 'content-type: application/json' -d '{json.dumps(body)}'"
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    for path in (f"v1/decisions/{decision.id}", f"v1/routers/{remote.name}/beliefs", "metrics"):
        terminal.print(f"curl {where}/{path}", markup=False, highlight=False, soft_wrap=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
    terminal.print("The service ends.")


def _watch(terminal: Console, demo: Demo, requests: int) -> Played:
    started, last = time.monotonic(), 0.0
    if not terminal.is_terminal:
        return demo.play(requests)
    with Live(console=terminal, refresh_per_second=8, transient=True) as live:

        def show(played: Played) -> None:
            nonlocal last
            if time.monotonic() - last > REFRESH_S:
                last = time.monotonic()
                live.update(_picture(played, requests, last - started))

        return demo.play(requests, show)


def _picture(played: Played, requests: int, seconds: float) -> Panel:
    done = len(played.turns)
    bar = ProgressBar(total=requests, completed=done, width=46)
    head = Text(f"{done:,} of {requests:,} requests, {done / max(seconds, 1e-9):,.0f} a second\n")
    recent = played.last(400)
    foot = Text(f"\n{sum(turn.cost_usd for turn in played.turns):.2f} dollars so far")
    return Panel(Group(head, bar, _shares(recent), _values(recent), foot), title="bandit_router demo")


def _shares(recent: Played) -> Table:
    title = f"\nlast {len(recent.turns)} requests"
    table = Table("model", "share", "", title=title, title_justify="left", box=None)
    for model in recent.models:
        share = recent.share(model)
        table.add_row(model, f"{share:5.0%}", "█" * round(30 * share))
    return table


def _values(recent: Played) -> Table:
    table = Table("", "reward", "quality", "dollars per 1,000", box=None)
    for way in (recent.router(), recent.uniform(), recent.best_fixed()):
        table.add_row(way.name, *_numbers(way))
    return table


def _numbers(way: Way) -> tuple[str, str, str]:
    return f"{way.reward:.3f}", f"{way.quality:.3f}", f"{1000 * way.cost_usd:.2f}"


def _summary(terminal: Console, played: Played, price_weight: float) -> None:
    thumbs = sum(turn.thumb is not None for turn in played.turns)
    judged = sum(turn.judged is not None for turn in played.turns)
    n, third = len(played.turns), len(played.turns) // 3
    terminal.print(f"\n[bold]{n:,} requests[/], {thumbs:,} thumbs, {judged:,} answers judged.\n")
    early, late = played.first(third), played.last(third)
    title = f"mean reward = quality - {price_weight:g} x cost / cost unit"
    table = Table(
        "",
        "first third",
        "last third",
        "its quality",
        "dollars per 1,000",
        title=title,
        title_justify="left",
    )
    for way, before in (
        (late.router(), early.router()),
        (late.uniform(), early.uniform()),
        (late.best_fixed(), early.best_fixed()),
        (late.informed(), early.informed()),
    ):
        table.add_row(way.name, f"{before.reward:.3f}", *_numbers(way))
    terminal.print(table)
    terminal.print(_verdict(late))
    terminal.print(_by_kind(late))


def _verdict(late: Played) -> str:
    router, uniform, fixed = late.router(), late.uniform(), late.best_fixed()
    learned = router.reward > max(uniform.reward, fixed.reward)
    dear = max(late.cost_usd.mean(axis=0))
    return (
        f"{'It learned' if learned else 'It did not learn enough'}: in the last third "
        f"{router.reward - fixed.reward:+.3f} reward against the best fixed model ({fixed.name}), "
        f"{router.reward - uniform.reward:+.3f} against uniform; and it paid "
        f"{1 - router.cost_usd / dear:.0%} less than the dearest model would have cost.\n"
    )


def _by_kind(late: Played) -> Table:
    table = Table(
        "kind of prompt", *late.models, title="whom the last third went to", title_justify="left"
    )
    for kind in sorted({turn.kind for turn in late.turns}):
        to = [turn.model for turn in late.turns if turn.kind == kind]
        table.add_row(kind, *(f"{to.count(model) / len(to):.0%}" for model in late.models))
    return table


def _off_policy(terminal: Console, url: str, router: str, floor: float) -> None:
    policy = Greedy()
    other, own = off_policy_value(url, router, policy, floor=floor)
    terminal.print(
        f"\nFrom the log alone (IPS, {other.n:,} decisions with feedback): the policy "
        f"[bold]{policy.spec}[/], on quality alone, would have earned {_interval(other)} per decision; "
        f"what was played earned {_interval(own)}.\n"
        "These are rewards of those who spoke; the qualities above are what the world knows of all."
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} \\[{estimate.low:.3f}, {estimate.high:.3f}]"
