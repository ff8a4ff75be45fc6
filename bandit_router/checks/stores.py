"""What every `PosteriorStore` keeps to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np

from bandit_router.checks.check import Check, checks_of, demand, demand_error
from bandit_router.errors import StaleGenerationError
from bandit_router.events import new_id
from bandit_router.evidence import Delta, Evidence, Observation
from bandit_router.store import Changes, PosteriorStore, Snapshot
from bandit_router.values import Array

_DIM = 3
_DAY = 86_400.0
_WRITERS = 8

Make = Callable[[], PosteriorStore]
Sums = Mapping[str, Evidence]


def store_checks(make_store: Make) -> Iterator[Check]:
    """Yield the checks that a store of beliefs must pass.

    Parameters
    ----------
    make_store : callable
        Opens a store. It may be a shared one: the checks use routers of their own, of new names.
    """
    return checks_of(_CLAUSES, make_store)


class _Desk:
    """One router in an opened store, at its first generation."""

    def __init__(self, store: PosteriorStore, *, half_life: float | None = None) -> None:
        self.store, self.half_life = store, half_life
        self.router = f"check-{new_id()}"
        store.replace(self.router, _snapshot(1, half_life=half_life))

    def append(
        self,
        deltas: Sequence[Delta],
        *,
        generation: int = 1,
        complete: int = 0,
        after: int | None = None,
    ) -> int:
        return self.store.append(
            self.router, deltas, generation=generation, complete=complete, after=after
        )

    def read(self, *, generation: int = 1, after: int | None) -> Changes | Snapshot | None:
        return self.store.read(self.router, generation=generation, after=after)

    def snapshot(self) -> Snapshot:
        found = self.read(after=None)
        if not isinstance(found, Snapshot):
            raise AssertionError(f"expected a snapshot without a position, got {found!r}")
        return found

    def changes(self, after: int) -> Changes:
        found = self.read(after=after)
        if not isinstance(found, Changes):
            raise AssertionError(f"expected the changes after position {after}, got {found!r}")
        return found

    def demand_sums(self, deltas: Iterable[Delta], what: str) -> None:
        """The store holds the sums of these deltas."""
        _demand_same(self.snapshot().evidence, _sums(deltas, self.half_life), what)


def _snapshot(
    generation: int,
    *,
    half_life: float | None = None,
    evidence: Sums | None = None,
    complete: int = 0,
    beyond: Iterable[int] = (),
) -> Snapshot:
    return Snapshot(
        generation=generation,
        position=0,
        complete=complete,
        half_life_s=half_life,
        evidence=evidence or {},
        beyond=frozenset(beyond),
    )


def _deltas(first: int, n: int, *, apart: float = 0.0) -> list[Delta]:
    """Deltas of the reward rows from `first` on, of three models, their decisions some seconds apart."""
    generator = np.random.default_rng(first)
    return [
        Delta(
            key=2 * row + 1,
            model=f"model-{row % 3}",
            observation=Observation.of(
                [1.0, *generator.standard_normal(_DIM - 1)], generator.random(), at=apart * row
            ),
        )
        for row in range(first, first + n)
    ]


def _sums(deltas: Iterable[Delta], half_life: float | None = None) -> dict[str, Evidence]:
    sums: dict[str, Evidence] = {}
    for delta in deltas:
        own = sums.setdefault(delta.model, Evidence(_DIM, half_life=half_life))
        own.add(delta.observation)
    return sums


def _demand_same(got: Sums, wanted: Sums, what: str) -> None:
    """The same sums to 1e-9 of the largest entry; a model without evidence need not be named."""
    at = max((evidence.landmark for sums in (got, wanted) for evidence in sums.values()), default=0.0)
    for model in {*got, *wanted}:
        mine, theirs = (_as_of(at, sums.get(model)) for sums in (got, wanted))
        same = np.allclose(mine, theirs, rtol=0, atol=1e-9 * max(1e-9, np.abs(theirs).max()))
        demand(bool(same), "{}: expected sums {} of {}, got {}", what, theirs, model, mine)


def _as_of(at: float, evidence: Evidence | None) -> Array:
    evidence = Evidence(_DIM) if evidence is None else evidence
    sums = np.concatenate([evidence.A.ravel(), evidence.b, [evidence.c, evidence.n]])
    return sums * evidence.fading(at)


def _together(work: Callable[[int], int]) -> list[int]:
    """Let eight writers begin at once."""
    gate = threading.Barrier(_WRITERS)

    def begin(writer: int) -> int:
        gate.wait()
        return work(writer)

    with ThreadPoolExecutor(_WRITERS) as pool:
        return list(pool.map(begin, range(_WRITERS)))


def is_empty_at_first(make: Make) -> None:
    """A router that the store has not seen: no evidence, so that the prior follows."""
    with closing(make()) as store:
        router = f"check-{new_id()}"
        for after in (None, 0, 5):
            found = store.read(router, generation=1, after=after)
            demand(found is None, f"expected nothing of an unknown router, got {found!r}")
        demand_error(
            StaleGenerationError,
            lambda: store.append(router, _deltas(1, 1), generation=1, complete=0),
            "append to a router that has no generation yet",
        )
        demand(_Desk(store).snapshot().evidence == {}, "expected a first generation without evidence")


def adds_up_in_any_order(make: Make) -> None:
    """The same deltas in another order and in other batches give the same sums."""
    deltas = _deltas(1, 60)
    order = np.random.default_rng(1).permutation(60)
    with closing(make()) as store:
        for batch in (1, 7, 60):
            desk = _Desk(store)
            for start in range(0, 60, batch):
                desk.append([deltas[i] for i in order[start : start + batch]])
            desk.demand_sums(deltas, f"in batches of {batch} in another order")


def cancels_what_is_retracted(make: Make) -> None:
    """An observation and its retraction leave nothing, whichever comes first."""
    kept, gone = _deltas(1, 9), _deltas(10, 9)
    taken = [Delta(key=d.key + 1000, model=d.model, observation=-d.observation) for d in gone]
    with closing(make()) as store:
        for deltas in ([*kept, *gone, *taken], [*taken, *gone, *kept]):
            desk = _Desk(store)
            desk.append(deltas)
            desk.demand_sums(kept, "after a retraction")


def counts_a_key_once(make: Make) -> None:
    """However often it comes: in one append, in the next, and after `complete` moved past it."""
    deltas = _deltas(1, 20)
    with closing(make()) as store:
        desk = _Desk(store)
        new = desk.append([*deltas[:10], *deltas[:10]])
        demand(new == 10, f"expected 10 new deltas among 10 that come twice, got {new}")
        new = desk.append(deltas)
        demand(new == 10, f"expected 10 new deltas after 10 that were known, got {new}")
        for complete in (0, 12, 20, 3):
            new = desk.append(deltas, complete=complete)
            demand(new == 0, f"expected nothing new with complete={complete}, got {new}")
        desk.demand_sums(deltas, "after deltas that came again")


def counts_what_is_beyond_complete(make: Make) -> None:
    """Rows up to `complete` are contained; a row beyond it still counts, the very next one too."""
    deltas = _deltas(1, 9)
    with closing(make()) as store:
        desk = _Desk(store)
        desk.append([deltas[0], deltas[7]], complete=1)
        new = desk.append(deltas, complete=9)
        demand(new == 7, f"expected the 7 rows that were not known, got {new}")
        demand(desk.snapshot().complete == 9, f"expected complete=9, got {desk.snapshot().complete}")
        desk.append([], complete=4)
        demand(desk.snapshot().complete == 9, "expected complete never to go back")
        desk.append(_deltas(10, 1), complete=9)
        desk.demand_sums(_deltas(1, 9) + _deltas(10, 1), "after the row next to complete")


def says_what_is_beyond_complete(make: Make) -> None:
    """A snapshot names the deltas of later rows that it contains, and no others; they count once for ever."""
    deltas = _deltas(1, 9)
    with closing(make()) as store:
        desk = _Desk(store)
        desk.append(deltas[4:7])
        _demand_beyond(desk, {11, 13, 15}, "before complete moved")
        desk.append(deltas[:5], complete=5)
        _demand_beyond(desk, {13, 15}, "after complete moved to row 5")
        desk.append([], complete=9)
        _demand_beyond(desk, set(), "after complete moved past all")
        sums = _sums([*deltas[:3], deltas[7]])
        store.replace(desk.router, _snapshot(2, evidence=sums, complete=3, beyond=[17, 3]))
        _demand_beyond(desk, {17}, "after a replacement, which contained it,")
        new = desk.append(deltas, generation=2)
        demand(new == 5, f"expected the 5 rows that the replacement did not contain, got {new}")
        desk.demand_sums(deltas, "after a replacement and all deltas again")


def _demand_beyond(desk: _Desk, wanted: set[int], when: str) -> None:
    found = desk.snapshot().beyond
    demand(found == wanted, f"expected the keys {wanted} beyond complete {when}, got {set(found)}")


def moves_complete_only_from_known_ground(make: Make) -> None:
    """`complete` goes by a position; where the store does not know that one, it does not move."""
    deltas = _deltas(1, 9)
    with closing(make()) as store:
        desk = _Desk(store)
        desk.append(deltas[:2])
        position = desk.snapshot().position
        for never in (position + 1, position + 10**6):
            new = desk.append(deltas[2:4], complete=4, after=never)
            complete = desk.snapshot().complete
            demand(complete == 0, f"expected complete to stay at 0 after {never}, got {complete}")
        demand(new == 0, f"expected the deltas to count all the same, once, got {new} more")
        desk.append(deltas[4:], complete=9, after=position)
        demand(desk.snapshot().complete == 9, f"expected complete=9, got {desk.snapshot().complete}")
        desk.demand_sums(deltas, "after appends from known and unknown ground")


def counts_a_key_once_among_writers(make: Make) -> None:
    """Eight writers that bring the same deltas at once count them once."""
    deltas = _deltas(1, 60)
    with closing(make()) as store:
        desk = _Desk(store)
        for complete, wanted in ((0, 60), (60, 0)):
            new = _together(partial(_append_each, desk, deltas, complete))
            demand(sum(new) == wanted, f"expected {wanted} new deltas among writers, got {new}")
        desk.demand_sums(deltas, "after eight writers with the same deltas")


def _append_each(desk: _Desk, deltas: Sequence[Delta], complete: int, writer: int) -> int:
    return sum(desk.append([delta], complete=complete) for delta in deltas)


def loses_nothing_of_eight_writers(make: Make) -> None:
    """Eight writers at once lose nothing, and a reader who follows sees each delta once."""
    parts = [_deltas(1 + 40 * writer, 40) for writer in range(_WRITERS)]
    with closing(make()) as store:
        desk = _Desk(store)
        new = _together(
            lambda writer: sum(desk.append(parts[writer][i : i + 4]) for i in range(0, 40, 4))
        )
        demand(new == [40] * _WRITERS, f"expected 40 new deltas of each writer, got {new}")
        desk.demand_sums([d for part in parts for d in part], "after eight writers")


def keeps_routers_apart(make: Make) -> None:
    """Another router sees nothing; the same keys count there too."""
    with closing(make()) as store:
        desk, other = _Desk(store), _Desk(store)
        desk.append(_deltas(1, 5), complete=5)
        other.demand_sums([], "of another router")
        demand(other.append(_deltas(1, 5)) == 5, "expected the keys of another router to be its own")


def shows_all_of_an_append_or_nothing(make: Make) -> None:
    """A reader beside a writer never sees a part of an append."""
    size, appends = 5, 100
    batches = [_deltas(1 + size * i, size) for i in range(appends)]
    with closing(make()) as store, ThreadPoolExecutor(1) as pool:
        desk = _Desk(store)
        position, followed = desk.snapshot().position, 0
        writing = pool.submit(lambda: sum(desk.append(batch) for batch in batches))
        while followed < size * appends:
            ended = writing.done()
            seen = round(sum(evidence.n for evidence in desk.snapshot().evidence.values()))
            demand(seen % size == 0, f"expected appends of {size} as a whole, got {seen} deltas")
            changes = desk.changes(position)
            new = len(changes.deltas)
            demand(new % size == 0, f"expected changes in whole appends of {size}, got {new}")
            position, followed = changes.position, followed + new
            demand(
                not ended or followed == size * appends,
                f"expected to follow {size * appends} deltas, got {followed}",
            )
        demand(writing.result() == size * appends, f"expected {size * appends}, got {writing.result()}")


def is_whole_at_any_moment(make: Make) -> None:
    """However long it grows, readers beside its writers see whole appends, from the snapshots and after."""
    size, appends = 2, 250
    parts = [[_deltas(1 + size * (2 * i + w), size) for i in range(appends)] for w in (0, 1)]
    with closing(make()) as store, ThreadPoolExecutor(3) as pool:
        desk = _Desk(store)
        writing = [pool.submit(_append_all, desk, part) for part in parts]
        following = pool.submit(_follow, desk, 2 * size * appends)
        before = 0
        while not all(work.done() for work in writing):
            seen = round(sum(evidence.n for evidence in desk.snapshot().evidence.values()))
            demand(seen % size == 0, f"expected appends of {size} as a whole, got {seen} deltas")
            demand(seen >= before, f"expected nothing to vanish, got {seen} deltas after {before}")
            before = seen
        told = [delta for part in parts for batch in part for delta in batch]
        _demand_same(following.result(), _sums(told), "following two writers")
        desk.demand_sums(told, "after two writers")


def _append_all(desk: _Desk, batches: Iterable[Sequence[Delta]]) -> None:
    for batch in batches:
        desk.append(batch)


def _follow(desk: _Desk, n: int) -> Sums:
    """What a worker believes that follows until it has seen n deltas; given a snapshot, it begins anew."""
    sums: dict[str, Evidence] = {}
    position: int | None = None
    while round(sum(evidence.n for evidence in sums.values())) < n:
        found = desk.read(after=position)
        if isinstance(found, Snapshot):
            sums = dict(found.evidence)
        for delta in found.deltas if isinstance(found, Changes) else ():
            sums.setdefault(delta.model, Evidence(_DIM)).add(delta.observation)
        position = found.position if found else None
        if position is not None:
            desk.store.wait(desk.router, after=position, timeout_s=0.2)
    return sums


def wakes_a_waiter(make: Make) -> None:
    """A waiter is woken by another's append, at once where it came before; nothing new, it waits in vain."""
    with closing(make()) as store, ThreadPoolExecutor(1) as pool:
        desk = _Desk(store)
        position = desk.snapshot().position
        demand(not store.wait(desk.router, after=position, timeout_s=0.05), "expected to wait in vain")
        demand(
            not store.wait("unseen" + desk.router, after=0, timeout_s=0.05), "expected to wait in vain"
        )
        waiting = pool.submit(store.wait, desk.router, after=position, timeout_s=60.0)
        desk.append(_deltas(1, 1))
        demand(waiting.result(30.0), "expected to be woken by an append")
        demand(
            store.wait(desk.router, after=position, timeout_s=60.0), "expected not to wait for old news"
        )
        position = desk.changes(position).position
        demand(not store.wait(desk.router, after=position, timeout_s=0.05), "expected to wait in vain")


