"""Rebuilding beliefs from the log, with the same features or with others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa

from bandit_router.errors import ArchiveError, FeaturesError, StaleGenerationError
from bandit_router.features import FeatureExtractor
from bandit_router.features.vectors import STOPGAP
from bandit_router.learner import POLL_S, Learner
from bandit_router.log import EventLog
from bandit_router.log.archive import Archive, alone, as_json, readable
from bandit_router.log.archiving import Entry, move_on, read_entries, read_entry, start_over
from bandit_router.log.bases import Base, read_bases, write_base
from bandit_router.log.checkpoints import drop_checkpoints
from bandit_router.log.deciding import read_prompts, textless_ids, write_features
from bandit_router.log.lens import Lens
from bandit_router.log.reencoding import Reencoder
from bandit_router.log.refolding import refold
from bandit_router.log.registration import (
    begin_generation,
    hold,
    read_registration,
    write_settings,
)
from bandit_router.log.writer import committed
from bandit_router.prompt import Prompt
from bandit_router.retention import archive_of
from bandit_router.values import Array
from bandit_router.view import find_registration, keep_artefact, lens_of, load_features

_CHUNK = 256  # prompts that are encoded at once
OTHERS_S = 5 * POLL_S  # how long other workers go on with the old features, at the least
LATE_PASSES = 20  # looks for what they decided meanwhile; one that finds nothing is the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild did.

    Attributes
    ----------
    generation : int
        Of the beliefs now.
    features : str
        SPEC of the features.
    encoded : int
        Decisions that were encoded again.
    textless : int
        Decisions without text, of which only the plain mean survives.
    """

    generation: int
    features: str
    encoded: int = 0
    textless: int = 0


def rebuild(
    log: EventLog,
    learner: Learner,
    features: str | FeatureExtractor | None,
    *,
    textless: str,
    now: float,
) -> Rebuilt:
    """Fold a router's beliefs again from its whole log; decisions with other features are encoded first.

    All new vectors, the settings and the new generation come in one transaction: nobody ever sees some of
    them without the others. What other workers still decide with the old features is encoded afterwards.
    """
    if textless not in ("refuse", "mean"):
        raise ValueError(f"textless: expected 'refuse' or 'mean', got {textless!r}")
    router, spec = learner.view.registration.name, learner.view.registration.settings.features
    extractor = learner.extractors.find(log, spec if features is None else features)
    refuse = textless == "refuse" and features is not None
    vectors, bare = _encode(log, router, extractor, refuse=refuse, mean=textless == "mean")
    lens = lens_of(find_registration(log, router), extractor)
    archived = Reencoder(
        router=router, version=extractor.version, dim=extractor.dim, encode=extractor.extract_many
    )
    with refolded(log, lens, reencoder=archived, textless=textless) as others:
        switch = partial(_switch, router=router, extractor=extractor, vectors=vectors, now=now)
        generation = committed(log.write(partial(switch, lens=lens, others=others)))
    bare += archived.textless
    began = time.monotonic()
    learner.take_up()
    encoded = len(vectors) + archived.encoded - bare
    patience = max(OTHERS_S, 2 * (time.monotonic() - began))
    for _ in range(LATE_PASSES if extractor.spec != spec else 0):
        time.sleep(patience)  # others fold too, and decide with the old features until they have
        late, _ = _encode(log, router, extractor, refuse=False, mean=textless == "mean", late=True)
        if not late:
            break
        switch = partial(_switch, router=router, extractor=extractor, vectors=late, now=now)
        generation = committed(log.write(partial(switch, lens=lens, others=())))
        learner.take_up()
        encoded += len(late)
    return Rebuilt(generation=generation, features=extractor.spec, encoded=encoded, textless=bare)


def _switch(
    connection: sa.Connection,
    router: str,
    extractor: FeatureExtractor,
    vectors: Mapping[str, Array],
    now: float,
    lens: Lens,
    others: Sequence[Refolded],
) -> int:
    hold(connection, router)
    start_over(connection)  # whoever is archiving copies rows that change
    take_over(connection, lens, others)
    write_features(connection, extractor.version, vectors)
    keep_artefact(connection, extractor, now)
    found = read_registration(connection, router)
    assert found is not None
    if found.settings.features != extractor.spec:
        write_settings(connection, router, replace(found.settings, features=extractor.spec), now)
    drop_checkpoints(connection, router)
    return begin_generation(connection, router)


# -- what was archived ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Refolded:
    """What an archive has taught, seen through another lens; and its files, where they had to be rewritten."""

    entry: Entry
    archive: Archive
    base: Base


