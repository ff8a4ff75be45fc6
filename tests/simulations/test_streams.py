"""Streams: each kind of change has exactly the effect that the scenario says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit_router.errors import SettingsError, TableError
from bandit_router.events import Model
from bandit_router.values import Array
from simulations.baselines import BASELINES
from simulations.replay import play_stream
from simulations.runs import Run, best_fixed_rewards, summary
from simulations.scenarios import Scenario, scenario_from
from simulations.simulate import simulate
from simulations.streams import Stream, World
from simulations.tables import Table, write_table

SPECS = ("thompson", "linucb", "uniform", "fixed:a", "fresh:thompson", *BASELINES)


def table_of(
    names: Sequence[str] = ("a", "b", "c"), n: int = 40, *, name: str = "first", seed: int = 0
) -> Table:
    """Qualities around .3, .6 and .9; prices 1, 2, 3."""
    rng = np.random.default_rng(seed)
    k = len(names)
    means = np.array([0.3, 0.6, 0.9])[:k]
    return Table(
        name=name,
        prompt_ids=tuple(f"{name}{i}" for i in range(n)),
        prompts=tuple(f"question {i} of {name}" for i in range(n)),
        models=tuple(Model(model) for model in names),
        quality=means + rng.uniform(-0.1, 0.1, (n, k)),
        cost_usd=np.tile(np.arange(1.0, k + 1), (n, 1)) * 1e-3,
    )


def stream_of(table: Table, **entries: Any) -> Stream:
    world = World.of(scenario_from(entries), table)
    return world.stream(np.arange(len(world.table)), np.random.default_rng(3))


def test_nothing_changes_without_events() -> None:
    table = table_of()
    stream = stream_of(table)
    assert sorted(stream.rows.tolist()) == list(range(40))
    np.testing.assert_array_equal(stream.table.quality, table.quality[stream.rows])
    np.testing.assert_array_equal(stream.told, stream.table.quality)
    assert stream.available.all()
    assert (stream.weight == 1.0).all()
    assert [(p.name, p.start, p.end) for p in stream.phases] == [("first", 0, 40)]


def test_a_standing_scenario_is_the_plain_simulation() -> None:
    table = table_of(n=60)
    plain = simulate(table, ["thompson"], seeds=2, price_weights=(0.2,))
    world = World.of(Scenario(name="nothing"), table)
    for one, other in zip(
        plain, simulate(world, ["thompson"], seeds=2, price_weights=(0.2,)), strict=True
    ):
        assert (one.chosen == other.chosen).all()
        assert one.reward == pytest.approx(other.reward)
        before, after = summary(one, table), summary(other, world.table)
        assert before.pop("share") == after.pop("share")
        assert before == pytest.approx({name: after[name] for name in before})


def test_prices_are_multiplied_and_the_unit_stays() -> None:
    table = table_of()
    events = [
        {"at": 10, "until": 30, "model": "c", "factor": 0.1},
        {"at": 20, "model": "c", "factor": 2},
    ]
    stream = stream_of(table, price=events)
    factor = np.repeat([1.0, 0.1, 0.2, 2.0], 10)
    np.testing.assert_allclose(stream.table.cost_usd[:, 2], 3e-3 * factor)
    np.testing.assert_allclose(stream.table.cost_usd[:, :2], table.cost_usd[:, :2])
    np.testing.assert_allclose(stream.listed.cost_usd, table.cost_usd)
    assert stream.table.cost_unit_usd == pytest.approx(3e-3)
    assert [phase.start for phase in stream.phases] == [0, 10, 20, 30]
    assert stream.phases[3].name == "price of c x0.1: over"


def test_qualities_are_multiplied_moved_and_set() -> None:
    table = table_of()
    events = [
        {"at": 10, "until": 20, "model": "a", "factor": 0.5, "offset": 0.1},
        {"at": 20, "model": "a", "set": 0.25},
        {"at": 0, "model": "c", "offset": 0.5},
    ]
    stream = stream_of(table, quality=events)
    before = table.quality[stream.rows]
    np.testing.assert_array_equal(stream.table.quality[:10, :2], before[:10, :2])
    np.testing.assert_allclose(stream.table.quality[10:20, 0], 0.5 * before[10:20, 0] + 0.1)
    assert (stream.table.quality[20:, 0] == 0.25).all()
    assert (stream.table.quality[:, 2] == 1.0).all()
    np.testing.assert_array_equal(stream.told, stream.table.quality)


def test_models_come_and_go() -> None:
    stream = stream_of(
        table_of(),
        add=[{"at": 10, "model": "c"}, {"at": 30, "model": "a"}],
        retire=[{"at": 20, "model": "a"}],
    )
    a, b, c = stream.available.T
    assert a.tolist() == [True] * 20 + [False] * 10 + [True] * 10
    assert b.all()
    assert c.tolist() == [False] * 10 + [True] * 30


def test_tables_follow_each_other(tmp_path: Path) -> None:
    first, then = table_of(n=30), table_of(("b", "c", "d"), 20, name="next", seed=1)
    write_table(then, tmp_path / "next.parquet")
    entries = {
        "rows": 25,
        "then": [{"table": "next.parquet", "rows": 10}],
        "quality": [{"at": 2, "until": 4, "after": "next", "model": "b", "set": 0.0}],
    }
    path = tmp_path / "world.toml"
    for models, names in (("shared", ("b", "c")), ("all", ("a", "b", "c", "d"))):
        world = World.of(scenario_from(entries | {"models": models}, path=path), first)
        stream = world.stream(np.arange(50), np.random.default_rng(0))
        assert stream.table.names == names
        assert (stream.rows[:25] < 30).all()
        assert (stream.rows[25:] >= 30).all()
        assert len(stream.rows) == 35
        at = names.index("b")
        assert stream.table.quality[25:, at].tolist().count(0.0) == 2
        assert (stream.table.quality[27:29, at] == 0.0).all()
        expected = then.quality[stream.rows[30:] - 30, 0]
        np.testing.assert_allclose(stream.table.quality[30:, at], expected)
        assert [phase.start for phase in stream.phases] == [0, 25, 27, 29]
    assert stream.available[:25].tolist() == [[True, True, True, False]] * 25
    assert stream.available[25:].tolist() == [[False, True, True, True]] * 10
    assert world.table.cost_unit_usd == pytest.approx(3e-3)  # zeros in absent places count nothing


def test_the_table_is_looked_for_beside_the_first(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    write_table(table_of(name="next"), tmp_path / "next" / "next.parquet")
    scenario = scenario_from({"then": [{"table": "next/next.parquet"}]}, path=Path("elsewhere/x.toml"))
    world = World.of(scenario, table_of(), path=tmp_path / "first" / "first.parquet")
    assert [name for name, _ in world.parts] == ["first", "next"]
    with pytest.raises(SettingsError, match=r"no table .next/next\.parquet. in elsewhere"):
        World.of(scenario, table_of())


def test_feedback_comes_late_or_never() -> None:
    stream = stream_of(table_of(n=400), feedback={"delay_rounds": [2, 4], "drop": 0.25})
    assert set(stream.delay.tolist()) == {2, 3, 4}
    lost = (stream.weight == 0).all(axis=1)
    assert (lost == (stream.weight == 0).any(axis=1)).all()
    # 400 coins of a quarter: five standard errors of 0.022.
    assert abs(lost.mean() - 0.25) < 0.11


class Listener:
    """Writes down what it is told, and when; always asks for the model `k`."""

    def __init__(self, k: int, models: int) -> None:
        self.p = np.eye(models)[k]
        self.now = -1
        self.heard: list[tuple[int, int, float, float]] = []

    def choose(self, row: int) -> Array:
        self.now = row
        return self.p

    def report(self, row: int, k: int) -> None:
        assert row == self.now

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        self.heard.append((self.now, row, quality, weight))


def test_a_player_hears_after_the_delay() -> None:
    stream = stream_of(table_of(), feedback={"delay_rounds": 5})
    listener = Listener(1, 3)
    play_stream(listener, stream, np.zeros(40))
    # Told at the beginning of round t, before it chooses: the last choice was that of round t - 1.
    assert [(now, row) for now, row, _, _ in listener.heard] == [(t + 4, t) for t in range(35)]
    assert [q for _, _, q, _ in listener.heard] == stream.table.quality[:35, 1].tolist()


def test_signals_are_said_as_often_as_they_should() -> None:
    n = 4000
    table = table_of(n=n)
    stream = stream_of(table, signal=[{"name": "thumb", "share": [0.0, 0.4]}])
    assert set(stream.told[stream.weight > 0].tolist()) == {0.0, 1.0}
    for k, quality in enumerate((0.3, 0.6, 0.9)):
        said = stream.weight[:, k] > 0
        assert abs(said.mean() - 0.4 * quality) < 5 * 0.5 / np.sqrt(n)
        assert abs(stream.told[said, k].mean() - quality) < 5 * 0.5 / np.sqrt(said.sum()) + 0.01
    both = stream_of(
        table, signal=[{"name": "thumb", "share": 1.0}, {"name": "judge", "bias": 0.1, "share": 0.5}]
    )
    judged = (both.told > 0.0) & (both.told < 1.0)  # (thumb + judge / 2) / 1.5
    assert (both.weight == 1.0).all()
    assert abs(judged[:, :2].mean() - 0.5) < 0.04
    alone = stream_of(table, signal=[{"name": "judge", "bias": -0.1, "noise": 0.0}])
    np.testing.assert_allclose(alone.told, alone.table.quality - 0.1)
    assert (alone.weight == 0.5).all()


def test_nobody_asks_a_model_that_is_not_there() -> None:
    entries = {
        "add": [{"at": 20, "model": "c"}],
        "retire": [{"at": 60, "model": "a"}],
        "price": [{"at": 30, "model": "c", "factor": 0.1}],
    }
    world = World.of(scenario_from(entries), table_of(n=90))
    runs = simulate(world, SPECS, seeds=1, price_weights=(0.1,), budget_usd=2.5e-3)
    assert len(runs) == len(SPECS)
    for run in runs:
        assert run.stream is not None
        assert run.stream.available[run.order, run.chosen].all(), run.policy
        row = summary(run, world.table)
        assert row["regret_vs_oracle"] >= -1e-9
        assert [phase["from"] for phase in row["phases"]] == [0, 20, 30, 60]
        sums = [phase["regret_vs_best_fixed"] for phase in row["phases"]]
        assert sum(sums) == pytest.approx(row["regret_vs_best_fixed"])
        assert sum(phase["cost_usd"]["c"] for phase in row["phases"]) <= row["total_cost_usd"] + 1e-12


def test_the_best_fixed_model_is_that_of_each_phase() -> None:
    entries = {"quality": [{"at": 20, "model": "c", "set": 0.0}]}
    world = World.of(scenario_from(entries), table_of())
    runs: dict[str, Run] = {run.policy: run for run in simulate(world, ["best-fixed", "zero"], seeds=1)}
    for run in runs.values():
        assert run.chosen.tolist() == [2] * 20 + [1] * 20
        np.testing.assert_array_equal(best_fixed_rewards(run, world.table), run.reward)


def test_fresh_forgets_at_each_change() -> None:
    world = World.of(
        scenario_from({"quality": [{"at": 100, "model": "c", "set": 0.0}]}), table_of(n=200)
    )
    old, fresh = simulate(world, ["thompson", "fresh:thompson"], seeds=1)
    assert (old.chosen[:100] == fresh.chosen[:100]).all()
    assert (fresh.chosen[100:] == 2).sum() < (old.chosen[100:] == 2).sum()


def test_a_price_cut_is_known_at_once() -> None:
    """What was learnt of costs is at list prices; so the next forecast has the new price."""
    entries = {"price": [{"at": 60, "model": "c", "factor": 0.01}]}
    world = World.of(scenario_from(entries), table_of(n=120))
    (run,) = simulate(world, ["thompson"], seeds=1, price_weights=(1.0,))
    assert (run.chosen[:60] == 2).mean() < 0.5
    assert (run.chosen[65:] == 2).mean() > 0.9


def test_rows_cut_the_stream() -> None:
    entries = {
        "price": [{"at": 60, "model": "c", "factor": 0.5}],
        "mark": [{"at": 5, "until": 9, "name": "m"}],
    }
    world = World.of(scenario_from(entries), table_of(n=80))
    whole, cut = (simulate(world, ["thompson"], seeds=1, rows=rows)[0] for rows in (None, 30))
    assert (whole.chosen[:30] == cut.chosen).all()
    row = summary(cut, world.table)
    assert [(phase["from"], phase["to"]) for phase in row["phases"]] == [(0, 30)]
    assert [(mark["name"], mark["from"], mark["to"]) for mark in row["marks"]] == [("m", 5, 9)]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"price": [{"at": 40, "model": "a", "factor": 2}]}, "at 40: expected rounds up to 40"),
        ({"quality": [{"at": 1, "until": 41, "model": "a", "set": 1}]}, "at 1 until 41"),
        ({"quality": [{"at": 1, "model": "z", "set": 1}]}, "no model 'z'; there are a, b, c"),
        ({"add": [{"at": 1, "model": "z"}]}, "no model 'z'"),
        ({"mark": [{"at": 1, "name": "m", "after": "moon"}]}, "no table 'moon'; there are first"),
        ({"retire": [{"at": 7, "model": m} for m in "abc"]}, "no model is left in round 7"),
        ({"then": [{"table": "nowhere.parquet"}]}, "no table 'nowhere.parquet'"),
    ],
)
def test_what_does_not_fit_the_tables_is_refused(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        World.of(scenario_from(entries), table_of())


def test_tables_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_table(table_of(("x", "y", "z")), tmp_path / "other.parquet")
    write_table(table_of(), tmp_path / "first.parquet")
    path = tmp_path / "world.toml"
    with pytest.raises(SettingsError, match="share no model"):
        World.of(scenario_from({"then": [{"table": "other.parquet"}]}, path=path), table_of())
    with pytest.raises(SettingsError, match="different names"):
        World.of(scenario_from({"then": [{"table": "first.parquet"}]}, path=path), table_of())
    free = replace(table_of(("a", "b", "c"), name="free"), cost_usd=np.zeros((40, 3)))
    write_table(free, tmp_path / "free.parquet")
    world = World.of(scenario_from({"then": [{"table": "free.parquet"}]}, path=path), table_of())
    assert not world.table.has_cost
    world = World.of(Scenario(name="x"), table_of())
    with pytest.raises(TableError, match="nothing is left"):
        world.stream(np.array([], dtype=np.intp), np.random.default_rng(0))


def test_player_specs_are_checked_in_a_stream() -> None:
    world = World.of(Scenario(name="x"), table_of())
    with pytest.raises(SettingsError, match="no policy 'conjuror'"):
        simulate(world, ["fresh:conjuror"], seeds=1)
    with pytest.raises(SettingsError, match=r"\[\[signal\]\]"):
        simulate(world, ["uniform"], seeds=1, feedback="thumbs")
