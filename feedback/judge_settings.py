"""All that can be set of a judge, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from bandit_router.errors import SettingsError
from bandit_router.values import check_amount, check_count, check_name, check_unit, clean_text
from feedback.rubric import DEFAULT_RUBRIC, Rubric

RUBRIC_LIMIT = 100_000  # characters
_MAX_TOKENS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """Who grades, which answers, and for how much.

    Parameters
    ----------
    url : str
        The base of an OpenAI-compatible API, such as ``https://api.openai.com/v1``.
    model : str
        The model that grades.
    api_key_env : str, optional
        The environment variable that holds the key; None sends none.
    share : float
        Of the answers that were kept: how likely each is graded.
    sampling_key : str
        With which answers are sampled: judges with the same key grade the same answers.
    scale : {"1-5", "0-1"}
        What the judge is asked for; the reward is in [0, 1] either way.
    rubric : str
        What a good answer is; how to reply is added to it.
    reference_tag : str, optional
        The tag of a decision that holds a reference answer.
    text_limit : int
        Characters of each text that the judge sees; of longer ones the middle is left out.
    input_usd_per_mtok, output_usd_per_mtok : float
        Prices of the model that grades [USD per million tokens].
    daily_budget_usd : float, optional
        What all workers together may spend in a day, which begins at midnight UTC [USD].
    max_tokens : int
        The longest reply.
    max_tokens_name : {"max_tokens", "max_completion_tokens"}
        What the API calls that; OpenAI's reasoning models know only the second.
    options : mapping
        Further entries of the request's body. Some models know no ``temperature``: ``{}`` sends none.
    timeout_s : float
        For one call, from first to last [s].
    attempts : int
        How often one answer is tried.
    backoff_s : float
        Before the second attempt; four times that before each further one, up to ten minutes [s].
    concurrency : int
        Calls at once, in each worker.
    poll_s : float
        How often a judge that runs looks for work [s].
    lookback_s : float
        How old the outcomes are that a judge begins with when it starts [s].

    Raises
    ------
    SettingsError
        A value of the wrong type or out of range.
    """

    url: str
    model: str
    api_key_env: str | None = None
    share: float = 0.1
    sampling_key: str = "judge"
    scale: str = "1-5"
    rubric: str = DEFAULT_RUBRIC
    reference_tag: str | None = None
    text_limit: int = 60_000
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    daily_budget_usd: float | None = None
    max_tokens: int = 500
    max_tokens_name: str = "max_tokens"
    options: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})  # Any: JSON
    timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 2.0
    concurrency: int = 4
    poll_s: float = 2.0
    lookback_s: float = 86_400.0

    def __post_init__(self) -> None:
        try:
            self._check()
        except (TypeError, ValueError) as error:
            raise SettingsError(f"judge: {str(error).removeprefix('judge: ')}") from error

    def _check(self) -> None:
        _check_url(self.url)
        check_name(self.source, self.source)
        for name in ("model", "sampling_key", "api_key_env", "reference_tag"):
            if getattr(self, name) is not None:
                check_name(name, getattr(self, name))
        check_unit("share", self.share)
        if self.scale not in ("1-5", "0-1"):
            raise ValueError(f"scale: expected 1-5 or 0-1, got {self.scale!r:.20}")
        clean_text("rubric", self.rubric, RUBRIC_LIMIT)
        self._check_numbers()
        if self.max_tokens_name not in _MAX_TOKENS:
            raise ValueError(f"max_tokens_name: expected {' or '.join(_MAX_TOKENS)}")
        _check_options(self.options)

    def _check_numbers(self) -> None:
        for name in ("text_limit", "max_tokens", "attempts", "concurrency"):
            if check_count(name, getattr(self, name)) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("input_usd_per_mtok", "output_usd_per_mtok", "lookback_s", "backoff_s"):
            check_amount(name, getattr(self, name))
        for name in ("timeout_s", "poll_s", "daily_budget_usd"):
            value = getattr(self, name)
            if not (name == "daily_budget_usd" and value is None) and not check_amount(name, value):
                raise ValueError(f"{name}: expected more than 0, got {value}")
        if self.daily_budget_usd is not None and not self.input_usd_per_mtok:
            raise ValueError("daily_budget_usd: it needs input_usd_per_mtok and output_usd_per_mtok")

    @property
    def source(self) -> str:
        """Whose feedback a grade is."""
        return f"judge:{self.model}"

    @property
    def grading(self) -> Rubric:
        """By what answers are graded."""
        return Rubric(text=self.rubric, scale=self.scale, text_limit=self.text_limit)

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a call of that many tokens costs [USD]."""
        dear = input_tokens * self.input_usd_per_mtok + output_tokens * self.output_usd_per_mtok
        return dear / 1e6


def _check_options(options: object) -> None:
    """See that nothing in them makes a call other than the one that is paid for."""
    if not isinstance(options, Mapping):
        raise TypeError(f"options: expected an object, got {type(options).__name__}")
    for name in ("model", "messages", "stream", "n", *_MAX_TOKENS):
        if name in options:
            raise ValueError(f"options: {name} cannot be set there")


def _check_url(url: object) -> None:
    if not isinstance(url, str):
        raise TypeError(f"url: expected a text, got {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("url: expected one such as https://api.openai.com/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("url: expected no user, password or query: a key belongs into api_key_env")


def judge_settings_from_json(body: object) -> JudgeSettings:
    """Read plain values, as the ``[judge]`` table of a config file has them; what is absent is the default.

    Raises
    ------
    SettingsError
        Not an object, an unknown name, or a bad value.

    Examples
    --------
    >>> judge_settings_from_json({"url": "http://localhost:8000/v1", "model": "grader"}).source
    'judge:grader'
    """
    if not isinstance(body, Mapping):
        raise SettingsError(f"judge: expected an object, got {type(body).__name__}")
    names = [f.name for f in fields(JudgeSettings)]
    for name in body:
        if name not in names:
            raise SettingsError(f"judge: no setting {name!r}; there are {', '.join(names)}")
    for name in ("url", "model"):
        if name not in body:
            raise SettingsError(f"judge: it has no {name}")
    return JudgeSettings(**body)
