"""Pick a language model for every request, and learn from what users and judges say.

>>> from bandit_router import Model, Router
>>> with Router.open("sqlite://", models=[Model("small"), Model("large")]) as router:
...     decision = router.choose("Explain quantum computing")
...     heard = router.feedback(decision.id, "thumb", True, source="user:42")
>>> heard.applied
True
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bandit_router.embeddings import EmbeddedFeatures
    from bandit_router.errors import (
        AccessError,
        ArchivedDecisionError,
        ArchiveError,
        BanditRouterError,
        ClosedError,
        ConflictError,
        EmbeddingsUnavailableError,
        FeaturesError,
        FormatError,
        LogUnavailableError,
        LogVersionError,
        NewerFormatError,
        NoEligibleModelError,
        PeerError,
        ReplayError,
        ServiceUnavailableError,
        SettingsError,
        StaleGenerationError,
        StoreUnavailableError,
        TableError,
        UnknownDecisionError,
        UnknownFeedbackError,
        UnknownModelError,
        UnknownRouterError,
    )
    from bandit_router.events import Candidate, Decision, Feedback, Model, Outcome, Reward
    from bandit_router.features import FeatureExtractor, FittedFeatures, HashedFeatures, VectorFeatures
    from bandit_router.log import EventLog
    from bandit_router.policies import (
        EpsilonGreedy,
        Greedy,
        InverseGapWeighting,
        LinUCB,
        Policy,
        ThompsonSampling,
        Uniform,
    )
    from bandit_router.preference import Preference
    from bandit_router.rewards import Metric, Trust
    from bandit_router.router import Router
    from bandit_router.settings import Settings
    from bandit_router.store import MemoryStore, PosteriorStore

__version__ = "0.1.0"

_ROOMS = {
    "embeddings": ("EmbeddedFeatures",),
    "errors": (
        *("AccessError", "ArchiveError", "ArchivedDecisionError", "BanditRouterError"),
        *("ClosedError", "ConflictError", "EmbeddingsUnavailableError", "FeaturesError"),
        *("FormatError", "LogUnavailableError", "LogVersionError", "NewerFormatError"),
        *("NoEligibleModelError", "PeerError", "ReplayError"),
        *("ServiceUnavailableError", "SettingsError", "StaleGenerationError"),
        *("StoreUnavailableError", "TableError", "UnknownDecisionError", "UnknownFeedbackError"),
        *("UnknownModelError", "UnknownRouterError"),
    ),
    "events": ("Candidate", "Decision", "Feedback", "Model", "Outcome", "Reward"),
    "features": ("FeatureExtractor", "FittedFeatures", "HashedFeatures", "VectorFeatures"),
    "log": ("EventLog",),
    "policies": (
        *("EpsilonGreedy", "Greedy", "InverseGapWeighting", "LinUCB", "Policy"),
        *("ThompsonSampling", "Uniform"),
    ),
    "preference": ("Preference",),
    "rewards": ("Metric", "Trust"),
    "router": ("Router",),
    "settings": ("Settings",),
    "store": ("MemoryStore", "PosteriorStore"),
}
_ROOM = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = [  # written out, for type checkers
    "AccessError",
    "ArchiveError",
    "ArchivedDecisionError",
    "BanditRouterError",
    "Candidate",
    "ClosedError",
    "ConflictError",
    "Decision",
    "EmbeddedFeatures",
    "EmbeddingsUnavailableError",
    "EpsilonGreedy",
    "EventLog",
    "FeatureExtractor",
    "FeaturesError",
    "Feedback",
    "FittedFeatures",
    "FormatError",
    "Greedy",
    "HashedFeatures",
    "InverseGapWeighting",
    "LinUCB",
    "LogUnavailableError",
    "LogVersionError",
    "MemoryStore",
    "Metric",
    "Model",
    "NewerFormatError",
    "NoEligibleModelError",
    "Outcome",
    "PeerError",
    "Policy",
    "PosteriorStore",
    "Preference",
    "ReplayError",
    "Reward",
    "Router",
    "ServiceUnavailableError",
    "Settings",
    "SettingsError",
    "StaleGenerationError",
    "StoreUnavailableError",
    "TableError",
    "ThompsonSampling",
    "Trust",
    "Uniform",
    "UnknownDecisionError",
    "UnknownFeedbackError",
    "UnknownModelError",
    "UnknownRouterError",
    "VectorFeatures",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a name's room when it is first asked for, so that a bare import stays light."""
    if name not in _ROOM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
