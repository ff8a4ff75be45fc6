"""Policies live through known worlds: what they learn, what they may see, what they may spend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit_router.errors import SettingsError, TableError
from bandit_router.events import Model
from bandit_router.features import HashedFeatures
from bandit_router.policies import DEFAULT_FLOOR, ThompsonSampling
from bandit_router.predictions import ANSWER_TOKENS
from bandit_router.prompt import Prompt
from bandit_router.values import Array
from simulations.baselines import player_from_spec
from simulations.replay import Bandit, Scene, Warmth, play, play_stream
from simulations.runs import Run, summary
from simulations.scenarios import scenario_from
from simulations.simulate import known_rows, simulate
from simulations.streams import World
from simulations.tables import Table
from simulations.worlds import small_world

LEARNERS = ("thompson", "linucb", "egreedy", "igw")  # greedy does not explore
WORLD = small_world(0).table(700, 1)


def flat_table(n: int = 600, *, means: tuple[float, ...] = (0.75, 0.82, 0.78), seed: int = 0) -> Table:
    """Models whose quality does not depend on the prompt: means +- 0.05, prices 1, 2, 3."""
    rng = np.random.default_rng(seed)
    k = len(means)
    return Table(
        name="flat",
        prompt_ids=tuple(f"{i}" for i in range(n)),
        prompts=tuple(f"question {i} of {rng.integers(99)}" for i in range(n)),
        models=tuple(Model(f"m{i}") for i in range(k)),
        quality=np.clip(np.array(means) + rng.normal(0, 0.05, (n, k)), 0, 1),
        cost_usd=np.tile(np.arange(1.0, k + 1), (n, 1)) * 1e-3,
    )


def mean_rewards(runs: list[Run], spec: str) -> Array:
    return np.array([run.reward.mean() for run in runs if run.policy == spec])


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_learners_beat_uniform_and_in_the_end_the_best_fixed_model(weight: float) -> None:
    runs = simulate(WORLD, [*LEARNERS, "uniform", "best-fixed"], seeds=2, price_weights=(weight,))
    for spec in LEARNERS:
        # Uniform's mean of 700 rounds has a standard error of 0.01: five of them.
        gain = mean_rewards(runs, spec) - mean_rewards(runs, "uniform")
        assert gain.min() > 0.05, (spec, gain)
    late: dict[str, list[float]] = {run.policy: [] for run in runs}
    for run in runs:
        late[run.policy].append(summary(run, WORLD)["mean_reward_last_third"])
    for spec in ("thompson", "linucb"):
        assert np.mean(late[spec]) > np.mean(late["best-fixed"])


def test_the_same_seed_is_the_same_order_for_every_policy() -> None:
    runs = simulate(WORLD, ["thompson", "linucb", "oracle"], seeds=2, rows=50)
    by_seed = {seed: [run for run in runs if run.seed == seed] for seed in (0, 1)}
    for seed in (0, 1):
        assert all((run.order == by_seed[seed][0].order).all() for run in by_seed[seed])
    assert not (by_seed[0][0].order == by_seed[1][0].order).all()
    longer = simulate(WORLD, ["thompson"], seeds=1, rows=80)[0]
    assert (longer.chosen[:50] == by_seed[0][0].chosen).all()


def test_only_what_was_chosen_is_seen() -> None:
    """Changing every outcome that was not chosen changes no choice."""
    before = simulate(WORLD, ["thompson"], seeds=1, rows=200, price_weights=(0.3,))[0]
    quality = 1.0 - WORLD.quality
    quality[before.order, before.chosen] = WORLD.quality[before.order, before.chosen]
    after = simulate(
        replace(WORLD, quality=quality), ["thompson"], seeds=1, rows=200, price_weights=(0.3,)
    )[0]
    assert (before.chosen == after.chosen).all()


@pytest.mark.parametrize("spec", LEARNERS)
def test_no_lock_in_from_a_cold_start(spec: str) -> None:
    """Rewards near .8, the best model is not the first: it gets most of the last third."""
    for run in simulate(flat_table(), [spec], seeds=4):
        late = run.chosen[-200:]
        assert (late == 1).mean() > 0.5, (run.seed, np.bincount(late, minlength=3))


@pytest.mark.parametrize("shift", [-0.3, 0.15])
def test_shifted_rewards_keep_the_ranking(shift: float) -> None:
    low = replace(WORLD, quality=0.35 + 0.5 * WORLD.quality)
    moved = replace(low, quality=low.quality + shift)
    specs = ["thompson", "linucb", "uniform"]
    for table in (low, moved):
        runs = simulate(table, specs, seeds=2)
        gains = [mean_rewards(runs, s) - mean_rewards(runs, "uniform") for s in specs[:2]]
        # Half of the world's spread: uniform's standard error is 0.005.
        assert min(gain.min() for gain in gains) > 0.02


def test_permuted_columns_change_no_mean_by_more_than_its_interval() -> None:
    at = [2, 0, 3, 1]
    permuted = WORLD.with_pool([WORLD.names[i] for i in at])
    for spec in ("thompson", "linucb"):
        here, there = (
            mean_rewards(simulate(t, [spec], seeds=6, rows=250), spec) for t in (WORLD, permuted)
        )
        # Two means of six orders, paired: four standard errors, one in 15,000.
        error = np.std(here - there, ddof=1) / np.sqrt(6)
        assert abs((here - there).mean()) < 4 * error + 0.005


def test_thumbs_teach_and_the_truth_is_reported() -> None:
    runs = simulate(WORLD, ["thompson", "uniform"], seeds=3, feedback="thumbs")
    assert (mean_rewards(runs, "thompson") - mean_rewards(runs, "uniform")).min() > 0.03
    assert all((run.quality == WORLD.quality[run.order, run.chosen]).all() for run in runs)


def test_the_budget_is_kept_and_well_spent() -> None:
    cost = WORLD.cost_usd.mean(axis=0)
    budget = float(0.7 * cost.min() + 0.3 * cost.max())
    runs = simulate(WORLD, ["thompson", "linucb", "zero"], seeds=2, budget_usd=budget)
    for spec in ("thompson", "linucb"):
        for run in (run for run in runs if run.policy == spec):
            # A hundred budgets may be spent ahead, of 700; what is predicted is seldom that wrong.
            assert run.cost_usd.mean() < 1.05 * budget
        assert (mean_rewards(runs, spec) - mean_rewards(runs, "zero")).mean() > 0.0


def test_a_warm_start_beats_a_cold_one() -> None:
    prior = small_world(0).table(300, 2)
    for spec in ("thompson", "linucb"):
        cold, warm = (
            mean_rewards(simulate(WORLD, [spec], seeds=3, rows=300, prior=p), spec)
            for p in (None, prior)
        )
        assert (warm - cold).min() > 0.01


def test_rows_of_the_prior_are_not_lived_through() -> None:
    prior = WORLD.take(range(0, 700, 7))
    assert known_rows(WORLD, prior).tolist() == list(range(0, 700, 7))
    run = simulate(WORLD, ["uniform"], seeds=1, prior=prior)[0]
    assert len(run.order) == 600
    assert not set(run.order.tolist()) & set(range(0, 700, 7))
    with pytest.raises(TableError, match="holds every row"):
        simulate(WORLD, ["uniform"], prior=WORLD)
    with pytest.raises(TableError, match="has none of the models"):
        simulate(WORLD, ["uniform"], prior=flat_table())


def test_two_jobs_give_what_one_gives() -> None:
    one, two = (
        simulate(WORLD, ["thompson", "linucb"], seeds=2, price_weights=(0.3,), rows=150, jobs=jobs)
        for jobs in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        assert (a.policy, a.seed) == (b.policy, b.seed)
        assert (a.chosen == b.chosen).all()
        assert (a.order == b.order).all()


def _scene(table: Table, price_weight: float = 0.0) -> Scene:
    prompts = [Prompt.of(text) for text in table.prompts]
    return Scene(
        table=table,
        order=np.arange(len(table)),
        features=HashedFeatures().extract_many(prompts),
        guessed_tokens=np.array([prompt.input_tokens for prompt in prompts]),
        price_weight=price_weight,
    )


def test_the_floor_is_the_routers() -> None:
    p = player_from_spec("greedy", _scene(flat_table(50))).choose(0)
    assert p.min() >= DEFAULT_FLOOR / 3
    assert p.sum() == pytest.approx(1.0)


def test_a_quality_floor_excludes_what_is_known_to_be_worse_and_nothing_that_is_not() -> None:
    table = flat_table(300, means=(0.3, 0.82, 0.80))
    player = player_from_spec("egreedy:epsilon=1", replace(_scene(table), max_quality_drop=0.1))
    assert (player.choose(0) > 0).all()
    play(player, np.arange(250), np.random.default_rng(0).random(250), table.quality)
    p = np.array([player.choose(row) for row in range(250, 300)])
    assert (p[:, 0] == 0).all()
    assert (p[:, 1:] > 0).all()


def test_warmth_is_evidence_of_every_answer() -> None:
    table = flat_table(20)
    warmth = Warmth.of(table, _scene(table).features)
    assert [evidence.n for evidence in warmth.evidence.values()] == [20.0] * 3
    assert warmth.evidence["m1"].b[0] == pytest.approx(table.quality[:, 1].sum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 0}, "at least 1"),
        ({"rows": 0}, "at least 1"),
        ({"feedback": "stars"}, "score or thumbs"),
        ({"budget_usd": 0.0}, "more than 0"),
        ({"price_weights": ()}, "at least one"),
        ({"floor": 1.5}, "from 0 to 1"),
        ({"max_quality_drop": -0.1}, "max_quality_drop"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=message):
        simulate(WORLD, ["uniform"], **settings)  # type: ignore[arg-type] # wrong on purpose


def test_without_costs_nothing_can_be_weighed() -> None:
    free = replace(WORLD, cost_usd=np.zeros_like(WORLD.cost_usd))
    with pytest.raises(SettingsError, match="has no costs"):
        simulate(free, ["uniform"], price_weights=(0.3,))
    assert len(simulate(free, ["thompson"], seeds=1, rows=30)) == 1


def _listed(table: Table) -> Table:
    """The same table with prices that say what an answer of 300 tokens costs."""
    cost_usd = table.cost_usd.mean(axis=0)
    models = [
        replace(model, output_usd_per_mtok=usd * 1e6 / ANSWER_TOKENS)
        for model, usd in zip(table.models, cost_usd.tolist(), strict=True)
    ]
    return replace(table, models=tuple(models))


def test_a_dear_newcomer_is_held_to_a_share_of_the_budget_and_a_cheap_one_is_not() -> None:
    """Six budgets a try: 150 requests save for none of them. The cheap one takes over."""
    shares = {}
    for came, cost in ((100, 9.0), (0, 9.0), (100, 1.0)):
        table = flat_table(250, means=(0.5, 0.55, 0.9))
        table = _listed(replace(table, cost_usd=np.tile([1e-3, 1.2e-3, cost * 1e-3], (250, 1))))
        world = World.of(scenario_from({"add": [{"at": came, "model": "m2"}]}), table)
        (run,) = simulate(world, ["thompson"], seeds=1, budget_usd=1.5e-3)
        shares[came, cost] = (run.chosen[came:] == 2).mean()
    assert shares[100, 9.0] == 0.0
    assert shares[0, 9.0] > 0.0
    assert shares[100, 1.0] > 0.8


def test_the_pacer_takes_up_a_price_that_changes_with_the_next_request() -> None:
    entries = {"price": [{"at": 60, "model": "m2", "factor": 0.1}]}
    table = _listed(flat_table(70, means=(0.5, 0.6, 0.9)))
    stream = World.of(scenario_from(entries), table).stream(np.arange(70), np.random.default_rng(0))
    scene = replace(_scene(table), budget_usd=1.5e-3).on(stream)
    bandit = Bandit(ThompsonSampling(), scene)
    play_stream(bandit, stream, np.random.default_rng(1).random(60))
    assert bandit.pacer is not None
    before = bandit.pacer.price.mean
    bandit.choose(60)
    assert 0.0 <= bandit.pacer.price.mean < 0.5 * before


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    simulate(WORLD, ["uniform", "zero"], seeds=2, rows=5, progress=lambda a, b: told.append((a, b)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
