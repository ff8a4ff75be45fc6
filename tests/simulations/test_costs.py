"""What calls cost is predicted by prompt, from what was paid."""

from __future__ import annotations

import numpy as np

from bandit_router.features import HashedFeatures
from bandit_router.prompt import Prompt
from simulations.costs import Costs, outcome
from simulations.worlds import small_world

WORLD = small_world(0).table(600, 1)
PROMPTS = [Prompt.of(text) for text in WORLD.prompts]
FEATURES = HashedFeatures().extract_many(PROMPTS)
GUESSED = np.array([prompt.input_tokens for prompt in PROMPTS])


def test_predictions_follow_the_prompt() -> None:
    """Of rows that were not seen, they say more than the mean cost of each model does."""
    costs = Costs(WORLD, FEATURES, GUESSED)
    for row in range(400):
        for k in range(len(WORLD.models)):
            assert costs.learn(row, k) == WORLD.cost_usd[row, k]
    predicted = np.array([costs.forecast(row)[0] for row in range(400, 600)])
    actual = WORLD.cost_usd[400:]
    error = ((predicted - actual) ** 2).sum(axis=0)
    assert (error < 0.9 * ((actual - WORLD.cost_usd[:400].mean(axis=0)) ** 2).sum(axis=0)).all()
    np.testing.assert_allclose(predicted.mean(axis=0), actual.mean(axis=0), rtol=0.15)


def test_what_is_known_before_is_predicted_at_once() -> None:
    costs = Costs(WORLD, FEATURES, GUESSED)
    for row in range(100):
        costs.learn(row, 0)
    again = Costs(WORLD, FEATURES, GUESSED, known=costs.predictions.to_bytes())
    costs.predictions.amounts.fit(at=0.0)
    for mine, theirs in zip(again.forecast(7), costs.forecast(7), strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_an_outcome_says_what_the_table_says() -> None:
    told = outcome(WORLD, 3, 1)
    assert told.cost_usd == WORLD.cost_usd[3, 1]
    assert WORLD.output_tokens is None or told.output_tokens == round(WORLD.output_tokens[3, 1])