def changes_agree_with_snapshots(make: Make) -> None:
    """A snapshot and the changes after it are the next snapshot; without news there are no changes."""
    deltas = _deltas(1, 30)
    with closing(make()) as store:
        desk = _Desk(store)
        desk.append(deltas[:10])
        start = desk.snapshot()
        sums = {model: evidence.copy() for model, evidence in start.evidence.items()}
        position = start.position
        for known in (10, 10, 11, 30):
            desk.append(deltas[:known])
            changes = desk.changes(position)
            for delta in changes.deltas:
                sums.setdefault(delta.model, Evidence(_DIM)).add(delta.observation)
            position = changes.position
            _demand_same(sums, desk.snapshot().evidence, f"following up to {known} deltas")
        demand(position == desk.snapshot().position, "expected one position for changes and snapshots")


def gives_a_late_reader_a_snapshot(make: Make) -> None:
    """A position too long ago, or that never was, gets a snapshot; what comes is complete."""
    with closing(make()) as store:
        desk = _Desk(store)
        start = desk.snapshot().position
        for first in range(1, 10_001, 1_000):
            desk.append(_deltas(first, 1_000), complete=first + 999)
        whole = desk.snapshot()
        found = desk.read(after=start)
        if isinstance(found, Changes):
            new = len(found.deltas)
            demand(new == 10_000, f"expected all 10000 deltas or a snapshot, got {new} deltas")
        else:
            _demand_same(found.evidence if found else {}, whole.evidence, "for a late reader")
        for never in (whole.position + 1, whole.position + 10**6):
            found = desk.read(after=never)
            demand(isinstance(found, Snapshot), f"expected a snapshot after {never}, got {found!r}")


