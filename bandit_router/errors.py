"""Every error that the router raises on purpose.

::

    BanditRouterError
    ├── UnknownDecisionError        (KeyError)    no such decision
    │   └── ArchivedDecisionError                 it was archived: nothing more can be said about it
    ├── UnknownFeedbackError        (KeyError)    no such feedback
    ├── UnknownModelError           (KeyError)    no such model in this router
    ├── UnknownRouterError          (KeyError)    no such router in this log
    ├── NoEligibleModelError                      nothing left to choose from
    ├── ConflictError                             same key, other body
    ├── SettingsError               (ValueError)  a setting, a SPEC or a config file is wrong
    ├── FeaturesError               (ValueError)  a vector or artefact does not fit
    ├── FormatError                 (ValueError)  bytes that are not ours, or damaged
    │   └── NewerFormatError                      ... that a newer version of this program wrote
    ├── TableError                  (ValueError)  a full-information table is malformed
    ├── ReplayError                 (ValueError)  a log cannot say what was asked of it
    ├── PeerError                                 a peer of a comparison cannot be had, or fails
    ├── ArchiveError                              an archive is damaged, out of reach, or in the way
    ├── StoreUnavailableError                     the shared store does not answer
    ├── EmbeddingsUnavailableError                an embedding does not come in time, or is no good
    ├── StaleGenerationError                      the beliefs were folded anew meanwhile
    ├── LogUnavailableError                       the log cannot be read or written
    │   └── LogVersionError                       the log has another schema than this program
    ├── ServiceUnavailableError                   the service cannot be reached, or cannot serve
    ├── AccessError                               the service refuses the key or token
    └── ClosedError                               the router was closed

Wrong arguments are plain ``ValueError`` and ``TypeError``.
"""

from __future__ import annotations


class BanditRouterError(Exception):
    """Base of every error that this library raises on purpose."""

    def __str__(self) -> str:
        # KeyError would quote the message; a message is a sentence, not a key.
        return Exception.__str__(self) if len(self.args) != 1 else str(self.args[0])


class UnknownDecisionError(BanditRouterError, KeyError):
    """Raised when no decision of this router has the given id."""


class ArchivedDecisionError(UnknownDecisionError):
    """Raised when a decision has left the log for an archive, so that nothing more can be said about it."""


class UnknownFeedbackError(BanditRouterError, KeyError):
    """Raised when no feedback of this router has the given id."""


class UnknownModelError(BanditRouterError, KeyError):
    """Raised when a name is not one of the router's models."""


class UnknownRouterError(BanditRouterError, KeyError):
    """Raised when the log has no router of the given name."""


class NoEligibleModelError(BanditRouterError):
    """Raised when rules, caps and subsets leave no model to choose from."""


class ConflictError(BanditRouterError):
    """Raised when an idempotency key comes again with another body."""


class SettingsError(BanditRouterError, ValueError):
    """Raised when a setting, a policy SPEC or a config file is wrong."""


class FeaturesError(BanditRouterError, ValueError):
    """Raised when a feature vector or artefact does not fit this router."""


class FormatError(BanditRouterError, ValueError):
    """Raised when bytes are not ours, or are damaged."""


class NewerFormatError(FormatError):
    """Raised when bytes come from a newer version of this program."""


class TableError(BanditRouterError, ValueError):
    """Raised when a full-information table is malformed."""


class ReplayError(BanditRouterError, ValueError):
    """Raised when a log cannot say what a policy would have earned; the message says why not."""


class PeerError(BanditRouterError):
    """Raised when a peer of a comparison cannot be installed, dies, hangs or answers nonsense."""


class ArchiveError(BanditRouterError):
    """Raised when an archive, or what is believed because of it, is damaged, out of reach, or in the way."""


class StoreUnavailableError(BanditRouterError):
    """Raised when the shared store does not answer in time."""


class EmbeddingsUnavailableError(BanditRouterError):
    """Raised when an embedding does not come in time, or is no good."""


class StaleGenerationError(BanditRouterError):
    """Raised when a change is meant for beliefs that have been folded anew meanwhile."""


class LogUnavailableError(BanditRouterError):
    """Raised when the log cannot be read or written, so that nothing was made durable."""


class LogVersionError(LogUnavailableError):
    """Raised when the log's schema is newer, or older, than this program's."""


class ServiceUnavailableError(BanditRouterError):
    """Raised when the service cannot be reached, or cannot serve, after all retries."""


class AccessError(BanditRouterError):
    """Raised when the service refuses a key or token, or what it asks for."""


class ClosedError(BanditRouterError):
    """Raised when a router, or a client, is used after it was closed."""
