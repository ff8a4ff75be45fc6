"""A stand-in peer through the real protocol; and peers that die, hang or talk nonsense."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bandit_router.errors import PeerError
from simulations.compare.dialogue import Dialogue
from simulations.compare.environments import ANSWERING
from simulations.replay import Scene, play
from simulations.worlds import small_world

TABLE = small_world(0).table(30, 1)
FEATURES = np.random.default_rng(3).normal(size=(len(TABLE), 4))
# It takes turns, and says aloud all that it was told. Its version is that of a package which is there.
STAND_IN = f"""
import json, sys
sys.path.insert(0, {str(ANSWERING.parent)!r})
import answering

class Turns:
    def __init__(self, arms, dim, seed, setting):
        self.arms, self.turn = arms, 0
        self.told = open(setting, "w")
        print("chatter that is no answer")

    def choose(self, x):
        self.x, self.turn = list(x), self.turn + 1
        return (self.turn - 1) % self.arms

    def learn(self, x, arm, reward):
        print(json.dumps([self.x, list(x), arm, reward]), file=self.told, flush=True)

answering.PEERS["click"] = Turns
answering.main("click")
"""


def scene(order: list[int], price_weight: float = 0.5) -> Scene:
    return Scene(
        table=TABLE,
        order=np.array(order),
        features=FEATURES,
        guessed_tokens=np.ones(len(TABLE)),
        price_weight=price_weight,
    )


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Dialogue]:
    (tmp_path / "peer.py").write_text(STAND_IN)
    with Dialogue("turns", (sys.executable, str(tmp_path / "peer.py"))) as dialogue:
        yield dialogue


def live(dialogue: Dialogue, setting: str, order: list[int]) -> list[int]:
    player = dialogue.player(setting, scene(order))
    chosen = play(player, np.array(order), np.zeros(len(order)), TABLE.quality)
    dialogue.begin(setting + "-end", scene([0]))  # all that was said before has been heard then
    return chosen.tolist()


def test_a_peer_sees_its_rows_and_the_reward_of_what_it_chose(turns: Dialogue, tmp_path: Path) -> None:
    order = [7, 0, 29, 7, 3]
    chosen = live(turns, str(tmp_path / "told"), order)
    assert chosen == [t % len(TABLE.models) for t in range(5)]
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert len(told) == len(order)
    for (seen, x, arm, reward), row, k in zip(told, order, chosen, strict=True):
        assert seen == x == FEATURES[row].tolist()  # lossless
        assert arm == k
        assert reward == pytest.approx(TABLE.reward(0.5)[row, k], abs=1e-12)


def test_a_new_life_knows_nothing_of_the_one_before(turns: Dialogue, tmp_path: Path) -> None:
    first = live(turns, str(tmp_path / "one"), [4, 5, 6])
    assert live(turns, str(tmp_path / "two"), [4, 5, 6]) == first
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
    assert turns.version.startswith("8.")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit('no such thing')", "died: no such thing"),
        ("import os; os._exit(3)", "died: without a word"),
        ("print('hello', flush=True); input()", "expected JSON, got b'hello'"),
        ("print('[1]', flush=True); input()", "expected an object"),
        (
            "print('{}\\n{\"arm\": 9}', flush=True)\nwhile True: input()",
            "expected an arm from 0 to 3, got 9",
        ),
        ("print('{}\\n{\"arm\": true}', flush=True)\nwhile True: input()", "expected an arm"),
        ("print('{}\\n{}', flush=True)\nwhile True: input()", "expected an arm"),
        ("import time; time.sleep(60)", "silent for 2 s"),
    ],
)
def test_a_peer_that_fails_is_named_with_the_reason(program: str, words: str) -> None:
    with Dialogue("broken", (sys.executable, "-c", program), answer_s=2.0) as dialogue:
        player = dialogue.player("default", scene([0, 1]))
        with pytest.raises(PeerError) as raised:
            player.choose(0)
    assert str(raised.value).startswith("broken: ")
    assert words in str(raised.value)


def test_a_peer_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(PeerError, match="away: cannot be started"),
        Dialogue("away", (str(tmp_path / "no"),)),
    ):
        pass
