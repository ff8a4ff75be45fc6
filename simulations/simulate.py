"""Many lives: every policy through every order of a table, spread over cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from bandit_router.errors import SettingsError, TableError
from bandit_router.features import FeatureExtractor, HashedFeatures
from bandit_router.policies import DEFAULT_FLOOR
from bandit_router.prompt import Prompt
from bandit_router.values import Array, check_amount, check_unit
from simulations.baselines import Maker, import_extra, player_from_spec
from simulations.replay import Rows, Scene, Warmth, play, play_stream
from simulations.runs import Run
from simulations.streams import World
from simulations.tables import Table

FeedbackKind = Literal["score", "thumbs"]
Progress = Callable[[int, int], None]


def simulate(
    table: Table | World,
    specs: Sequence[str],
    *,
    seeds: int = 5,
    first_seed: int = 0,
    price_weights: Sequence[float] = (0.0,),
    budget_usd: float | None = None,
    prior: Table | None = None,
    feedback: FeedbackKind = "score",
    rows: int | None = None,
    features: FeatureExtractor | None = None,
    floor: float = DEFAULT_FLOOR,
    max_quality_drop: float | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    maker: Maker = player_from_spec,
) -> list[Run]:
    """Let policies live through a table, seeing only what they chose.

    With the same seed every policy meets the same rows in the same order, with the same random numbers
    and the same thumbs; so compare them seed by seed. Rows that the prior holds too (same id, same
    prompt) are not lived through.

    Parameters
    ----------
    table : Table or World
        A world is a scenario with its tables: it changes while it is lived through.
    specs : sequence of str
        Policies, as `player_from_spec`.
    seeds : int
        Orders: seeds 0, 1, ...
    first_seed : int
        Where the seeds begin instead of at 0.
    price_weights : sequence of float
        Each is a comparison of its own.
    budget_usd : float, optional
        Mean cost per request to be kept [USD].
    prior : Table, optional
        Everything in it is known before round one, of the models that both tables have.
    feedback : {"score", "thumbs"}
        Whether a policy is told the quality, or 1 with that probability and else 0; what is said in a
        world stands in its scenario.
    rows : int, optional
        The first so many rounds of every order.
    features : FeatureExtractor, optional
        Default `HashedFeatures`.
    floor : float
        Probability that a learning policy explores with, over all models together.
    max_quality_drop : float, optional
        What a learning policy may promise less than the best model does, as `Preference` has it.
    jobs : int
        Processes; -1 is one per core. The results are the same.
    progress : callable, optional
        Called with the runs that are done, and all there are.
    maker : callable
        Makes a player of a SPEC and a scene.

    Returns
    -------
    runs : list of Run
        By price weight, policy and seed.

    Raises
    ------
    SettingsError, TableError, ValueError
        A setting is wrong, or nothing is left to live through.
    """
    table, world = (table.table, table) if isinstance(table, World) else (table, None)
    specs = list(dict.fromkeys(spec.strip() for spec in specs))
    if max_quality_drop is not None:
        check_unit("max_quality_drop", max_quality_drop)
    weights = list(dict.fromkeys(check_amount("price weight", w) for w in price_weights))
    _check(table, specs, seeds, weights, budget_usd, feedback, rows, jobs, floor)
    if world is not None and feedback != "score":
        raise SettingsError("feedback: with a scenario, say [[signal]] in its file")
    stage = _stage(table, features or HashedFeatures(), budget_usd, floor, prior)
    lives = [
        _Life(
            spec=spec,
            seed=seed,
            rows=rows,
            thumbs=feedback == "thumbs",
            scene=scene,
            world=world,
            maker=maker,
        )
        for scene in (
            replace(stage, price_weight=weight, max_quality_drop=max_quality_drop) for weight in weights
        )
        for spec in specs
        for seed in range(first_seed, first_seed + seeds)
    ]
    for life in lives[::seeds]:
        life.maker(life.spec, life.first_scene())  # a wrong SPEC is refused before hours of work
    return list(_counted(_lived(lives, jobs), len(lives), progress))


def known_rows(table: Table, prior: Table) -> Rows:
    """Return which rows of a table a prior holds too: same id, same prompt."""
    known = set(zip(prior.prompt_ids, prior.prompts, strict=True))
    rows = zip(table.prompt_ids, table.prompts, strict=True)
    return np.array([i for i, row in enumerate(rows) if row in known], dtype=np.intp)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Life:
    """One policy, one order: all that a worker needs to know."""

    spec: str
    seed: int
    rows: int | None
    thumbs: bool
    scene: Scene
    world: World | None
    maker: Maker

    def live(self) -> Run:
        return self._changing(self.world) if self.world is not None else self._standing()

    def first_scene(self) -> Scene:
        """Return a scene to see whether the SPEC is right."""
        return self.scene if self.world is None else self._streamed(self.world)[0]

    def _standing(self) -> Run:
        table, live = self.scene.table, self.scene.order
        rng = np.random.default_rng(self.seed)
        order, draws = rng.permutation(live)[: self.rows], rng.random(len(live))[: self.rows]
        told = table.quality
        if self.thumbs:
            told = (rng.random(told.shape) < told).astype(np.float64)
        scene = replace(self.scene, order=order)
        chosen = play(self.maker(self.spec, scene), order, draws, told)
        return self._run(scene, chosen)

    def _changing(self, world: World) -> Run:
        scene, draws = self._streamed(world)
        assert scene.stream is not None
        chosen = play_stream(self.maker(self.spec, scene), scene.stream, draws)
        return self._run(scene, chosen)

    def _streamed(self, world: World) -> tuple[Scene, Array]:
        rng = np.random.default_rng(self.seed)
        stream = world.stream(self.scene.order, rng).first(self.rows)
        return self.scene.on(stream), rng.random(len(stream.rows))

    def _run(self, scene: Scene, chosen: Rows) -> Run:
        at = (scene.order, chosen)
        return Run(
            policy=self.spec,
            seed=self.seed,
            price_weight=scene.price_weight,
            budget_usd=scene.budget_usd,
            models=scene.table.names,
            chosen=chosen,
            order=scene.order,
            quality=scene.table.quality[at],
            cost_usd=scene.table.cost_usd[at],
            reward=scene.reward[at],
            stream=None if scene.stream is None else scene.stream.bare(),
        )


def _stage(
    table: Table,
    features: FeatureExtractor,
    budget_usd: float | None,
    floor: float,
    prior: Table | None,
) -> Scene:
    """Return the scene of the rows that may be lived through, in the table's own order."""
    prompts = [Prompt.of(text) for text in table.prompts]
    order = np.arange(len(table))
    if prior is not None:
        order = np.setdiff1d(order, known_rows(table, prior))
        if not len(order):
            raise TableError(f"{table.name}: nothing is left: the prior holds every row of it")
    return Scene(
        table=table,
        order=order,
        features=features.extract_many(prompts),
        guessed_tokens=np.array([prompt.input_tokens for prompt in prompts]),
        budget_usd=budget_usd,
        floor=floor,
        warmth=None if prior is None else _warmth(table, prior, features),
    )


