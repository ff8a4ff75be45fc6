"""Running predictions of tokens, cost and latency per model, as sums that add up like evidence.

Old calls fade by forward decay, so that a model that became slower or wordier is noticed within weeks
while the order in which outcomes arrive does not matter.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.events import Model, Outcome
from bandit_router.prompt import Prompt
from bandit_router.values import Array

HALF_LIFE = 7 * 86_400.0  # [s]; prices and speeds of hosted models change over weeks
ANSWER_TOKENS = 300.0  # expected of a model, and of its siblings, before the first outcome
_FIELDS = (
    *("calls", "outputs", "output_tokens", "inputs", "input_tokens", "guessed_tokens"),
    *("payments", "paid_usd", "timings", "latency_s"),
    # Counted without decay, so that nothing is left, to the bit, of what is taken away again.
    *("told_outputs", "told_inputs", "told_payments", "told_timings"),
)
_FADES = np.array([not name.startswith("told_") for name in _FIELDS])
_AT = {name: i for i, name in enumerate(_FIELDS)}
_HEADER = struct.Struct("<4sHHq")
_MAGIC, _VERSION = b"BRPR", 1


def contribution(outcome: Outcome, guessed_tokens: float) -> Array:
    """Return what one outcome adds to the sums of the model that served it.

    Parameters
    ----------
    outcome : Outcome
        A failed call (`error`) tells nothing of tokens, cost or latency.
    guessed_tokens : float
        Input tokens as `Prompt.input_tokens` guessed them.
    """
    sums = np.zeros(len(_FIELDS))
    sums[_AT["calls"]] = 1.0
    if outcome.error is not None:
        return sums
    if outcome.output_tokens is not None:
        _tell(sums, told_outputs=1.0, outputs=1.0, output_tokens=outcome.output_tokens)
    if outcome.input_tokens is not None and guessed_tokens > 0:
        _tell(sums, told_inputs=1.0, inputs=1.0, input_tokens=outcome.input_tokens)
        _tell(sums, guessed_tokens=guessed_tokens)
    if outcome.cost_usd is not None:
        _tell(sums, told_payments=1.0, payments=1.0, paid_usd=outcome.cost_usd)
    if outcome.latency_s is not None:
        _tell(sums, told_timings=1.0, timings=1.0, latency_s=outcome.latency_s)
    return sums


def _tell(sums: Array, **amounts: float) -> None:
    for name, amount in amounts.items():
        sums[_AT[name]] = amount


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """What a request would cost and take on each of K models.

    Attributes
    ----------
    cost_usd, latency_s : ndarray of shape (K,)
        Expected [USD], [s]; a latency that nobody reported yet is that of the siblings, or 0.
    worst_usd : ndarray of shape (K,)
        The cost if the answer is as long as it may be; equals `cost_usd` without a limit.
    """

    cost_usd: Array
    latency_s: Array
    worst_usd: Array


class Predictions:
    """The sums of all models.

    Examples
    --------
    >>> predictions = Predictions()
    >>> predictions.add("small", contribution(Outcome(output_tokens=100, latency_s=2.0), 10.0), at=0.0)
    >>> small = Model("small", output_usd_per_mtok=1.0)
    >>> predictions.forecast([small], Prompt(text="Hi")).latency_s
    array([2.])
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.sums: dict[str, Array] = {}

    def add(self, model: str, amounts: Array, *, at: float, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) one outcome's contribution as of `at` [s]."""
        age = at / HALF_LIFE - self.epoch
        if age > 64:
            self._move(math.floor(at / HALF_LIFE))
            age = at / HALF_LIFE - self.epoch
        known = self.sums.setdefault(model, np.zeros(len(_FIELDS)))
        known += sign * np.where(_FADES, math.exp2(max(age, -1000.0)), 1.0) * amounts

    def merge(self, other: Predictions, *, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) all of another's sums, in place."""
        if other.epoch > self.epoch:
            self._move(other.epoch)
        shrink = math.ldexp(1.0, max(other.epoch - self.epoch, -2000))
        for model, sums in other.sums.items():
            known = self.sums.setdefault(model, np.zeros(len(_FIELDS)))
            known += sign * np.where(_FADES, shrink, 1.0) * sums

    def _move(self, epoch: int) -> None:
        shrink = math.ldexp(1.0, max(self.epoch - epoch, -2000))
        for sums in self.sums.values():
            sums[_FADES] *= shrink
        self.epoch = epoch

    def forecast(
        self, models: Sequence[Model], prompt: Prompt, *, max_tokens: int | None = None
    ) -> Forecast:
        """Predict cost and latency of a request on each model."""
        guessed = prompt.input_tokens
        expected = np.array([self._cost(m, guessed, self._answer_tokens(m.name)) for m in models])
        worst = expected
        if max_tokens is not None:
            worst = np.array([self._cost(m, guessed, float(max_tokens)) for m in models])
        latency = np.array([self._mean(m.name, "latency_s", "timings", "told_timings") for m in models])
        return Forecast(cost_usd=expected, latency_s=_filled(latency), worst_usd=worst)

    def _cost(self, model: Model, guessed_tokens: float, answer_tokens: float) -> float:
        priced = model.input_usd_per_mtok > 0 or model.output_usd_per_mtok > 0
        told_tokens = not math.isnan(self._mean(model.name, "output_tokens", "outputs", "told_outputs"))
        paid = self._mean(model.name, "paid_usd", "payments", "told_payments")
        if not math.isnan(paid) and not (priced and told_tokens):
            return paid
        return model.cost_usd(self._input_tokens(model.name, guessed_tokens), answer_tokens)

    def _input_tokens(self, model: str, guessed: float) -> float:
        """What a guess turns out to be.

        More than was guessed is taken as an overhead of each call, such as a system prompt that the router
        does not see: it must not grow with the prompt. Less is taken as a tokenizer that needs fewer.
        """
        ratio = self._mean(model, "input_tokens", "guessed_tokens", "told_inputs")
        if math.isnan(ratio):
            return guessed
        if ratio <= 1.0:
            return guessed * ratio
        sums = self.sums[model]
        more = sums[_AT["input_tokens"]] - sums[_AT["guessed_tokens"]]
        return guessed + float(more / sums[_AT["inputs"]])

    def _answer_tokens(self, model: str) -> float:
        own = self._mean(model, "output_tokens", "outputs", "told_outputs")
        if not math.isnan(own):
            return own
        siblings = [self._mean(other, "output_tokens", "outputs", "told_outputs") for other in self.sums]
        told = [tokens for tokens in siblings if not math.isnan(tokens)]
        return float(np.mean(told)) if told else ANSWER_TOKENS

    def _mean(self, model: str, total: str, count: str, told: str) -> float:
        sums = self.sums.get(model)
        if sums is None or sums[_AT[told]] <= 0 or sums[_AT[count]] <= 0:
            return math.nan
        return max(float(sums[_AT[total]] / sums[_AT[count]]), 0.0)

    def copy(self) -> Predictions:
        """Return sums of their own."""
        return Predictions.from_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the sums as bytes, without loss."""
        parts = [_HEADER.pack(_MAGIC, _VERSION, len(self.sums), self.epoch)]
        for model, sums in self.sums.items():
            name = model.encode()
            parts += [struct.pack("<H", len(name)), name, sums.astype("<f8").tobytes()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """Read what `to_bytes` wrote.

        Raises
        ------
        FormatError
            Not predictions, damaged, or of a newer version.
        """
        predictions = cls()
        try:
            magic, version, count, predictions.epoch = _HEADER.unpack_from(data)
            if magic == _MAGIC and version > _VERSION:
                raise NewerFormatError(f"predictions: expected format version {_VERSION}, got {version}")
            if magic != _MAGIC or version != _VERSION:
                raise FormatError(f"predictions: expected format version {_VERSION}")
            at = _HEADER.size
            for _ in range(count):
                (length,) = struct.unpack_from("<H", data, at)
                name = data[at + 2 : at + 2 + length].decode()
                at += 2 + length
                sums = np.frombuffer(data, "<f8", len(_FIELDS), at).astype(np.float64)
                at += sums.nbytes
                predictions.sums[name] = sums
        except (struct.error, ValueError) as error:
            raise (
                error
                if isinstance(error, FormatError)
                else FormatError(f"predictions: damaged: {error}")
            ) from error
        if (
            len(predictions.sums) != count
            or at != len(data)
            or not all(np.isfinite(sums).all() for sums in predictions.sums.values())
        ):
            raise FormatError("predictions: damaged: a wrong length or sums that are not finite")
        return predictions


def _filled(latency: Array) -> Array:
    known = latency[~np.isnan(latency)]
    return np.where(np.isnan(latency), known.mean() if known.size else 0.0, latency)
