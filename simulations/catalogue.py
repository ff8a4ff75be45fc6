"""``models.json`` beside a table: prices and named pools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bandit_router.errors import TableError
from bandit_router.events import Model

PRICES = ("input_usd_per_mtok", "output_usd_per_mtok")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What ``models.json`` says.

    Attributes
    ----------
    whole : mapping
        All of it.
    pools : mapping of str to tuple of str
        Model names by the name of their pool.
    models : mapping of str to mapping
        Entries by model name (their ``id``, or ``name``).
    """

    whole: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Any: JSON

    def model(self, name: str) -> Model:
        """Return the model of that name, with its prices where they are known, else free."""
        entry = self.models.get(name, {})
        prices = {key: entry.get(key) or 0.0 for key in PRICES}
        try:
            return Model(name, context_tokens=entry.get("context_tokens"), **prices)
        except (TypeError, ValueError) as error:
            raise TableError(f"model {name!r:.80}: {error}") from error

    def pick(self, pool: str | Sequence[str] | None, models: Sequence[str]) -> tuple[str, ...]:
        """Return which of `models` a pool asks for, in the pool's order.

        Parameters
        ----------
        pool : str or sequence of str, optional
            The name of a pool, or model names, or one text of them with commas; None is all.
        models : sequence of str
            Those that the table has.
        """
        if pool is None:
            return tuple(models)
        if isinstance(pool, str):
            pool = self.pools.get(pool) or [name.strip() for name in pool.split(",")]
        check_models(pool, models, tuple(self.pools))
        return tuple(pool)


def read_catalogue(path: Path) -> Catalogue:
    """Read ``models.json``; a missing file is an empty one."""
    if not path.is_file():
        return Catalogue()
    try:
        whole = json.loads(path.read_text("utf-8"))
        pools = {name: tuple(members) for name, members in whole.get("pools", {}).items()}
        models = {entry.get("id", entry.get("name")): entry for entry in whole.get("models", [])}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise TableError(f"{path}: expected pools and models as JSON: {error}") from error
    return Catalogue(whole=whole, pools=pools, models=models)


def write_catalogue(models: Sequence[Model], path: Path) -> None:
    """Write the prices of `models`; what the file says of pools and other models stays."""
    before = read_catalogue(path)
    entries = dict(before.models)
    for model in models:
        prices = {key: getattr(model, key) for key in (*PRICES, "context_tokens")}
        entries[model.name] = {"id": model.name, **entries.get(model.name, {}), **prices}
    whole = {"pools": {}, **before.whole, "models": list(entries.values())}
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def check_models(names: Sequence[str], models: Sequence[str], pools: Sequence[str] = ()) -> None:
    """Raise TableError unless `names` are different ones of `models`."""
    for name in names:
        if name not in models:
            known = f"; pools: {some(pools)}" if pools else ""
            raise TableError(f"no model or pool {name!r:.80}; models: {some(models)}{known}")
    if not names or len(set(names)) < len(names):
        raise TableError(f"pool: expected different models, got {some(names) or 'none'}")


def some(names: Sequence[str], limit: int = 40) -> str:
    """Return names with commas, the first `limit` of them."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
