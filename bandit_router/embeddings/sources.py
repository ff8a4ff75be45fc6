"""Where embeddings come from: an endpoint that speaks OpenAI's protocol, a local model, or a function."""

from __future__ import annotations

import importlib
import json
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from bandit_router.embeddings.projection import MAX_SIZE
from bandit_router.errors import EmbeddingsUnavailableError, FeaturesError, SettingsError
from bandit_router.values import Array, check_name

if TYPE_CHECKING:
    import httpx

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
CONNECTIONS = 32  # of one source at once
_BODY_LIMIT = 1 << 27  # bytes of an answer
_OWN_FAULT = (400, 413, 422)  # what a text that is too long, or odd, is answered with
_LATER = (408, 409, 425, 429)
_KEY_NAME = re.compile(r"([A-Z][A-Z0-9_]*_)?API_KEY")
_WORD = re.compile(r"[^\s,=]+")

Embed = Callable[[list[str]], Any]  # Any: whatever NumPy can read as numbers of shape (n, size)


class RefusedTextError(EmbeddingsUnavailableError):
    """Raised when an endpoint takes others, but not this text."""


class BusyError(EmbeddingsUnavailableError):
    """Raised when asking again later may help."""


class Source(Protocol):
    """Turns texts into embeddings; safe from many threads."""

    @property
    def kind(self) -> str:
        """The first word of a SPEC."""
        ...

    @property
    def options(self) -> Mapping[str, str]:
        """The rest of it, in order."""
        ...

    @property
    def identity(self) -> tuple[str, ...]:
        """What the numbers depend on."""
        ...

    def warm(self) -> None:
        """See that it can be asked from here, and load what it needs.

        Raises
        ------
        FeaturesError, SettingsError
            A package, a key or the function is missing here.
        """
        ...

    def embed(self, texts: Sequence[str], *, patience_s: float) -> Array:
        """Return embeddings of shape (n, size): finite, and none of them zero.

        Raises
        ------
        EmbeddingsUnavailableError
            They do not come within about `patience_s`, or are no good.
        """
        ...

    def close(self) -> None:
        """Disconnect; what is asked afterwards fails."""
        ...

    def again(self) -> Source:
        """Return one like it with connections of its own, for a forked process."""
        ...