def refuses_a_stale_append(make: Make) -> None:
    """Deltas of another generation, earlier or later, are refused and never counted."""
    with closing(make()) as store:
        desk = _Desk(store)
        store.replace(desk.router, _snapshot(5))
        for generation in (1, 4, 6):
            demand_error(
                StaleGenerationError,
                partial(desk.append, _deltas(1, 3), generation=generation),
                f"append to generation {generation} while the store holds 5",
            )
        desk.demand_sums([], "after refused appends")
        demand(desk.append(_deltas(1, 3), generation=5) == 3, "expected refused keys to count later")


def refuses_a_stale_replace(make: Make) -> None:
    """A generation takes the place of an earlier one only: what was counted meanwhile is not lost."""
    deltas = _deltas(1, 3)
    with closing(make()) as store:
        desk = _Desk(store)
        store.replace(desk.router, _snapshot(5, evidence=_sums(deltas)))
        for generation in (1, 4, 5):
            demand_error(
                StaleGenerationError,
                partial(store.replace, desk.router, _snapshot(generation)),
                f"replace by generation {generation} while the store holds 5",
            )
        demand(
            desk.snapshot().generation == 5, f"expected generation 5, got {desk.snapshot().generation}"
        )
        desk.demand_sums(deltas, "after a refused replacement")


