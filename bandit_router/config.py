"""Where a program's settings come from: a TOML file, the environment, the command line. Read once.

Flags win over ``BANDIT_ROUTER_*`` variables, they over the file, it over defaults.

::

    log = "sqlite:///chat.db"
    store = "memory://"
    router = "default"
    log_timeout_s = 5          # how long a request waits for the log
    journal = "chat.db.journal"  # where decisions wait while it is away

    [settings]                 # as `Settings`; times in seconds
    policy = "thompson"
    half_life_s = 2592000
    features = "openai:model=text-embedding-3-small,dim=64"  # by default "hashed"
    [settings.preference]
    price_weight = 0.3
    max_quality_drop = 0.02    # below the best model's predicted quality

    [service]                  # as `Service`
    port = 8080
    workers = 4
    log_format = "json"

    [alarms]                   # as `feedback.thresholds.Thresholds`
    join_rate = 0.01

    [tracing]                  # spans go to an OpenTelemetry collector
    endpoint = "http://localhost:4318"

    [limits]                   # as `Limits`
    user_per_minute = 60

    [privacy]                  # users are kept as keyed hashes: see `Pseudonyms`
    user_key_env = "USER_KEY"  # or user_key_file = "/run/secrets/user_key"

    [judge]                    # as `feedback.judge.JudgeSettings`
    url = "https://api.openai.com/v1"
    model = "gpt-4o"
    api_key_env = "OPENAI_API_KEY"

    [[models]]
    name = "small"
    input_usd_per_mtok = 0.15
    output_usd_per_mtok = 0.60
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.pseudonyms import check_user_key
from bandit_router.settings import model_from_json, settings_changes
from bandit_router.values import check_amount, check_count, check_name

PREFIX = "BANDIT_ROUTER_"
_PLACES = ("log", "store", "router", "journal")
_PATIENCE = ("log_timeout_s", "journal_bytes")
_PORTS = 65_536
_MOST_PER_MINUTE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How the HTTP service listens, and what it bears.

    Attributes
    ----------
    host : str
        The address to listen on. Off loopback every call needs a key.
    port : int
        0 takes a free one.
    workers : int
        Processes that serve.
    drain_s : float
        How long ending may take, with running requests and what is not yet written [s].
    receive_s : float
        How long a client may take to send a request, from its first byte to its last [s].
    keep_alive_s : int
        How long a connection may be idle between requests [s].
    connections : int
        Of one worker at the same time; requests on more of them get 503.
    body_bytes : int
        Larger bodies get 413.
    cors : tuple of str
        Origins whose pages may call from a browser; ``*`` is all of them.
    log_format : {"text", "json"}
        What the program's own log lines are.
    access_log : bool
        Whether there is one for each request.

    Examples
    --------
    >>> Service(port=0).host
    '127.0.0.1'
    >>> Service(workers=0)
    Traceback (most recent call last):
        ...
    bandit_router.errors.SettingsError: workers: expected a whole number from 1 to 1024, got 0
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    drain_s: float = 10.0
    receive_s: float = 30.0
    keep_alive_s: int = 5
    connections: int = 1_000
    body_bytes: int = 8 * 1024 * 1024
    cors: tuple[str, ...] = ()
    log_format: str = "text"
    access_log: bool = True

    def __post_init__(self) -> None:
        try:
            check_name("host", self.host)
            _check_between("port", self.port, 0, _PORTS - 1)
            _check_between("workers", self.workers, 1, 1024)
            for name in ("keep_alive_s", "connections", "body_bytes"):
                _check_between(name, getattr(self, name), 1, 2**31 - 1)
            for name in ("drain_s", "receive_s"):
                if check_amount(name, getattr(self, name)) == 0:
                    raise ValueError(f"{name}: expected a number above 0, got 0")
            for origin in self.cors:
                check_name("cors", origin)
            if self.log_format not in ("text", "json"):
                raise ValueError(f"log_format: expected text or json, got {self.log_format!r:.40}")
            if not isinstance(self.access_log, bool):
                raise ValueError(f"access_log: expected true or false, got {self.access_log!r:.40}")
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error


def _check_between(name: str, value: object, low: int, high: int) -> None:
    if not low <= check_count(name, value) <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much callers of the service may ask; decisions, feedback and all other calls are counted apart.

    Attributes
    ----------
    key_per_minute, user_per_minute : float, optional
        Through one key; of one user through it. Each item of a batch counts. None is without limit.
    key_burst, user_burst : int, optional
        How many may come at once; by default those of a minute.
    when_away : {"open", "closed"}
        While Redis, which counts for all workers, is away: each worker counts for itself, or what would be
        counted gets 503.

    Examples
    --------
    >>> Limits(key_per_minute=0)
    Traceback (most recent call last):
        ...
    bandit_router.errors.SettingsError: key_per_minute: expected a number above 0, got 0
    """

    key_per_minute: float | None = None
    key_burst: int | None = None
    user_per_minute: float | None = None
    user_burst: int | None = None
    when_away: Literal["open", "closed"] = "open"

    def __post_init__(self) -> None:
        try:
            for name in ("key_per_minute", "user_per_minute"):
                given = getattr(self, name)
                if given is not None and not 1e-6 <= check_amount(name, given) <= _MOST_PER_MINUTE:
                    raise ValueError(f"{name}: expected a number above 0, got {given:g}")
            for name in ("key_burst", "user_burst"):
                if getattr(self, name) is not None:
                    _check_between(name, getattr(self, name), 1, 10**9)
            if self.when_away not in ("open", "closed"):
                raise ValueError(f"when_away: expected open or closed, got {self.when_away!r:.40}")
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error


