"""Features made of embeddings: hand-made signals, and components of an embedding of the text."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bandit_router.embeddings.projection import Projection
from bandit_router.embeddings.sources import BusyError, Embed, Function, Source
from bandit_router.embeddings.timely import Timely
from bandit_router.errors import SettingsError
from bandit_router.features.signals import NAMES, SIGNALS_VERSION, signals
from bandit_router.features.vectors import MAX_DIM, STOPGAP, check_ready, check_size
from bandit_router.prompt import Prompt
from bandit_router.values import Array, check_amount, check_count, clean_text

TIMEOUT_S = 0.5
HEAD, TAIL = 6_000, 2_000  # characters that are embedded; most models read no further
BATCH = 64  # texts in one call, where nobody waits
PATIENCE_S = 60.0  # for a batch; and what a call may take that nobody waits for any more is a part of it
TRIES = 4
_FORMAT = 1  # of how features are made of embeddings; raise it with any change of a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How embeddings become features.

    Attributes
    ----------
    dim : int
        Components beside the constant and the signals.
    seed : int
        Of the random projection.
    timeout_s : float
        How long a request waits for its embedding [s].
    projection : Projection, optional
        A fitted one, instead of the random one.
    """

    dim: int = 64
    seed: int = 0
    timeout_s: float = TIMEOUT_S
    projection: Projection | None = None

    def __post_init__(self) -> None:
        check_size("dim", self.dim, MAX_DIM)
        try:
            check_count("seed", self.seed)
            if not 0 < check_amount("timeout_s", self.timeout_s) <= PATIENCE_S:
                raise ValueError(f"timeout_s: expected up to {PATIENCE_S:g} s, got {self.timeout_s:g}")
        except (TypeError, ValueError) as error:
            raise SettingsError(str(error)) from error
        if self.projection is not None and self.projection.dim != self.dim:
            raise SettingsError(f"dim: the projection has {self.projection.dim}, got {self.dim}")


