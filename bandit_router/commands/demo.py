"""``bandit-router demo``: the whole loop on a small world, live on the terminal."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bandit_router.policies import Greedy
from bandit_router.router import Router
from simulations.demo import Demo, Played, off_policy_value
from simulations.estimators import Estimate
from simulations.worlds import small_world

REFRESH_S = 0.25


@click.command()
@click.option(
    "--requests", type=click.IntRange(min=50), default=3_000, show_default=True, help="How many."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the world.")
@click.option(
    "--log", "url", default=None, help="Keep the log in this database; by default a temporary one."
)
@click.option("--price-weight", type=click.FloatRange(min=0), default=0.0, help="Reward per cost unit.")
def demo(requests: int, seed: int, url: str | None, price_weight: float) -> None:
    """Play a few thousand users of a small, made-up world through the router."""
    from bandit_router.preference import Preference

    console = Console()
    world = small_world(seed)
    with tempfile.TemporaryDirectory(prefix="bandit-router-demo-") as folder:
        place = url or f"sqlite:///{Path(folder) / 'demo.db'}"
        settings = Preference(price_weight=price_weight)
        name = f"demo-{int(time.time())}" if url else "demo"
        with Router.open(place, name=name, models=world.models, preference=settings) as router:
            played = _watch(console, Demo(router, world, seed=seed), requests)
            floor = router.settings.floor
        _summary(console, played)
        _off_policy(console, place, name, floor)
        if url:
            console.print(f"The log is kept in {url}, router {name!r}.")


def _watch(console: Console, demo: Demo, requests: int) -> Played:
    started, last = time.monotonic(), 0.0
    if not console.is_terminal:
        return demo.play(requests)
    with Live(console=console, refresh_per_second=8, transient=True) as live:

        def show(played: Played) -> None:
            nonlocal last
            if time.monotonic() - last > REFRESH_S:
                last = time.monotonic()
                live.update(_picture(played, requests, last - started))

        return demo.play(requests, show)


def _picture(played: Played, requests: int, seconds: float) -> Panel:
    done = len(played.turns)
    bar = ProgressBar(total=requests, completed=done, width=46)
    head = Text(f"{done:,} of {requests:,} requests, {done / max(seconds, 1e-9):,.0f} a second")
    return Panel(
        Group(head, bar, _shares(played, 400), _values(played, 400)), title="bandit_router demo"
    )


def _shares(played: Played, window: int) -> Table:
    table = Table("model", "share", "", title=f"last {window} requests", title_justify="left", box=None)
    recent = [turn.model for turn in played.turns[-window:]]
    for model in played.models:
        share = recent.count(model) / max(len(recent), 1)
        table.add_row(model, f"{share:5.0%}", "█" * round(30 * share))
    return table


def _values(played: Played, window: int) -> Table:
    table = Table("", "mean quality", "dollars per 1,000", box=None)
    recent = slice(-window, None)
    expected, costs = played.expected[recent], played.cost_usd[recent]
    paid = np.array([turn.cost_usd for turn in played.turns[recent]])
    best = played.best_fixed
    table.add_row("the router", f"{played.chosen[recent].mean():.3f}", f"{1000 * paid.mean():.3f}")
    table.add_row("uniform", f"{expected.mean():.3f}", f"{1000 * costs.mean():.3f}")
    fixed = f"always {played.models[best]}, the best fixed model"
    table.add_row(fixed, f"{expected[:, best].mean():.3f}", f"{1000 * costs[:, best].mean():.3f}")
    return table


def _summary(console: Console, played: Played) -> None:
    thumbs = [turn.thumb for turn in played.turns if turn.thumb is not None]
    judged = sum(turn.judged is not None for turn in played.turns)
    n = len(played.turns)
    console.print(f"\n[bold]{n:,} requests[/], {len(thumbs):,} thumbs, {judged:,} answers judged.\n")
    third = n // 3
    table = Table("mean quality", "first third", "last third", "dollars in all", title_justify="left")
    expected, costs, best = played.expected, played.cost_usd, played.best_fixed
    ways = {
        "the router": (played.chosen, sum(turn.cost_usd for turn in played.turns)),
        "uniform": (expected.mean(axis=1), costs.mean(axis=1).sum()),
        f"always {played.models[best]}": (expected[:, best], costs[:, best].sum()),
        "knowing every kind's best": (expected.max(axis=1), _informed_cost(played)),
    }
    for way, (quality, dollars) in ways.items():
        table.add_row(
            way, f"{quality[:third].mean():.3f}", f"{quality[-third:].mean():.3f}", f"{dollars:.2f}"
        )
    console.print(table)
    console.print(_verdict(played, third))
    console.print(_by_kind(played, third))


def _informed_cost(played: Played) -> float:
    best = played.expected.argmax(axis=1)
    return float(played.cost_usd[np.arange(len(best)), best].sum())


def _verdict(played: Played, third: int) -> str:
    best, late = played.best_fixed, slice(-third, None)
    router, fixed = played.chosen[late].mean(), played.expected[late, best].mean()
    paid = sum(turn.cost_usd for turn in played.turns[late])
    saved = float(played.cost_usd[late, best].sum()) - paid
    learned = (
        "It learned" if router > max(fixed, played.expected[late].mean()) else "It did not learn enough"
    )
    spent = f"saved {saved:.2f} dollars" if saved >= 0 else f"cost {-saved:.2f} dollars more"
    return (
        f"{learned}: in the last third {router - fixed:+.3f} quality against the best fixed model "
        f"({played.models[best]}), and it {spent} against it ({saved / max(paid + saved, 1e-12):+.0%}).\n"
    )


def _by_kind(played: Played, third: int) -> Table:
    table = Table(
        "kind of prompt", *played.models, title="whom the last third went to", title_justify="left"
    )
    late = played.turns[-third:]
    for kind in sorted({turn.kind for turn in late}):
        to = [turn.model for turn in late if turn.kind == kind]
        table.add_row(kind, *(f"{to.count(model) / len(to):.0%}" for model in played.models))
    return table


def _off_policy(console: Console, url: str, router: str, floor: float) -> None:
    policy = Greedy()
    other, own = off_policy_value(url, router, policy, floor=floor)
    console.print(
        f"\nFrom the log alone (IPS, {other.n:,} decisions with feedback): the policy "
        f"[bold]{policy.spec}[/] would have earned {_interval(other)} per decision; "
        f"what was played earned {_interval(own)}.\n"
        "These are rewards of those who spoke; the qualities above are what the world knows of all."
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} \\[{estimate.low:.3f}, {estimate.high:.3f}]"