_SERVICE = tuple(field.name for field in fields(Service))
_LIMITS = tuple(field.name for field in fields(Limits))
_PRIVACY = ("user_key_env", "user_key_file")
_TABLES = ("judge", "alarms", "tracing")  # read by whoever heeds them


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a program was told.

    Attributes
    ----------
    log, store : str
        URLs.
    router : str
        Its name.
    journal : str, optional
        The folder where decisions wait while the log is away; by default beside an embedded log, else in the
        user's state folder.
    log_timeout_s : float
        How long a request waits for the log [s].
    journal_bytes : int
        How much may wait in the journal.
    models : tuple of Model
    settings : mapping
        Arguments of `Settings` that were given.
    service : Service
    limits : Limits
    judge : mapping
        What the ``[judge]`` table says; whoever grades reads it.
    alarms, tracing : mapping
        What the tables of these names say: when the loop's health raises an alarm, and where spans go.
    user_key : bytes, optional
        By which users are kept as keyed hashes.
    """

    log: str = field(default="sqlite:///bandit_router.db", repr=False)  # a password may be in a URL
    store: str = field(default="memory://", repr=False)
    router: str = "default"
    journal: str | None = None
    log_timeout_s: float = 5.0
    journal_bytes: int = 64 * 1024 * 1024
    models: tuple[Model, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # Any: of each setting's own type
    service: Service = field(default_factory=Service)
    limits: Limits = field(default_factory=Limits)
    judge: Mapping[str, Any] = field(default_factory=dict)  # Any: TOML
    alarms: Mapping[str, Any] = field(default_factory=dict)  # Any: TOML
    tracing: Mapping[str, Any] = field(default_factory=dict)  # Any: TOML
    user_key: bytes | None = field(default=None, repr=False)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Router.open`.

        Examples
        --------
        >>> Config(log="sqlite://").arguments()["log"]
        'sqlite://'
        """
        places = {"log": self.log, "store": self.store, "name": self.router, **self.patience()}
        return {**places, "models": self.models, "user_key": self.user_key, **self.settings}

    def patience(self) -> dict[str, Any]:  # Any: of each argument's own type
        """Return those arguments of `Router.open` that say what is borne while the log is away."""
        return {name: getattr(self, name) for name in ("journal", *_PATIENCE)}