def begins_a_new_generation_for_all(make: Make) -> None:
    """After `replace`, every reader gets the new generation's snapshot, and its keys count anew."""
    old, new = _deltas(1, 10), _deltas(11, 10)
    with closing(make()) as store:
        desk = _Desk(store)
        desk.append(old)
        position = desk.snapshot().position
        store.replace(desk.router, _snapshot(2, evidence=_sums(new)))
        for generation, after in ((1, position), (1, None), (2, None)):
            found = desk.read(generation=generation, after=after)
            if not isinstance(found, Snapshot):
                raise AssertionError(f"expected a snapshot of generation 2, got {found!r}")
            demand(found.generation == 2, f"expected generation 2, got {found.generation}")
            _demand_same(found.evidence, _sums(new), "of the new generation")
        desk.append(old, generation=2)
        desk.demand_sums(old + new, "after the new generation heard more")


def hands_out_copies(make: Make) -> None:
    """What a reader does to its snapshot, or a writer to the one it gave, changes nothing here."""
    given, more = _deltas(1, 5), _deltas(6, 5)
    with closing(make()) as store:
        desk = _Desk(store)
        snapshot = _snapshot(2, evidence=_sums(given))
        store.replace(desk.router, snapshot)
        for evidence in (*snapshot.evidence.values(), *desk.snapshot().evidence.values()):
            evidence.add(more[0].observation)
        desk.demand_sums(given, "after others changed their copies")
        seen = desk.snapshot()
        desk.append(more, generation=2)
        _demand_same(seen.evidence, _sums(given), "of a snapshot that was read before")