@contextmanager
def refolded(
    log: EventLog, lens: Lens, *, reencoder: Reencoder | None = None, textless: str = "refuse"
) -> Iterator[list[Refolded]]:
    """Refold what was archived for another lens; the files are held meanwhile, and what is not theirs goes.

    Raises
    ------
    ArchiveError, FeaturesError
        Files are out of reach, or have no text to encode again; the message counts the decisions.
    """
    bases = log.read(partial(read_bases, router=lens.router))
    misfits = [base for base in bases if not base.fits(lens)]
    lacking = [base for base in bases if reencoder is not None and _lacks(base, lens)]
    entries = {entry.id: entry for entry in log.read(read_entries)}
    with ExitStack() as held:
        for folder in sorted({entries[base.archive].folder for base in misfits + lacking}):
            if folder.is_dir():
                held.enter_context(alone(folder))
        try:
            found = [_refolded(entries[b.archive], b, lens, reencoder) for b in misfits]
            _check_reached(found, misfits, reencoder, refuse=textless == "refuse")
            mended = [_refolded(entries[b.archive], b, lens, reencoder) for b in lacking]
            yield [
                *(
                    one or _plainly(entries[b.archive], b, lens)
                    for one, b in zip(found, misfits, strict=True)
                ),
                *(one for one in mended if one is not None),  # what is out of reach stays as it is
            ]
        finally:
            for base in misfits + lacking:
                entry = log.read(partial(read_entry, identifier=base.archive))
                if entry is not None and entry.folder.is_dir():
                    archive_of(entry).sweep()


def _lacks(base: Base, lens: Lens) -> bool:
    """Whether an archive has rewards that another try to encode it could bring in."""
    return base.skipped > 0 and base.fits(lens) and not base.plain


@contextmanager
def faded(
    log: EventLog, router: str, settings: Mapping[str, Any]
) -> Iterator[list[Refolded]]:  # Any: of each setting's own type
    """As `refolded`, for settings that may have another half-life."""
    half_life = settings.get("half_life", ...)
    known = log.read(partial(read_registration, router=router))
    if known is None or not isinstance(half_life, timedelta | None):
        yield []
        return
    lens = lens_of(known, load_features(log, known.settings.features))
    half_life_s = None if half_life is None else half_life.total_seconds()
    with refolded(log, replace(lens, half_life_s=half_life_s)) as found:
        yield found


def _refolded(entry: Entry, old: Base, lens: Lens, reencoder: Reencoder | None) -> Refolded | None:
    archive = archive_of(entry)
    if not (readable() and archive.reachable()):
        return None
    archive.check()
    plain = old.plain
    unlike = old.features_version != lens.features_version
    if reencoder is not None and (unlike or old.skipped):
        reencoder.leaves = not unlike  # of its own features, what has no text stays as it is
        archive, plain = reencoder.rewrite(archive, number=entry.revision), False
    base = refold(archive, lens, before=old.before, since=old.since, plain=plain)
    return Refolded(entry=entry, archive=archive, base=base)


def _plainly(entry: Entry, old: Base, lens: Lens) -> Refolded:
    return Refolded(entry=entry, archive=archive_of(entry), base=old.as_plain(lens))


def _check_reached(
    found: Sequence[Refolded | None],
    misfits: Sequence[Base],
    reencoder: Reencoder | None,
    *,
    refuse: bool,
) -> None:
    away = [base for one, base in zip(found, misfits, strict=True) if one is None]
    lost = sum(base.decisions for base in away)
    if away and reencoder is None:
        raise ArchiveError(
            f"archives: {lost} decisions are in {len(away)} archives whose files are out of reach here, and "
            "other beliefs of them need these: do this where they are"
        )
    textless = 0 if reencoder is None else reencoder.textless
    if refuse and (away or textless):
        raise FeaturesError(
            f"features: of the archived decisions, {textless} have no text to encode again, and {lost} are in "
            f"{len(away)} archives whose files are out of reach here; with textless='mean' only each model's "
            "plain mean survives of them"
        )


def take_over(connection: sa.Connection, lens: Lens, others: Sequence[Refolded]) -> None:
    """Believe of the archives what was refolded of them.

    Raises
    ------
    StaleGenerationError
        One changed meanwhile, or was added.
    """
    for one in others:
        assert one.entry.archived is not None
        move_on(connection, one.entry, as_json(one.archive), archived=one.entry.archived)
        write_base(connection, one.base)
    if not all(base.fits(lens) for base in read_bases(connection, lens.router)):
        raise StaleGenerationError(
            f"archives: router {lens.router!r} has archived more meanwhile: try again"
        )


def _encode(
    log: EventLog,
    router: str,
    extractor: FeatureExtractor,
    *,
    refuse: bool,
    mean: bool,
    late: bool = False,
) -> tuple[dict[str, Array], int]:
    """Return the vectors of decisions that have others, and how many of them have no text.

    What lacks its embedding only since (`late`) is left to the next rebuild: it may be lacking for long.
    """
    done = (extractor.version, extractor.version + STOPGAP) if late else (extractor.version,)
    bare = log.read(lambda c: textless_ids(c, router, done))
    if bare and refuse:
        raise FeaturesError(
            f"features: {len(bare)} decisions have no text to encode again; "
            "with textless='mean' only each model's plain mean survives of them"
        )
    prompts = log.read(lambda c: read_prompts(c, router, but=done))
    vectors: dict[str, Array] = {}
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        x = extractor.extract_many([Prompt.of(prompt) for _, prompt in chunk])
        vectors.update(zip((decision_id for decision_id, _ in chunk), x, strict=True))
    if not mean:
        return vectors, 0
    constant = np.zeros(extractor.dim)
    constant[0] = 1.0
    vectors.update(dict.fromkeys(bare, constant))
    return vectors, len(bare)
