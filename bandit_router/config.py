"""Where a program's settings come from: a TOML file, the environment, the command line. Read once.

Flags win over ``BANDIT_ROUTER_*`` variables, they over the file, it over defaults.

::

    log = "sqlite:///chat.db"
    store = "memory://"
    router = "default"

    [settings]                 # as `Settings`; times in seconds
    policy = "thompson"
    half_life_s = 2592000
    [settings.preference]
    price_weight = 0.3

    [service]                  # as `Service`
    port = 8080
    workers = 4

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
from typing import Any

from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.settings import model_from_json, settings_changes
from bandit_router.values import check_amount, check_count, check_name

PREFIX = "BANDIT_ROUTER_"
_PLACES = ("log", "store", "router")
_PORTS = 65_536


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
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error


def _check_between(name: str, value: object, low: int, high: int) -> None:
    if not low <= check_count(name, value) <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value}")


_SERVICE = tuple(field.name for field in fields(Service))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a program was told.

    Attributes
    ----------
    log, store : str
        URLs.
    router : str
        Its name.
    models : tuple of Model
    settings : mapping
        Arguments of `Settings` that were given.
    service : Service
    judge : mapping
        What the ``[judge]`` table says; whoever grades reads it.
    """

    log: str = "sqlite:///bandit_router.db"
    store: str = "memory://"
    router: str = "default"
    models: tuple[Model, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # Any: of each setting's own type
    service: Service = field(default_factory=Service)
    judge: Mapping[str, Any] = field(default_factory=dict)  # Any: TOML

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Router.open`.

        Examples
        --------
        >>> Config(log="sqlite://").arguments()["log"]
        'sqlite://'
        """
        places = {"log": self.log, "store": self.store, "name": self.router}
        return {**places, "models": self.models, **self.settings}


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
    service = dict(_table(body.pop("service", {}), "service"))
    unknown = sorted(service.keys() - set(_SERVICE))
    if unknown:
        raise SettingsError(f"service: no entry {unknown[0]!r}; there are {', '.join(_SERVICE)}")
    judge = dict(_table(body.pop("judge", {}), "judge"))
    models = body.pop("models", [])
    places = {name: body.pop(name) for name in _PLACES if name in body}
    if body:
        raise SettingsError(f"config: no entry {next(iter(body))!r}; there are {_known()}")
    for name, value in [*_variables(environ), *flags.items()]:
        if value is not None:
            kind = places if name in _PLACES else service if name in _SERVICE else settings
            kind[name] = value
    if "budget_since" in settings:
        raise SettingsError("no setting 'budget_since': the router keeps it itself")
    return Config(
        **{name: _text(name, value) for name, value in places.items()},
        models=_models(models),
        settings=settings_changes(settings),
        service=_service(service),
        judge=judge,
    )


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
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(str(error)) from error


def _variables(environ: Mapping[str, str]) -> list[tuple[str, Any]]:  # Any: TOML
    said = [
        (name.removeprefix(PREFIX).lower(), text)
        for name, text in environ.items()
        if name.startswith(PREFIX)
    ]
    return [(name, text if name in (*_PLACES, "host") else _value(text)) for name, text in said]


def _value(text: str) -> Any:  # Any: TOML
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
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
    return ", ".join((*_PLACES, "settings", "service", "judge", "models"))