def read_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Read a program's settings.

    Parameters
    ----------
    path : str or Path, optional
        A TOML file.
    environ : mapping of str to str, optional
        ``BANDIT_ROUTER_LOG``, ``BANDIT_ROUTER_POLICY``, ``BANDIT_ROUTER_PORT`` and so on; values as in
        TOML, or plain text. Unknown names are refused.
    flags : mapping, optional
        What the command line said; None values were not said.

    Raises
    ------
    SettingsError
        The file is missing or malformed, or a name or value is wrong; the message says which.

    Examples
    --------
    >>> config = read_config(environ={"BANDIT_ROUTER_POLICY": "linucb:alpha=0.2", "PATH": "/bin"})
    >>> config.settings
    {'policy': LinUCB(alpha=0.2)}
    """
    try:
        return _read(path, environ or {}, flags or {})
    except SettingsError as error:
        where = "config" if path is None else f"config {path}"
        raise SettingsError(f"{where}: {str(error).removeprefix('config: ')}") from error


def _read(
    path: str | Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> Config:  # Any: TOML
    body = {} if path is None else _read_file(Path(path))
    settings = dict(_table(body.pop("settings", {}), "settings"))
    service = _entries(body, "service", _SERVICE)
    limits = _entries(body, "limits", _LIMITS)
    privacy = _entries(body, "privacy", _PRIVACY)
    judge, alarms, tracing = (dict(_table(body.pop(name, {}), name)) for name in _TABLES)
    models = body.pop("models", [])
    places = {name: body.pop(name) for name in _PLACES if name in body}
    patience = {name: body.pop(name) for name in _PATIENCE if name in body}
    if body:
        raise SettingsError(f"config: no entry {next(iter(body))!r}; there are {_known()}")
    for name, value in [*_variables(environ), *flags.items()]:
        if value is not None:
            kinds = (
                *((places, _PLACES), (patience, _PATIENCE)),
                *((service, _SERVICE), (limits, _LIMITS), (privacy, _PRIVACY)),
            )
            next((kind for kind, names in kinds if name in names), settings)[name] = value
    if "budget_since" in settings:
        raise SettingsError("no setting 'budget_since': the router keeps it itself")
    given: dict[str, Any] = {name: _text(name, value) for name, value in places.items()}
    return Config(
        **given,
        **patience,  # checked where it is heeded
        models=_models(models),
        settings=settings_changes(settings),
        service=_service(service),
        limits=Limits(**limits),
        judge=judge,
        alarms=alarms,
        tracing=tracing,
        user_key=_user_key(privacy, environ),
    )


def _entries(body: dict[str, Any], table: str, known: tuple[str, ...]) -> dict[str, Any]:  # Any: TOML
    """Take a table out of the file; it has no entries but these."""
    entries = dict(_table(body.pop(table, {}), table))
    unknown = sorted(entries.keys() - set(known))
    if unknown:
        raise SettingsError(f"{table}: no entry {unknown[0]!r}; there are {', '.join(known)}")
    return entries


def _user_key(entries: Mapping[str, Any], environ: Mapping[str, str]) -> bytes | None:  # Any: TOML
    """The key of users' hashes, from where it is kept: never from the config itself."""
    if len(entries) > 1:
        raise SettingsError(f"privacy: expected one of {' and '.join(_PRIVACY)}, got both")
    for name, place in entries.items():
        kept = _text(name, place)
        key = _read_key(kept) if name == "user_key_file" else environ.get(kept, "").encode().strip()
        return check_user_key(f"privacy: {name} {kept}", key)
    return None


def _read_key(path: str) -> bytes:
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"privacy: user_key_file: {error}") from error


def _service(entries: Mapping[str, Any]) -> Service:  # Any: TOML
    cors = entries.get("cors", [])
    if isinstance(cors, str):
        cors = [origin.strip() for origin in cors.split(",")]
    if not isinstance(cors, list | tuple):
        raise SettingsError(f"cors: expected a list of origins, got {type(cors).__name__}")
    return Service(**{**entries, "cors": tuple(cors)})


def _read_file(path: Path) -> dict[str, Any]:  # Any: TOML
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError
        raise SettingsError(str(error)) from error


def _variables(environ: Mapping[str, str]) -> list[tuple[str, Any]]:  # Any: TOML
    said = [
        (name.removeprefix(PREFIX).lower(), text)
        for name, text in environ.items()
        if name.startswith(PREFIX)
    ]
    return [
        (name, text if name in (*_PLACES, *_PRIVACY, "host") else _value(text)) for name, text in said
    ]


def _value(text: str) -> Any:  # Any: TOML
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML
        return text


def _models(entries: object) -> tuple[Model, ...]:
    if not isinstance(entries, list):
        raise SettingsError("config: models: expected [[models]] tables")
    return tuple(model_from_json(_table(entry, "models")) for entry in entries)


def _table(value: object, name: str) -> Mapping[str, Any]:  # Any: TOML
    if not isinstance(value, Mapping):
        raise SettingsError(f"config: {name}: expected a table, got {type(value).__name__}")
    return value


def _text(name: str, value: object) -> str:
    try:
        return check_name(name, value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"config: {error}") from error


def _known() -> str:
    return ", ".join(
        (*_PLACES, *_PATIENCE, "settings", "service", "limits", "privacy", *_TABLES, "models")
    )
