"""The small world is what it says: no model best at all, few and honest thumbs, a noisy judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.prompts import FILLERS, SLOT, TEMPLATES, write_prompt
from simulations.worlds import Served, WorldRequest, small_world


def test_knowing_the_kind_beats_every_single_model() -> None:
    world = small_world(0)
    fixed, known = world.shares @ world.quality, world.shares @ world.quality.max(axis=1)
    assert fixed.max() == pytest.approx(0.726)
    assert known == pytest.approx(0.8226)
    assert len(set(world.quality.argmax(axis=1))) == len(world.models)


def test_the_table_holds_what_is_expected() -> None:
    world = small_world(0)
    table = world.table(3000, 1)
    assert table.tasks is not None
    kinds = np.array([world.kinds.index(kind) for kind in table.tasks])
    known = table.quality[np.arange(3000), world.quality.argmax(axis=1)[kinds]]
    # Each mean has a standard deviation below .21 / sqrt(3000) = .004: five of them.
    assert abs(known.mean() - 0.8226) < 0.02
    assert abs(table.quality[:, 3].mean() - 0.726) < 0.02
    cost = table.cost_usd.mean(axis=0)
    assert (np.diff(cost) > 0).all()
    assert cost[-1] > 50 * cost[0]


def test_same_seed_same_world() -> None:
    first, again, other = (small_world(0).table(20, seed) for seed in (1, 1, 2))
    assert first.prompts == again.prompts
    np.testing.assert_array_equal(first.quality, again.quality)
    assert first.prompts != other.prompts


def test_prompts_are_filled_and_varied() -> None:
    rng = np.random.default_rng(0)
    prompts = [small_world(0).request(rng).prompt for _ in range(1000)]
    assert not any(SLOT.search(prompt) for prompt in prompts)
    assert len(set(prompts)) > 800
    assert sum(not prompt.isascii() for prompt in prompts) > 50
    assert 10 < np.median([len(prompt) for prompt in prompts]) < 300


def test_every_slot_has_fillers() -> None:
    slots = {slot for texts in TEMPLATES.values() for text in texts for slot in SLOT.findall(text)}
    assert slots - {"n", "k"} == set(FILLERS)
    assert set(TEMPLATES) == set(small_world(0).kinds)
    with pytest.raises(KeyError):
        write_prompt("riddles", np.random.default_rng(0))


def test_serving_counts_tokens_and_costs() -> None:
    world, rng = small_world(0), np.random.default_rng(0)
    request = WorldRequest(prompt="x" * 400, kind="code", user="user:1")
    served = world.serve(request, "large-strong", rng)
    assert served.input_tokens == 108
    assert served.cost_usd == pytest.approx((108 * 3.0 + served.output_tokens * 15.0) / 1e6)
    assert 0.0 <= served.quality <= 1.0
    assert served.latency_s > 0.0
    with pytest.raises(ValueError, match="expected one of"):
        world.serve(request, "huge", rng)


def served(quality: float) -> Served:
    return Served(
        quality=quality,
        input_tokens=1,
        output_tokens=1,
        latency_s=1.0,
        cost_usd=0.0,
        answer="",
        model="small-fast",
        user="user:0",
    )


@pytest.mark.parametrize(("quality", "thumb"), [(1.0, True), (0.0, False), (0.55, None)])
def test_only_the_pleased_and_displeased_give_thumbs(quality: float, thumb: bool | None) -> None:
    world = replace(small_world(0), habit=np.array([1.0]))
    assert world.thumb(served(quality), np.random.default_rng(0)) is thumb


def test_most_users_are_silent() -> None:
    world, rng = small_world(0), np.random.default_rng(0)
    assert 0.5 < (world.habit == 0).mean() < 0.7
    silent = replace(world, habit=np.array([0.0]))
    assert all(silent.thumb(served(1.0), rng) is None for _ in range(100))


def test_the_judge_is_noisy_and_sees_a_share() -> None:
    world, rng = small_world(0), np.random.default_rng(0)
    scores = [world.judge(served(0.5), rng) for _ in range(4000)]
    seen = np.array([score for score in scores if score is not None])
    # Binomial(4000, .2): standard deviation 25; five of them.
    assert abs(len(seen) - 800) < 127
    assert abs(seen.mean() - 0.5) < 0.025
    assert 0.1 < seen.std() < 0.14


def test_arrays_are_not_writeable() -> None:
    with pytest.raises(ValueError, match="read-only"):
        small_world(0).quality[0, 0] = 1.0
