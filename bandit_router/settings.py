"""All that can be set of one router, as one value: checked, and written to the log as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Literal

from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.policies import DEFAULT_FLOOR, Policy, ThompsonSampling, policy_from_spec
from bandit_router.preference import Preference
from bandit_router.rewards import METRICS, RATER_LIMIT, Metric, Trust
from bandit_router.values import check_amount, check_name, check_unit

SMALLEST_USD = 1e-12  # a smaller unit would make utilities overflow
TextPolicy = Literal["full", "hash", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one router decides, learns and remembers.

    Parameters
    ----------
    policy : Policy
        How promises become probabilities.
    preference : Preference
        What a dollar and a second are worth.
    cost_unit_usd : float, optional
        The dollars that `price_weight` is per [USD]; by default what the dearest model costs for a typical
        request when a price weight is first used. Fixed from then on.
    budget_usd_per_request : float, optional
        A long-run mean that is kept [USD].
    half_life : timedelta, optional
        How long it takes until evidence counts half; None never forgets.
    floor : float
        Total probability that is spread evenly over the eligible models, so that everything stays
        evaluable off-policy.
    features : str
        SPEC of the feature extractor: ``hashed``, ``fitted:VERSION``, ``vectors:dim=N``, or one made of
        embeddings (`extractor_from_spec`).
    text : {"full", "hash", "none"}
        What is kept of prompts (answers only with "full").
    text_retention : timedelta, optional
        How long texts are kept; None for ever. Evidence stays.
    sticky : bool
        Whether a conversation stays with the model of its first turn.
    metrics : mapping of str to Metric
        Kinds of feedback; the built-in ones are always there.
    rater_limit : float, optional
        What the words of one source may count for at a time [observations], `Allowance`; None is any amount.
    drift_detection : bool
        Whether the service looks for models that have changed (`Router.find_drift`).
    budget_since : float, optional
        When the budget was set [s since 1970]; kept by the router itself.

    Raises
    ------
    SettingsError
        A value of the wrong type or out of range.
    """

    policy: Policy = field(default_factory=ThompsonSampling)
    preference: Preference = field(default_factory=Preference)
    cost_unit_usd: float | None = None
    budget_usd_per_request: float | None = None
    half_life: timedelta | None = None
    floor: float = DEFAULT_FLOOR
    features: str = "hashed"
    text: TextPolicy = "full"
    text_retention: timedelta | None = None
    sticky: bool = True
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    rater_limit: float | None = RATER_LIMIT
    drift_detection: bool = True
    budget_since: float | None = None

    def __post_init__(self) -> None:
        try:
            self._check()
        except SettingsError:
            raise
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error
        object.__setattr__(self, "metrics", {**METRICS, **self.metrics})

    def _check(self) -> None:
        named = isinstance(getattr(self.policy, "spec", None), str)  # a class has a property there
        if not named or not callable(getattr(self.policy, "probabilities", None)):
            raise SettingsError(
                f"policy: expected a Policy like ThompsonSampling(), got {self.policy!r}"
            )
        if policy_from_spec(self.policy.spec) != self.policy:
            raise SettingsError(
                f"policy: {self.policy.spec!r} does not give it back: put it into POLICIES"
            )
        if not isinstance(self.preference, Preference):
            raise SettingsError(f"preference: expected a Preference, got {self.preference!r}")
        for name in ("cost_unit_usd", "budget_usd_per_request"):
            value = getattr(self, name)
            if value is not None and check_amount(name, value) < SMALLEST_USD:
                raise SettingsError(
                    f"{name}: expected at least {SMALLEST_USD:g}, got {value}; None switches it off"
                )
        for name in ("half_life", "text_retention"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, timedelta) and value > timedelta(0)):
                raise SettingsError(f"{name}: expected a positive timedelta, got {value!r}")
            if value is not None:
                check_amount(f"{name} in seconds", value.total_seconds())
        object.__setattr__(self, "floor", check_unit("floor", self.floor))
        for name in ("cost_unit_usd", "budget_usd_per_request", "budget_since", "rater_limit"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else check_amount(name, value))
        check_name("features", self.features)
        if self.text not in ("full", "hash", "none"):
            raise SettingsError(f"text: expected full, hash or none, got {self.text!r}")
        for name in ("sticky", "drift_detection"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise SettingsError(f"{name}: expected true or false, got {value!r}")
        if not isinstance(self.metrics, Mapping):
            raise SettingsError(f"metrics: expected an object, got {self.metrics!r}")
        for name, metric in self.metrics.items():
            check_name("metric", name)
            if not isinstance(metric, Metric):
                raise SettingsError(f"metric {name}: expected a Metric, got {metric!r}")

    @property
    def half_life_s(self) -> float | None:
        """The half-life [s]."""
        return _seconds(self.half_life)

    def with_changes(self, changes: Mapping[str, Any], *, now: float) -> Settings:
        """Return these settings with some replaced; a new budget counts from `now` [s since 1970].

        Raises
        ------
        SettingsError
            No such setting, or a bad value.
        """
        names = {f.name for f in fields(self)} - {"budget_since"}
        unknown = sorted(set(changes) - names)
        if unknown:
            raise SettingsError(f"no setting {unknown[0]!r}; there are {', '.join(sorted(names))}")
        changed = replace(self, **changes)
        if changed.budget_usd_per_request != self.budget_usd_per_request:
            changed = replace(changed, budget_since=now)
        return changed

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        own = {name: m for name, m in self.metrics.items() if METRICS.get(name) != m}
        return {
            "policy": self.policy.spec,
            "preference": {f.name: getattr(self.preference, f.name) for f in fields(Preference)},
            "cost_unit_usd": self.cost_unit_usd,
            "budget_usd_per_request": self.budget_usd_per_request,
            "half_life_s": self.half_life_s,
            "floor": self.floor,
            "features": self.features,
            "text": self.text,
            "text_retention_s": _seconds(self.text_retention),
            "sticky": self.sticky,
            "metrics": {name: _metric_to_json(metric) for name, metric in own.items()},
            "rater_limit": self.rater_limit,
            "drift_detection": self.drift_detection,
            "budget_since": self.budget_since,
        }

    @classmethod
    def from_json(cls, body: object) -> Settings:
        """Read plain values, as a config file or the log has them; what is absent is the default.

        Raises
        ------
        SettingsError
            Not an object, an unknown name, or a bad value.

        Examples
        --------
        >>> Settings.from_json({"policy": "linucb:alpha=0.2", "half_life_s": 3600}).policy
        LinUCB(alpha=0.2)
        """
        return cls(**settings_changes(body))


def settings_changes(body: object) -> dict[str, Any]:
    """Turn plain values (SPECs, seconds, objects) into arguments of `Settings`.

    Raises
    ------
    SettingsError
        Not an object, an unknown name, or a value of the wrong type.
    """
    if not isinstance(body, Mapping):
        raise SettingsError(f"settings: expected an object, got {type(body).__name__}")
    changes: dict[str, Any] = {}
    for name, value in body.items():
        if name not in _READERS:
            raise SettingsError(f"no setting {name!r}; there are {', '.join(sorted(_READERS))}")
        key, read = _READERS[name]
        try:
            changes[key] = None if value is None else read(value)
        except SettingsError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise SettingsError(f"{name}: {error}") from error
    return changes


def understood(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings in the log's JSON that this program knows, and those that a newer one has added.

    So version N goes on beside N + 1, and what N does not know is carried along when it writes.
    """
    kinds: dict[str, type[Preference | Metric]] = {"preference": Preference, "metrics": Metric}
    known: dict[str, object] = {}
    added: dict[str, object] = {}
    for name, value in body.items():
        if name not in _READERS:
            added[name] = value
        elif name == "metrics" and isinstance(value, Mapping):
            known[name] = {metric: _metric_from_log(entries) for metric, entries in value.items()}
        else:
            known[name] = _fields_of(kinds[name], value) if name in kinds else value
    return known, added


def _metric_from_log(value: object) -> object:
    entries = _fields_of(Metric, value)
    if isinstance(entries, dict) and isinstance(trust := entries.get("trust"), Mapping):
        entries["trust"] = {source: _fields_of(Trust, body) for source, body in trust.items()}
    return entries


def _metric_to_json(metric: Metric) -> dict[str, Any]:
    trust = {
        source: {f.name: getattr(own, f.name) for f in fields(Trust)}
        for source, own in metric.trust.items()
    }
    plain = {f.name: getattr(metric, f.name) for f in fields(Metric) if f.name != "trust"}
    return plain | ({"trust": trust} if trust else {})  # a program that knows none goes on beside it


def _fields_of(kind: type[Model | Preference | Metric | Trust], value: object) -> object:
    names = {f.name for f in fields(kind)}
    return {n: v for n, v in value.items() if n in names} if isinstance(value, Mapping) else value


def model_from_log(body: object) -> Model:
    """Read a model as the log has it; what a newer program has added is left aside."""
    return model_from_json(_fields_of(Model, body))


def model_to_json(model: Model) -> dict[str, Any]:
    """Return a model's plain values."""
    return {f.name: getattr(model, f.name) for f in fields(Model)}


def model_from_json(body: object) -> Model:
    """Read a model's plain values.

    Raises
    ------
    SettingsError
        Not an object, an unknown name, or a bad value.
    """
    try:
        return Model(**_known(Model, body))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"model: {error}") from error


def _seconds(period: timedelta | None) -> float | None:
    return None if period is None else period.total_seconds()


def _timedelta(value: object) -> timedelta:
    return timedelta(seconds=check_amount("seconds", value))


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _known(kind: type[Model | Preference | Metric | Trust], value: object) -> Mapping[str, Any]:
    body, names = _object(value), [f.name for f in fields(kind)]
    for name in body:
        if name not in names:
            raise ValueError(f"no entry {name!r}; there are {', '.join(names)}")
    if kind is Model and "name" not in body:
        raise ValueError("it has no name")
    return body


def _policy(value: object) -> Policy:
    return policy_from_spec(check_name("SPEC", value))


def _preference(value: object) -> Preference:
    return Preference(**_known(Preference, value))


def _metrics(value: object) -> dict[str, Metric]:
    return {name: _metric(metric) for name, metric in _object(value).items()}


def _metric(value: object) -> Metric:
    body = dict(_known(Metric, value))
    if "trust" in body:
        trust = _object(body["trust"])
        body["trust"] = {source: Trust(**_known(Trust, own)) for source, own in trust.items()}
    return Metric(**body)


def _same(value: object) -> object:
    return value


_READERS: dict[str, tuple[str, Callable[[object], object]]] = {
    "policy": ("policy", _policy),
    "preference": ("preference", _preference),
    "half_life_s": ("half_life", _timedelta),
    "text_retention_s": ("text_retention", _timedelta),
    "metrics": ("metrics", _metrics),
    "cost_unit_usd": ("cost_unit_usd", _same),
    "budget_usd_per_request": ("budget_usd_per_request", _same),
    "floor": ("floor", _same),
    "features": ("features", _same),
    "text": ("text", _same),
    "sticky": ("sticky", _same),
    "rater_limit": ("rater_limit", _same),
    "drift_detection": ("drift_detection", _same),
    "budget_since": ("budget_since", _same),
}