class EmbeddedFeatures:
    """Hand-made signals, and components of an embedding of the last user turn.

    ``x = [1, signals, components]``. A text longer than 8,000 characters is embedded by its first 6,000 and
    last 2,000; a blank one has no embedding, and components of zero. Components are a fixed orthonormal
    projection of the embedding at unit length, or principal components fitted by `fit`; either is scaled to
    the mean squared length that fitted TF-IDF components have beside the signals.

    An embedding that does not come within the time limit raises `EmbeddingsUnavailableError`; a router then
    decides by `stopgap`, says so (reason "degraded"), and does not learn from it until `Router.rebuild`.

    Parameters
    ----------
    source : Source
        An `Endpoint`, a `SentenceModel` or a `Function`.
    dim : int
        Components, 1 to 8192, and not more than an embedding has numbers.
    seed : int
        Of the random projection.
    timeout_s : float
        How long a request waits for its embedding [s].
    projection : Projection, optional
        Instead of the random one.

    Raises
    ------
    SettingsError
        A number out of range.

    Examples
    --------
    >>> embed = lambda texts: [[1.0, float(len(text)), 0.5] for text in texts]
    >>> features = EmbeddedFeatures.of(embed, name="lengths", version="1", dim=2)
    >>> features.spec
    'callable:name=lengths,version=1,dim=2'
    >>> features.extract(Prompt(text="Explain quantum computing")).shape
    (18,)
    """

    def __init__(self, source: Source, **size: Any) -> None:  # Any: as `Size`, which checks them
        self.source, self.size = source, Size(**size)
        self._projection, self._version = self.size.projection, _version_of(source, self.size)
        self._timely = Timely(self._components, timeout_s=self.size.timeout_s)

    @classmethod
    def of(
        cls, embed: Embed, *, name: str, version: str, **size: Any
    ) -> EmbeddedFeatures:  # Any: as above
        """Return features made of the embeddings that a function gives.

        Parameters
        ----------
        embed : callable
            Takes a list of texts, returns numbers of shape (n, size); called from many threads.
        name, version : str
            Another version must be given whenever its numbers change.
        **size
            As `EmbeddedFeatures`.
        """
        return cls(Function(embed, name=name, version=version), **size)

    def __repr__(self) -> str:
        return f"<EmbeddedFeatures {self.spec}>"

    @property
    def spec(self) -> str:
        """As `FeatureExtractor.spec`; a fitted projection itself is in the log."""
        options = {**self.source.options, "dim": str(self.size.dim)}
        if self.size.projection is not None:
            options["projection"] = self.size.projection.version
        elif self.size.seed:
            options["seed"] = str(self.size.seed)
        if self.size.timeout_s != TIMEOUT_S:
            options["timeout_s"] = f"{self.size.timeout_s!r}"
        return f"{self.source.kind}:" + ",".join(f"{key}={value}" for key, value in options.items())

    @property
    def version(self) -> str:
        """As `FeatureExtractor.version`."""
        return self._version

    @property
    def stopgap_version(self) -> str:
        """What features without their embedding are called."""
        return self.version + STOPGAP

    @property
    def dim(self) -> int:
        """As `FeatureExtractor.dim`."""
        return 1 + len(NAMES) + self.size.dim

    @property
    def trouble(self) -> str | None:
        """Why nobody waits for embeddings at the moment; None where all is well."""
        return self._timely.trouble

    def warm(self) -> None:
        """See that embeddings can be asked for from here, and load what they need; nothing is sent.

        Raises
        ------
        FeaturesError, SettingsError
            A package, a key or a function is missing here.
        """
        self.source.warm()

    def extract(self, prompt: Prompt) -> Array:
        """As `FeatureExtractor.extract`, within the time limit.

        Raises
        ------
        EmbeddingsUnavailableError
            The embedding does not come in time, or is no good.
        """
        text = _seen(prompt)
        return self._joined(prompt, self._timely.get(text) if text else None)

    async def aextract(self, prompt: Prompt) -> Array:
        """As `extract`, without blocking the event loop."""
        text = _seen(prompt)
        return self._joined(prompt, await self._timely.aget(text) if text else None)

    def stopgap(self, prompt: Prompt) -> Array:
        """Return what is known without the embedding: the constant and the signals, of shape (dim,)."""
        return self._joined(prompt, None)

    def extract_many(self, prompts: Sequence[Prompt]) -> Array:
        """As `FeatureExtractor.extract_many`: in batches, patiently, and without a stopgap.

        Raises
        ------
        EmbeddingsUnavailableError
            Embeddings do not come, after all tries, or are no good.
        """
        texts = [_seen(prompt) for prompt in prompts]
        known: dict[str, Array] = {}
        for text in dict.fromkeys(texts):
            vector = self._timely.find(text) if text else None
            if vector is not None:
                known[text] = vector
        missing = [text for text in dict.fromkeys(texts) if text and text not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for text, embedding in zip(batch, self._embed_patiently(batch), strict=True):
                known[text] = self._projected(embedding)
                self._timely.keep(text, known[text])
        rows = [
            self._joined(prompt, known.get(text)) for prompt, text in zip(prompts, texts, strict=True)
        ]
        x = np.array(rows).reshape(len(prompts), self.dim)
        x.flags.writeable = False
        return x

    def fit(self, prompts: Sequence[Prompt], *, dim: int | None = None) -> EmbeddedFeatures:
        """Return features whose components are the principal ones of these prompts' embeddings.

        Parameters
        ----------
        prompts : sequence of Prompt
            A few hundred or more; nothing of them is kept but sums.
        dim : int, optional
            Components at most, by default as many as now.

        Raises
        ------
        FeaturesError
            Too few prompts, or all alike.
        EmbeddingsUnavailableError
            As `extract_many`.
        """
        texts = [text for text in dict.fromkeys(_seen(prompt) for prompt in prompts) if text]
        found = [
            self._embed_patiently(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)
        ]
        fitted = Projection.fit(
            np.concatenate(found) if found else np.empty((0, 1)), dim or self.size.dim
        )
        return EmbeddedFeatures(
            self.source, dim=fitted.dim, timeout_s=self.size.timeout_s, projection=fitted
        )

    def ready(self, vector: object) -> Array:
        """As `FeatureExtractor.ready`; the vector is x itself, of shape (dim,)."""
        return check_ready(vector, self.dim)

    def close(self) -> None:
        """Disconnect."""
        self.source.close()

    def again(self) -> EmbeddedFeatures:
        """Return the same with connections, threads and memory of its own, for a forked process."""
        size = self.size
        return EmbeddedFeatures(
            self.source.again(),
            dim=size.dim,
            seed=size.seed,
            timeout_s=size.timeout_s,
            projection=size.projection,
        )

    def _components(self, text: str) -> Array:
        """Ask for one embedding, for as long as somebody may come back for it."""
        patience_s = min(PATIENCE_S, 10 * self.size.timeout_s)
        return self._projected(self.source.embed([text], patience_s=patience_s)[0])

    def _projected(self, embedding: Array) -> Array:
        if self._projection is None:
            # All embeddings of one model are as long as the first one.
            self._projection = Projection.random(len(embedding), self.size.dim, seed=self.size.seed)
        return self._projection.project(embedding)

    def _joined(self, prompt: Prompt, components: Array | None) -> Array:
        x = np.zeros(self.dim)
        x[0], x[1 : 1 + len(NAMES)] = 1.0, signals(prompt)
        if components is not None:
            x[1 + len(NAMES) :] = components
        x.flags.writeable = False
        return x

    def _embed_patiently(
        self, texts: Sequence[str], *, sleep: Callable[[float], None] = time.sleep
    ) -> Array:
        for tried in range(1, TRIES):
            try:
                return self.source.embed(texts, patience_s=PATIENCE_S)
            except BusyError:
                sleep(0.25 * 4**tried)  # 1, 4 and 16 s
        return self.source.embed(texts, patience_s=PATIENCE_S)


def _version_of(source: Source, size: Size) -> str:
    """A name for all that the numbers depend on."""
    made = f"seed={size.seed}" if size.projection is None else size.projection.version
    parts = (*source.identity, str(size.dim), made, str(SIGNALS_VERSION), str(_FORMAT))
    return f"{source.kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}"


def _seen(prompt: Prompt) -> str:
    """What of a prompt is embedded; nothing of a blank one."""
    text = prompt.text.strip()
    cut = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"
    return clean_text("prompt", cut)
