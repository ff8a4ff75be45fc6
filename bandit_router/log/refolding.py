"""Refolding: what an archive's files have taught, made from the files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bandit_router.drift import earlier
from bandit_router.log.archive import Archive, unpack_features
from bandit_router.log.bases import Base
from bandit_router.log.folding import Fold, fold_rewards, spend_all, spendings_of
from bandit_router.log.lens import Lens
from bandit_router.log.rows import Row, pack, to_us

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "router", "at_us", "features", "features_version", "input_tokens", "predicted_usd")


@dataclass(slots=True)
class _Told:
    """What is counted beside the sums."""

    decisions: int = 0
    rewards: int = 0
    requests: int = 0
    paid_usd: float = 0.0
    changed: dict[str, int] = field(default_factory=dict)


def refold(archive: Archive, lens: Lens, *, before: float, since: float, plain: bool = False) -> Base:
    """Return what an archive's files have taught one router.

    Parameters
    ----------
    archive : Archive
    lens : Lens
    before : float
        All its decisions were made before this moment [s since 1970].
    since : float
        When the router's budget was set [s since 1970].
    plain : bool
        Every decision counts with the constant feature alone.
    """
    result, told = Fold(), _Told()
    then = {model: inner for model, own in lens.drifts.items() if (inner := earlier(own, before))}
    lens = replace(lens, drifts=then)  # what came after all of it, `Base.under` knows
    for decisions in _decisions(archive, lens, plain=plain):
        first, last = min(decisions), max(decisions)
        made = archive.between("rewards", lens.router, first, last)
        rewards = [row for row in _joined(made, decisions) if row["value"] is not None]
        fold_rewards(result, rewards, lens)
        told.rewards += len(rewards)
        for row in made:
            told.changed[row["model"]] = max(row["made_us"], told.changed.get(row["model"], 0))
        outcomes = _joined(archive.between("outcomes", lens.router, first, last), decisions)
        spend_all(result.predictions, spendings_of(outcomes, lens))
        _spend(told, decisions, {row["decision_id"]: row for row in outcomes}, to_us(since))
    return Base(
        archive=archive.id,
        router=lens.router,
        features_version=lens.features_version,
        half_life_s=lens.half_life_s,
        born={model: moment for model, moment in lens.born.items() if moment < before},
        drifts=then,
        plain=plain,
        evidence=result.evidence,
        predictions=result.predictions,
        before=before,
        decisions=told.decisions,
        rewards=told.rewards,
        skipped=result.skipped,
        since=since,
        requests=told.requests,
        paid_usd=told.paid_usd,
        changed=told.changed,
    )


def _decisions(archive: Archive, lens: Lens, *, plain: bool) -> Iterator[dict[str, dict[str, Any]]]:
    """A router's decisions by their ids, as many at once as a row group has."""
    constant = np.zeros(lens.dim)
    constant[0] = 1.0
    for group in archive.groups("decisions", _COLUMNS):
        found = _rows(group, lens.router)
        for row in found:
            if plain:
                row |= {"features": pack(constant), "features_version": lens.features_version}
            row["guessed_tokens"] = row["input_tokens"]
        if found:
            yield {row["id"]: row for row in found}


def _rows(group: pa.Table, router: str) -> list[dict[str, Any]]:  # Any: a value of each column's type
    features = unpack_features(group.column("features"))
    rows = group.drop_columns(["features"]).to_pylist()
    return [
        row | {"features": x} for row, x in zip(rows, features, strict=True) if row["router"] == router
    ]


def _joined(made: Sequence[Row], decisions: Mapping[str, Row]) -> list[dict[str, Any]]:  # Any: as above
    """The last revision of each decision, with what belongs to the decision itself."""
    last = {row["decision_id"]: row for row in made if row["decision_id"] in decisions}
    names = ("features", "features_version", "guessed_tokens")
    return [{**row, **{name: decisions[of][name] for name in names}} for of, row in last.items()]


def _spend(
    told: _Told, decisions: Mapping[str, Row], outcomes: Mapping[str, Row], since_us: int
) -> None:
    told.decisions += len(decisions)
    for of, row in decisions.items():
        if row["at_us"] >= since_us:
            paid = outcomes[of]["cost_usd"] if of in outcomes else None
            told.requests += 1
            told.paid_usd += (paid if paid is not None else row["predicted_usd"]) or 0.0