class Endpoint:
    """Any endpoint that speaks OpenAI's protocol: ``POST {base_url}/embeddings``.

    Parameters
    ----------
    model : str
    base_url : str
    api_key_env : str, optional
        The environment variable that holds the key, such as ``OPENAI_API_KEY``; its name ends so, that no
        other secret is sent anywhere. By default OpenAI's key goes to OpenAI, and none to anybody else.
    environ : mapping of str to str, optional
        Where it is looked up; by default the process's environment.

    Raises
    ------
    SettingsError
        A bad URL or name.
    """

    kind = "openai"

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        api_key_env: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.base_url = _word("model", model), _checked_url(base_url)
        self._default_key = OPENAI_KEY if self.base_url == OPENAI_URL else None
        self.api_key_env = self._default_key if api_key_env is None else api_key_env
        if self.api_key_env is not None and not _KEY_NAME.fullmatch(self.api_key_env):
            raise SettingsError(f"api_key_env: expected a name like OPENAI_API_KEY, got {api_key_env!r}")
        self._environ = os.environ if environ is None else environ
        self._client: httpx.Client | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, base_url={self.base_url!r}, api_key_env={self.api_key_env!r})"

    @property
    def options(self) -> Mapping[str, str]:
        """As `Source.options`; the name of the key's variable, never the key."""
        options = {"model": self.model}
        if self.base_url != OPENAI_URL:
            options["base_url"] = self.base_url
        if self.api_key_env is not None and self.api_key_env != self._default_key:
            options["api_key_env"] = self.api_key_env
        return options

    @property
    def identity(self) -> tuple[str, ...]:
        """As `Source.identity`."""
        return self.model, self.base_url

    def warm(self) -> None:
        """As `Source.warm`; nothing is sent."""
        self._connected()

    def embed(self, texts: Sequence[str], *, patience_s: float) -> Array:
        """As `Source.embed`."""
        import httpx

        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        try:
            content = self._post(self._connected(), json.dumps(body).encode(), patience_s)
        except (
            httpx.HTTPError,
            httpx.StreamError,
            RuntimeError,
        ) as error:  # closed meanwhile: RuntimeError
            # Their type alone: a message may hold what was sent.
            raise BusyError(f"embeddings: {type(error).__name__} at {self.base_url}") from None
        return checked(_read_answer(content, len(texts)), len(texts))

    def close(self) -> None:
        """As `Source.close`."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def again(self) -> Endpoint:
        """As `Source.again`."""
        return Endpoint(
            self.model, base_url=self.base_url, api_key_env=self.api_key_env, environ=self._environ
        )

    def _connected(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                httpx = _needed("httpx", extra="http")
                headers = {"content-type": "application/json", "accept-encoding": "identity"}
                if self.api_key_env is not None:
                    headers["authorization"] = f"Bearer {_key(self.api_key_env, self._environ)}"
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS)
                # The key goes to nobody else.
                self._client = httpx.Client(headers=headers, limits=limits, follow_redirects=False)
                weakref.finalize(self, self._client.close)  # who forgets to close leaves no socket open
            return self._client

    def _post(self, client: httpx.Client, body: bytes, patience_s: float) -> bytes:
        """Return the body of a good answer that comes in time, however slowly its bytes drip."""
        until = time.monotonic() + patience_s
        content = bytearray()
        with client.stream(
            "POST", f"{self.base_url}/embeddings", content=body, timeout=patience_s
        ) as answer:
            _check_status(answer.status_code)
            for part in answer.iter_bytes():
                content += part
                if len(content) > _BODY_LIMIT or time.monotonic() > until:
                    raise BusyError("embeddings: the answer is too long, or comes too slowly")
        return bytes(content)


class SentenceModel:
    """A model of the package sentence-transformers, in this process.

    Parameters
    ----------
    model : str
        Its name, or a folder; what is not there yet is downloaded by the package.
    """

    kind = "sentence"

    def __init__(self, model: str) -> None:
        self.model = _word("model", model)
        self._encoder: Any = None  # Any: the package is not needed for types
        self._lock = threading.Lock()  # tokenizers refuse two threads at once

    def __repr__(self) -> str:
        return f"SentenceModel({self.model!r})"

    @property
    def options(self) -> Mapping[str, str]:
        """As `Source.options`."""
        return {"model": self.model}

    @property
    def identity(self) -> tuple[str, ...]:
        """As `Source.identity`."""
        return (self.model,)

    def warm(self) -> None:
        """As `Source.warm`: loads the model, which takes seconds."""
        with self._lock:
            if self._encoder is None:
                package = _needed("sentence_transformers", extra="embeddings")
                try:
                    self._encoder = package.SentenceTransformer(self.model)
                except Exception as error:  # whatever a download or a damaged file may raise
                    raise FeaturesError(
                        f"embeddings: the model {self.model!r} cannot be loaded: {error}"
                    ) from error

    def embed(self, texts: Sequence[str], *, patience_s: float) -> Array:
        """As `Source.embed`; arithmetic cannot be hurried, so whoever waits looks at the time."""
        self.warm()
        with self._lock:
            try:
                found = self._encoder.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
            except Exception as error:  # a library of many kinds of error; its message may hold a text
                raise EmbeddingsUnavailableError(
                    f"embeddings: the model {self.model!r} failed: {type(error).__name__}"
                ) from None
        return checked(found, len(texts))

    def close(self) -> None:
        """As `Source.close`: there is nothing to disconnect."""

    def again(self) -> SentenceModel:
        """As `Source.again`: loaded anew, for its threads did not survive the fork."""
        return SentenceModel(self.model)


class Function:
    """A function of the host's own, which gives the embeddings of a list of texts.

    Parameters
    ----------
    embed : callable, optional
        Takes a list of texts, returns numbers of shape (n, size); called from many threads. None: this
        process was not given the function.
    name, version : str
        Another version must be given whenever its numbers change.
    """

    kind = "callable"

    def __init__(self, embed: Embed | None, *, name: str, version: str) -> None:
        if embed is not None and not callable(embed):
            raise TypeError(f"embed: expected a function, got {type(embed).__name__}")
        self.name, self.version = _word("name", name), _word("version", version)
        self._embed = embed

    def __repr__(self) -> str:
        return f"Function({self._embed!r}, name={self.name!r}, version={self.version!r})"

    @property
    def options(self) -> Mapping[str, str]:
        """As `Source.options`."""
        return {"name": self.name, "version": self.version}

    @property
    def identity(self) -> tuple[str, ...]:
        """As `Source.identity`."""
        return self.name, self.version

    def warm(self) -> None:
        """As `Source.warm`."""
        if self._embed is None:
            raise FeaturesError(
                f"embeddings: the function {self.name!r} (version {self.version}) is the host's own: give it "
                "to Router.open(features=EmbeddedFeatures.of(...)) in every process"
            )

    def embed(self, texts: Sequence[str], *, patience_s: float) -> Array:
        """As `Source.embed`; a function cannot be hurried, so whoever waits looks at the time."""
        self.warm()
        assert self._embed is not None
        try:
            found = self._embed(list(texts))
        except Exception as error:  # the host's own; its message may hold a text
            raise BusyError(
                f"embeddings: the function {self.name!r} failed: {type(error).__name__}"
            ) from None
        return checked(found, len(texts))

    def close(self) -> None:
        """As `Source.close`: there is nothing to disconnect."""

    def again(self) -> Function:
        """As `Source.again`."""
        return self


def checked(found: object, n: int) -> Array:
    """Return embeddings as numbers of shape (n, size), if they are n, finite, and none of them zero.

    Raises
    ------
    EmbeddingsUnavailableError
        They are not.
    """
    try:
        table = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise EmbeddingsUnavailableError(
            "embeddings: expected numbers, as many in each embedding"
        ) from None
    if table.ndim != 2 or len(table) != n or not 1 <= table.shape[1] <= MAX_SIZE:
        raise EmbeddingsUnavailableError(f"embeddings: expected shape ({n}, size), got {table.shape}")
    if not np.isfinite(table).all():
        raise EmbeddingsUnavailableError("embeddings: expected finite numbers")
    if not table.any(axis=1).all():
        raise EmbeddingsUnavailableError("embeddings: expected none that is zero")
    return table


def _read_answer(content: bytes, n: int) -> list[object]:
    """The embeddings of an answer, in the order of the texts."""
    try:
        items = sorted(json.loads(content)["data"], key=lambda item: item["index"])
        if [item["index"] for item in items] != list(range(n)):
            raise ValueError("indices")
        return [item["embedding"] for item in items]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise EmbeddingsUnavailableError(
            f"embeddings: expected data with {n} embeddings, got another body"
        ) from None


def _check_status(status: int) -> None:
    if status == 200:
        return
    said = f"embeddings: the endpoint answered {status}"
    if status in _OWN_FAULT:
        raise RefusedTextError(said)
    raise (BusyError if status >= 500 or status in _LATER else EmbeddingsUnavailableError)(said)


def _needed(module: str, *, extra: str) -> Any:  # Any: a module
    """Import an optional package, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        raise FeaturesError(
            f"embeddings: {package} is missing: pip install 'bandit-router[{extra}]'"
        ) from error


def _key(variable: str, environ: Mapping[str, str]) -> str:
    key = environ.get(variable, "").strip()
    if not key:
        raise SettingsError(f"embeddings: the environment has no {variable}")
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"embeddings: {variable}: expected printable ASCII characters")
    return key


def _word(what: str, value: object) -> str:
    """Return a text that a SPEC can hold."""
    try:
        name = check_name(what, value)
    except (TypeError, ValueError) as error:
        raise SettingsError(str(error)) from error
    if not _WORD.fullmatch(name):
        raise SettingsError(f"{what}: expected no blank, comma or equals sign, got {name!r}")
    return name


def _checked_url(url: str) -> str:
    parts = urlsplit(_word("base_url", url))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError("base_url: expected one such as https://api.openai.com/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "base_url: expected no user, password or query: a key belongs into api_key_env"
        )
    return url.rstrip("/")
