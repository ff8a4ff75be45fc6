"""Intervals by hand; the same orders for all; what is known is not lived again; failures are named."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from simulations.compare.comparison import Contender, Life, compare, standings
from simulations.worlds import small_world

TABLE = small_world(0).table(40, 1)
SPECS = ("egreedy", "best-fixed")
FIRST_ARM = """
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if "learn" not in said:
        print(json.dumps({"version": "7"} if "begin" in said else {"arm": 0}), flush=True)
"""
DEAD = "raise SystemExit('out of order')"


def contender(name: str = "first", program: str = FIRST_ARM) -> Contender:
    return Contender(name=name, command=(sys.executable, "-c", program), settings=("default",))


def life(policy: str, seed: int, reward: float, last_third: float, weight: float = 0.0) -> Life:
    return Life(
        policy=policy,
        seed=seed,
        price_weight=weight,
        n=9,
        reward=reward,
        last_third=last_third,
        quality=reward,
        cost_usd=0.0,
    )


def test_differences_are_paired_by_order() -> None:
    # 0.1 and 0.3 behind: mean -0.2, std 0.1414, half width t(0.975, 1) * 0.1 = 12.706 * 0.1.
    lives = [
        life("ours", 0, 0.5, 0.6),
        life("ours", 1, 0.7, 0.8),
        life("peer:default", 1, 0.4, 0.6),  # not in the order of the seeds
        life("peer:default", 0, 0.4, 0.4),
    ]
    ours, peer = standings(lives)
    assert ours.ahead == (0.0, 0.0, 0.0)
    assert ours.verdict == peer.verdict == "-"
    assert peer.reward == pytest.approx((0.4, 0.4, 0.4))
    assert peer.ahead == pytest.approx((-0.2, -0.2 - 1.27062, -0.2 + 1.27062), abs=1e-5)
    assert peer.ahead_last == pytest.approx((-0.2, -0.2, -0.2))


def test_a_verdict_needs_an_interval_that_leaves_out_nought() -> None:
    lives = [life("ours", seed, 0.5, 0.5) for seed in range(3)]
    lives += [life("worse", seed, 0.4, 0.4) for seed in range(3)]
    lives += [life("better", seed, 0.6, 0.6) for seed in range(3)]
    lives += [life("once", 0, 0.1, 0.1)]
    assert [standing.verdict for standing in standings(lives)] == ["-", "below", "above", "-"]
    assert standings(lives)[3].orders == 1


def test_each_price_weight_is_a_comparison_of_its_own() -> None:
    lives = [life(p, s, 0.5 + w, 0.5, w) for w in (0.0, 0.3) for p in ("ours", "a") for s in (0, 1)]
    assert [(s.price_weight, s.ahead[0]) for s in standings(lives)] == [
        (0.0, 0.0),
        (0.0, 0.0),
        (0.3, 0.0),
        (0.3, 0.0),
    ]


def test_peers_live_through_the_same_orders_as_a_fixed_model() -> None:
    *_, found = compare(
        TABLE,
        [contender()],
        specs=("egreedy", f"fixed:{TABLE.names[0]}"),
        price_weights=(0.0, 0.3),
        seeds=2,
        rows=25,
    )
    by_policy = {
        policy: [replace(each, policy="") for each in found.lives if each.policy == policy]
        for policy in (f"fixed:{TABLE.names[0]}", "first:default")
    }
    fixed, peer = by_policy.values()
    assert len(fixed) == 4
    assert fixed == peer
    assert found.versions == {"first": "7"}
    assert found.missing == {}


def test_a_peer_that_fails_is_named_and_the_others_go_on() -> None:
    *_, found = compare(TABLE, [contender("dead", DEAD), contender()], specs=SPECS, seeds=1, rows=20)
    assert found.missing == {"dead:default": "dead: died: out of order"}
    assert {each.policy for each in found.lives} == {*SPECS, "first:default"}


def test_lives_that_are_known_are_not_lived_again() -> None:
    *_, first = compare(TABLE, [contender()], specs=SPECS, seeds=2, rows=20)
    *_, again = compare(TABLE, [contender(program=DEAD)], specs=SPECS, seeds=2, rows=20, known=first)
    assert again.missing == {}
    assert again == first
    *_, more = compare(TABLE, [contender()], specs=SPECS, seeds=3, rows=20, known=first)
    *_, fresh = compare(TABLE, [contender()], specs=SPECS, seeds=3, rows=20)
    assert more == fresh


def test_known_peers_that_are_not_asked_for_stay() -> None:
    *_, known = compare(TABLE, [contender()], specs=SPECS, seeds=1, rows=20)
    *_, found = compare(TABLE, [], specs=SPECS, seeds=1, rows=20, known=known)
    assert set(found.lives) == set(known.lives)


def test_what_is_known_so_far_comes_step_by_step() -> None:
    known = list(compare(TABLE, [contender(), contender("dead", DEAD)], specs=SPECS, seeds=1, rows=20))
    assert [len(each.lives) for each in known] == [2, 3, 3]
    assert [len(each.missing) for each in known] == [0, 0, 1]


def test_known_lives_that_are_not_asked_for_stay_and_are_not_shown() -> None:
    weights = (0.0, 0.3)
    *_, known = compare(TABLE, [contender()], specs=SPECS, price_weights=weights, seeds=2, rows=20)
    *_, found = compare(TABLE, [contender(program=DEAD)], specs=SPECS, seeds=1, rows=20, known=known)
    assert [each for each in found.lives if each.policy not in SPECS] == [
        each for each in known.lives if each.policy not in SPECS
    ]
    assert {(each.price_weight, each.orders) for each in found.standings()} == {(0.0, 1)}