def keeps_the_half_life(make: Make) -> None:
    """Evidence fades by the generation's half-life, late deltas too, and says so."""
    half_life = 7 * _DAY
    deltas = _deltas(1, 40, apart=30 * _DAY)
    with closing(make()) as store:
        desk = _Desk(store, half_life=half_life)
        desk.append(deltas[20:])
        desk.append(deltas[:20])
        desk.demand_sums(deltas, "of deltas a month apart, with a half-life of a week")
        snapshot = desk.snapshot()
        kept = {snapshot.half_life_s, *(e.half_life for e in snapshot.evidence.values())}
        demand(kept == {half_life}, f"expected a half-life of {half_life}, got {kept}")


_CLAUSES = (
    is_empty_at_first,
    adds_up_in_any_order,
    cancels_what_is_retracted,
    counts_a_key_once,
    counts_what_is_beyond_complete,
    says_what_is_beyond_complete,
    moves_complete_only_from_known_ground,
    counts_a_key_once_among_writers,
    loses_nothing_of_eight_writers,
    keeps_routers_apart,
    shows_all_of_an_append_or_nothing,
    is_whole_at_any_moment,
    wakes_a_waiter,
    changes_agree_with_snapshots,
    gives_a_late_reader_a_snapshot,
    refuses_a_stale_append,
    refuses_a_stale_replace,
    begins_a_new_generation_for_all,
    hands_out_copies,
    keeps_the_half_life,
)
