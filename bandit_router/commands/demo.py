"""``bandit-router demo``: the whole loop on a small world, live on the terminal."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bandit_router.commands.options import console
from bandit_router.policies import Greedy
from bandit_router.preference import Preference
from bandit_router.router import Router
from bandit_router.values import check_amount
from simulations.demo import Demo, Played, Way, off_policy_value
from simulations.estimators import Estimate
from simulations.worlds import small_world

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
def demo(requests: int, seed: int, url: str | None, price_weight: float) -> None:
    """Play a few thousand users of a small, made-up world through the router."""
    terminal = console()
    world = small_world(seed)
    with tempfile.TemporaryDirectory(prefix="bandit-router-demo-") as folder:
        place = url or f"sqlite:///{Path(folder) / 'demo.db'}"
        settings = Preference(price_weight=price_weight)
        name = f"demo-{int(time.time())}" if url else "demo"
        with Router.open(place, name=name, models=world.models, preference=settings) as router:
            played = _watch(terminal, Demo(router, world, seed=seed), requests)
            floor = router.settings.floor
        _summary(terminal, played, price_weight)
        _off_policy(terminal, place, name, floor)
        if url:
            terminal.print(f"The log is kept: bandit-router models list --log {url} --router {name}")


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
