"""Running predictions of tokens, cost and latency per model, as sums that add up like evidence.

What the calls of a model come to on average is a mean; how prompts differ is said by `Amounts`. Old calls
fade by forward decay, so that a model that became slower or wordier is noticed within weeks while the
order in which outcomes arrive does not matter.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit_router.amounts import Amounts
from bandit_router.errors import FormatError, NewerFormatError
from bandit_router.events import Model, Outcome
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
_MAGIC, _VERSION = b"BRPR", 2  # 1 had no amounts by prompt


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


def _amount(amounts: Array) -> float | None:
    """What a contribution says of how long its answer was: in tokens, else in millionths of a dollar.

    A token of a model at one dollar per million costs a millionth of a dollar: both are of one size.
    """
    if amounts[_AT["told_outputs"]]:
        return float(amounts[_AT["output_tokens"]] / ANSWER_TOKENS)
    if amounts[_AT["told_payments"]]:
        return float(amounts[_AT["paid_usd"]] * 1e6 / ANSWER_TOKENS)
    return None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rate:
    """What the calls of one model come to on average; None where nobody told."""

    tokens: float | None
    paid_usd: float | None
    latency_s: float | None
    input_ratio: float
    overhead: float

    @classmethod
    def of(cls, sums: Array | None) -> _Rate:
        if sums is None:
            sums = np.zeros(len(_FIELDS))
        ratio, overhead = _mean(sums, "input_tokens", "guessed_tokens", "told_inputs"), 0.0
        if ratio is not None and ratio > 1.0:
            more = sums[_AT["input_tokens"]] - sums[_AT["guessed_tokens"]]
            overhead = float(more / sums[_AT["inputs"]])
        return cls(
            tokens=_mean(sums, "output_tokens", "outputs", "told_outputs"),
            paid_usd=_mean(sums, "paid_usd", "payments", "told_payments"),
            latency_s=_mean(sums, "latency_s", "timings", "told_timings"),
            input_ratio=1.0 if ratio is None else min(ratio, 1.0),
            overhead=overhead,
        )

    def cost_usd(
        self, model: Model, guessed_tokens: float, answer_tokens: float, multiple: float
    ) -> float:
        """Return what a call costs: tokens times prices, or what was paid where these say nothing.

        More input than was guessed is taken as an overhead of each call, such as a system prompt that the
        router does not see: it must not grow with the prompt. Less is a tokenizer that needs fewer.
        """
        priced = model.input_usd_per_mtok > 0 or model.output_usd_per_mtok > 0
        if self.paid_usd is not None and not (priced and self.tokens is not None):
            return self.paid_usd * multiple
        return model.cost_usd(guessed_tokens * self.input_ratio + self.overhead, answer_tokens)


def _mean(sums: Array, total: str, count: str, told: str) -> float | None:
    if sums[_AT[told]] <= 0 or sums[_AT[count]] <= 0:
        return None
    return max(float(sums[_AT[total]] / sums[_AT[count]]), 0.0)


class Predictions:
    """The sums of all models.

    Examples
    --------
    >>> predictions = Predictions()
    >>> predictions.add("small", contribution(Outcome(output_tokens=100, latency_s=2.0), 10.0), at=0.0)
    >>> small = Model("small", output_usd_per_mtok=1.0)
    >>> predictions.forecast([small], 10.0).latency_s
    array([2.])
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.sums: dict[str, Array] = {}
        self.amounts = Amounts(half_life=HALF_LIFE)
        self._rates: dict[str, _Rate] = {}  # of the sums as they are

    def add(
        self, model: str, amounts: Array, *, at: float, sign: float = 1.0, x: Array | None = None
    ) -> None:
        """Add (or with ``sign=-1`` subtract) one outcome's contribution as of `at` [s].

        Parameters
        ----------
        model : str
        amounts : ndarray
            As `contribution`.
        x : ndarray of shape (dim,), optional
            The features of its decision; without them it tells nothing of how prompts differ.
        """
        amount = _amount(amounts)
        if x is not None and amount is not None:
            self.amounts.add(model, x, amount, at=at, sign=sign)
        self._rates.pop(model, None)
        age = at / HALF_LIFE - self.epoch
        if age > 64:
            self._move(math.floor(at / HALF_LIFE))
            age = at / HALF_LIFE - self.epoch
        known = self.sums.setdefault(model, np.zeros(len(_FIELDS)))
        known += sign * np.where(_FADES, math.exp2(max(age, -1000.0)), 1.0) * amounts

    def merge(self, other: Predictions, *, sign: float = 1.0) -> None:
        """Add (or with ``sign=-1`` subtract) all of another's sums, in place."""
        self._rates.clear()
        if other.epoch > self.epoch:
            self._move(other.epoch)
        shrink = math.ldexp(1.0, max(other.epoch - self.epoch, -2000))
        for model, sums in other.sums.items():
            known = self.sums.setdefault(model, np.zeros(len(_FIELDS)))
            known += sign * np.where(_FADES, shrink, 1.0) * sums
        self.amounts.merge(other.amounts.evidence, sign=sign)

    def _move(self, epoch: int) -> None:
        shrink = math.ldexp(1.0, max(self.epoch - epoch, -2000))
        for sums in self.sums.values():
            sums[_FADES] *= shrink
        self.epoch = epoch

    def forecast(
        self,
        models: Sequence[Model],
        guessed_tokens: float,
        *,
        x: Array | None = None,
        max_tokens: int | None = None,
    ) -> Forecast:
        """Predict cost and latency of a request on each model.

        Parameters
        ----------
        models : sequence of Model
        guessed_tokens : float
            Input tokens as `Prompt.input_tokens` guesses them.
        x : ndarray of shape (dim,), optional
            Features of the prompt; without them every answer is thought to be as long as the mean.
        max_tokens : int, optional
            The longest that the answer may be.
        """
        rates = [self._rate(model.name) for model in models]
        expected, worst = [], []
        for model, rate in zip(models, rates, strict=True):
            multiple = self.amounts.multiple(model.name, x)
            answer = (self._sibling_tokens() if rate.tokens is None else rate.tokens) * multiple
            likely = answer if max_tokens is None else min(answer, max_tokens)
            longest = likely if max_tokens is None else max_tokens
            expected.append(rate.cost_usd(model, guessed_tokens, likely, multiple))
            if longest != likely:
                worst.append(rate.cost_usd(model, guessed_tokens, longest, multiple))
            else:
                worst.append(expected[-1])
        latency = _filled([rate.latency_s for rate in rates])
        return Forecast(cost_usd=np.array(expected), latency_s=latency, worst_usd=np.array(worst))

    def _rate(self, model: str) -> _Rate:
        if model not in self._rates:
            self._rates[model] = _Rate.of(self.sums.get(model))
        return self._rates[model]

    def _sibling_tokens(self) -> float:
        told = [tokens for name in self.sums if (tokens := self._rate(name).tokens) is not None]
        return float(np.mean(told)) if told else ANSWER_TOKENS

    def copy(self) -> Predictions:
        """Return sums of their own, which predict by prompt once they are fitted."""
        return Predictions.from_bytes(self.to_bytes())

    def plain(self, dim: int) -> Predictions:
        """Return the sums of the same outcomes where every ``x`` is the constant feature alone."""
        plain = self.copy()
        plain.amounts.evidence = {m: sums.plain(dim) for m, sums in self.amounts.evidence.items()}
        return plain

    def to_bytes(self) -> bytes:
        """Return the sums as bytes, without loss."""
        parts = [_HEADER.pack(_MAGIC, _VERSION, len(self.sums), self.epoch)]
        for model, sums in self.sums.items():
            name = model.encode()
            parts += [struct.pack("<H", len(name)), name, sums.astype("<f8").tobytes()]
        return b"".join([*parts, self.amounts.to_bytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """Read what `to_bytes` wrote; it predicts by prompt once it is fitted.

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
            if magic != _MAGIC or version < 1:
                raise FormatError(f"predictions: expected format version {_VERSION}")
            at = _HEADER.size
            for _ in range(count):
                (length,) = struct.unpack_from("<H", data, at)
                name = data[at + 2 : at + 2 + length].decode()
                at += 2 + length
                sums = np.frombuffer(data, "<f8", len(_FIELDS), at).astype(np.float64)
                at += sums.nbytes
                predictions.sums[name] = sums
            if version > 1:
                predictions.amounts = Amounts.from_bytes(data[at:], half_life=HALF_LIFE)
                at = len(data)
        except NewerFormatError:
            raise
        except (struct.error, ValueError, FormatError) as error:
            text = str(error).removeprefix("predictions: ")
            raise FormatError(f"predictions: damaged: {text}") from error
        if (
            len(predictions.sums) != count
            or at != len(data)
            or not all(np.isfinite(sums).all() for sums in predictions.sums.values())
        ):
            raise FormatError("predictions: damaged: a wrong length or sums that are not finite")
        return predictions


def _filled(latency_s: Sequence[float | None]) -> Array:
    """Take what nobody reported to be like the siblings, or 0."""
    told = [seconds for seconds in latency_s if seconds is not None]
    typical = sum(told) / len(told) if told else 0.0
    return np.array([typical if seconds is None else seconds for seconds in latency_s])
