"""What is known before: the evidence that an evaluation table, or battles between models, amount to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bandit_router.errors import TableError
from bandit_router.evidence import Evidence
from bandit_router.features import FeatureExtractor
from bandit_router.prompt import Prompt
from bandit_router.rewards import METRICS, verdict
from bandit_router.values import Array
from simulations.catalogue import some
from simulations.columns import matching, read_columns, texts
from simulations.tables import Table

BATTLE = ("prompt", "model_a", "model_b", "winner")  # the columns of a file of battles
_WINNERS = {"a": "a", "model_a": "a", "b": "b", "model_b": "b"} | dict.fromkeys(
    ("tie", "tie (bothbad)", "both", "none", ""), "tie"
)
_LEVEL = 0.5  # battles say nothing about how good both are


@dataclass(frozen=True, slots=True, kw_only=True)
class Battles:
    """Of two models' answers to one prompt somebody preferred one.

    Attributes
    ----------
    prompts, first, second : tuple of str
        One per battle; `first` and `second` are models.
    winners : tuple of str
        "a", "b" or "tie".
    """

    prompts: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]
    winners: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)


def read_battles(path: str | Path, *, where: Mapping[str, str] | None = None) -> Battles | None:
    """Read a file of battles (Parquet or CSV): ``prompt, model_a, model_b, winner``; None where it is another.

    The winner is ``a`` or ``model_a``, ``b`` or ``model_b``, or a tie.

    Raises
    ------
    TableError
        The file is missing or malformed, or no row is left; the message says where.
    """
    path = Path(path)
    try:
        columns = read_columns(path, trust_pickle=False)
        if not set(BATTLE) <= set(columns.column_names):
            return None
        kept = np.flatnonzero(matching(columns, where or {}))
        values = [[texts(columns, name)[i] for i in kept] for name in BATTLE]
        winners = [_winner(said, int(row)) for said, row in zip(values[3], kept, strict=True)]
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    if not winners:
        raise TableError(f"{path}: has no rows")
    prompts, first, second, _ = (tuple(column) for column in values)
    return Battles(prompts=prompts, first=first, second=second, winners=tuple(winners))


def _winner(said: str, row: int) -> str:
    name = said.strip().lower()
    if name not in _WINNERS:
        raise TableError(f"winner in row {row}: expected a, b or tie, got {said!r:.40}")
    return _WINNERS[name]


def evidence_of_table(table: Table, features: FeatureExtractor) -> dict[str, Evidence]:
    """Return the sums of each model: every answer of a table is a reward, its quality."""
    return evidence_of_answers(table, features.extract_many([Prompt.of(text) for text in table.prompts]))


def evidence_of_answers(table: Table, x: Array) -> dict[str, Evidence]:
    """As `evidence_of_table`, with the features of its prompts, of shape (n, dim)."""
    columns = zip(table.names, table.quality.T, strict=True)
    return {model: _sums(x, quality, weight=1.0) for model, quality in columns}


def evidence_of_battles(
    battles: Battles, features: FeatureExtractor, models: Sequence[str] | None = None
) -> dict[str, Evidence]:
    """Return the sums of each model: both sides of a battle get what `verdict` says, and count by half.

    Parameters
    ----------
    battles : Battles
    features : FeatureExtractor
    models : sequence of str, optional
        Battles between two of them count; by default all.

    Raises
    ------
    TableError
        No battle counts.
    """
    there = sorted({*battles.first, *battles.second})
    wanted = set(there if models is None else models)
    pairs = zip(battles.first, battles.second, strict=True)
    kept = [i for i, (a, b) in enumerate(pairs) if a != b and {a, b} <= wanted]
    if not kept:
        raise TableError(f"no battle between two of these models; it has {some(there)}")
    x = features.extract_many([Prompt.of(battles.prompts[i]) for i in kept])
    told: dict[str, list[tuple[int, float]]] = {}
    for row, i in enumerate(kept):
        for model, value in _told(battles, i).items():
            told.setdefault(model, []).append((row, value))
    weight = METRICS["vote"].weight
    return {
        model: _sums(x[[row for row, _ in said]], np.array([value for _, value in said]), weight=weight)
        for model, said in told.items()
    }


def _told(battles: Battles, i: int) -> dict[str, float]:
    won, lost = verdict(_LEVEL, tie=battles.winners[i] == "tie")
    first, second = battles.first[i], battles.second[i]
    return {first: lost, second: won} if battles.winners[i] == "b" else {first: won, second: lost}


def _sums(x: Array, rewards: Array, *, weight: float) -> Evidence:
    evidence = Evidence(x.shape[1])
    n = len(rewards)
    evidence.add_many(x, np.full(n, weight), rewards, np.zeros(n))
    return evidence