def _warmth(table: Table, prior: Table, features: FeatureExtractor) -> Warmth:
    common = [name for name in table.names if name in prior.names]
    if not common:
        raise TableError(f"prior {prior.name}: has none of the models {', '.join(table.names)}")
    prompts = [Prompt.of(text) for text in prior.prompts]
    return Warmth.of(prior.with_pool(common), features.extract_many(prompts))


def _lived(lives: Sequence[_Life], jobs: int) -> Iterator[Run]:
    """Yield the runs in order; one BLAS thread each, as small matrices are slower with more."""
    threadpoolctl, joblib = (import_extra(name, "simulate") for name in ("threadpoolctl", "joblib"))
    if jobs == 1:
        with threadpoolctl.threadpool_limits(1):
            yield from (life.live() for life in lives)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(
            n_jobs=min(jobs, len(lives)) if jobs > 0 else jobs, return_as="generator"
        )
        yield from parallel(joblib.delayed(_Life.live)(life) for life in lives)


def _counted(runs: Iterable[Run], total: int, progress: Progress | None) -> Iterator[Run]:
    for done, run in enumerate(runs, start=1):
        if progress is not None:
            progress(done, total)
        yield run


def _check(
    table: Table,
    specs: Sequence[str],
    seeds: int,
    weights: Sequence[float],
    budget_usd: float | None,
    feedback: str,
    rows: int | None,
    jobs: int,
    floor: float,
) -> None:
    if not specs or not weights:
        raise SettingsError("expected at least one policy and one price weight")
    if seeds < 1 or (rows is not None and rows < 1) or jobs == 0:
        raise SettingsError(f"expected at least 1, got seeds={seeds}, rows={rows}, jobs={jobs}")
    check_unit("floor", floor)
    if feedback not in get_args(FeedbackKind):
        raise SettingsError(f"feedback: expected score or thumbs, got {feedback!r}")
    if budget_usd is not None and not check_amount("budget", budget_usd) > 0:
        raise SettingsError(f"budget: expected more than 0 USD, got {budget_usd:g}")
    if (max(weights) > 0 or budget_usd is not None) and not table.has_cost:
        raise SettingsError(f"{table.name}: has no costs, so no price weight and no budget can be used")
