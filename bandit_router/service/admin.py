"""Routers, models, settings, beliefs and users: what operators look at and change, live on all workers."""

# No late annotations here: FastAPI must see dependencies that are arguments of the enclosing function.

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from bandit_router.answers import AnswerRoute, RefusedError, arguments, errors
from bandit_router.bodies import Amount, Body, Count, Name
from bandit_router.drift import KEEP
from bandit_router.embeddings import embeds
from bandit_router.errors import SettingsError
from bandit_router.events import Model
from bandit_router.log.erasure import Forgotten
from bandit_router.router import Router
from bandit_router.service.auth import needs
from bandit_router.service.desk import Desk
from bandit_router.service.routes import PreferenceBody
from bandit_router.settings import model_to_json, settings_changes

ABSENT: Any = None  # Any: the default of fields that null cannot fill


class TrustBody(Body):
    """How far a source is believed: a score means ``offset + slope * score``."""

    weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    slope: float = 1.0
    offset: float = 0.0
    probed: Annotated[float, Field(ge=0, le=1, description="what constants leave of the weight")] = 1.0


class MetricBody(Body):
    """A kind of feedback."""

    kind: Literal["bool", "number", "text"] = "number"
    weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    low: float = 0.0
    high: float = 1.0
    limited: bool = Field(True, description="whether one rater counts for so much only")
    trust: dict[Name, TrustBody] = Field({}, description="by source, or * for all others")


class SettingsBody(Body):
    """Settings to be changed; what is not given stays, and null switches off what may be."""

    policy: Name = Field(ABSENT, description="SPEC of the policy: thompson, linucb:alpha=0.5, ...")
    preference: PreferenceBody = ABSENT
    cost_unit_usd: Amount | None = None
    budget_usd_per_request: Amount | None = None
    half_life_s: Amount | None = None
    floor: Annotated[float, Field(ge=0, le=1)] = ABSENT
    features: Name = ABSENT
    text: Literal["full", "hash", "none"] = ABSENT
    text_retention_s: Amount | None = None
    sticky: bool = ABSENT
    metrics: dict[Name, MetricBody] = ABSENT
    rater_limit: Amount | None = None
    drift_detection: bool = ABSENT


class ModelBody(Body):
    """A model; what is not given stays as it was."""

    input_usd_per_mtok: Amount = ABSENT
    output_usd_per_mtok: Amount = ABSENT
    context_tokens: Annotated[Count, Field(ge=1)] | None = Field(None, description="null is unlimited")
    reset: bool = Field(False, description="start without the evidence it has")


class ModelAnswer(BaseModel):
    """A model of a router."""

    name: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    context_tokens: int | None
    retired: bool


class SettingsAnswer(BaseModel):
    """The settings of a router."""

    policy: str
    preference: PreferenceBody
    cost_unit_usd: float | None
    budget_usd_per_request: float | None
    half_life_s: float | None
    floor: float
    features: str
    text: str
    text_retention_s: float | None
    sticky: bool
    metrics: dict[str, MetricBody]
    rater_limit: float | None
    drift_detection: bool
    budget_since: float | None


class RouterAnswer(BaseModel):
    """A router: its settings and its models, retired ones too."""

    name: str
    settings: SettingsAnswer
    models: list[ModelAnswer]


class RoutersAnswer(BaseModel):
    """All routers of the log."""

    routers: list[RouterAnswer]


class DriftBody(Body):
    """A model has changed: what was learnt of it before counts less."""

    factor: Annotated[float, Field(gt=0, le=1, description="of earlier evidence")] = KEEP
    at: str | float | None = Field(
        None, description="when; RFC 3339 or seconds since 1970; by default now"
    )
    why: Annotated[str, Field(max_length=1_000)] | None = None


class DriftAnswer(BaseModel):
    """A change of a model that was recorded."""

    at: str
    factor: float
    origin: Literal["host", "surprise", "unsettled"]
    why: str | None
    created: str


class BeliefAnswer(BaseModel):
    """What is believed of one model."""

    n: float
    mean_reward: float | None
    prior: dict[str, float]
    last_change: str | None
    retired: bool
    drifts: list[DriftAnswer] = Field([], description="changes of the model, the earliest first")


class BeliefsAnswer(BaseModel):
    """What is believed of each model."""

    router: str
    beliefs: dict[str, BeliefAnswer]


class ForgottenAnswer(BaseModel):
    """How many rows of each kind were erased, in all routers."""

    decisions: int
    outcomes: int
    feedback: int
    rewards: int
    texts: int
    archives_pending: int = Field(
        0,
        description="archives that the next retention run looks through, for they are out of reach here",
    )


RouterName = Annotated[Name, Path(description="the router")]
ModelName = Annotated[Name, Path(description="the model; its name may have slashes")]


def admin_routes(desk: Desk) -> APIRouter:
    """Return the routes by which routers are looked at and changed, and users erased."""
    api = APIRouter(route_class=AnswerRoute, tags=["admin"])
    looking, changing = [needs("route")], [needs("admin")]
    found = errors(404, 422)
    changed = errors(404, 415, 422)
    drifted = errors(404, 409, 415, 422)

    @api.get("/v1/routers", dependencies=looking, responses=errors())
    async def routers() -> RoutersAnswer:
        """Show all routers."""
        opened = [await desk.router(name) for name in await desk.names()]
        return RoutersAnswer(routers=[_router_answer(router) for router in opened])

    @api.get("/v1/routers/{name}", dependencies=looking, responses=found)
    async def router(name: RouterName) -> RouterAnswer:
        """Show a router's settings and models."""
        return _router_answer(await desk.router(name))

    @api.put("/v1/routers/{name}", dependencies=changing, responses=changed)
    async def configure(name: RouterName, body: SettingsBody) -> RouterAnswer:
        """Change a router's settings, live on all workers; make the router if there is none."""
        changes = _changes(body)
        known = name in await desk.names(name)
        _refuse_embeddings(changes, await desk.router(name) if known else None)
        with arguments(half_life="half_life_s", text_retention="text_retention_s"):
            configured = await (desk.router(name) if known else desk.make_router(name, changes))
            await asyncio.to_thread(lambda: configured.configure(**changes))
        return _router_answer(configured)

    @api.put("/v1/routers/{name}/models/{model:path}", dependencies=changing, responses=changed)
    async def put_model(name: RouterName, model: ModelName, body: ModelBody) -> ModelAnswer:
        """Add a model, change it, or resume a retired one; what is not given stays as it was."""
        changed = await desk.router(name)
        with arguments():
            put = _merged(changed, model, body)
            await asyncio.to_thread(changed.put_model, put, reset=body.reset)
        return _model_answer(put, retired=False)

    @api.delete("/v1/routers/{name}/models/{model:path}", dependencies=changing, responses=found)
    async def retire_model(name: RouterName, model: ModelName) -> ModelAnswer:
        """Take a model out of the choice; it keeps its evidence."""
        changed = await desk.router(name)
        await asyncio.to_thread(changed.retire_model, model)
        return _model_answer(changed.known_models[model], retired=True)

    @api.post("/v1/routers/{name}/models/{model:path}/drifts", dependencies=changing, responses=drifted)
    async def record_drift(name: RouterName, model: ModelName, body: DriftBody) -> DriftAnswer:
        """Say that a model has changed; what was learnt of it before counts less, on all workers."""
        changed = await desk.router(name)
        with arguments():
            drift = await asyncio.to_thread(
                lambda: changed.record_drift(model, factor=body.factor, at=body.at, why=body.why)
            )
        return DriftAnswer(**drift.to_json())

    @api.get("/v1/routers/{name}/beliefs", dependencies=looking, responses=found)
    async def beliefs(name: RouterName) -> BeliefsAnswer:
        """Show what is believed of each model."""
        believed = await asyncio.to_thread((await desk.router(name)).beliefs)
        answers = {model: BeliefAnswer(**belief) for model, belief in believed.items()}
        return BeliefsAnswer(router=name, beliefs=answers)

    @api.delete("/v1/users/{user:path}", dependencies=changing, responses=errors(404, 422))
    async def forget_user(user: Annotated[Name, Path()]) -> ForgottenAnswer:
        """Erase a user from all routers, and what was learnt from them."""
        opened = [await desk.router(name) for name in await desk.names()]
        erased = [await asyncio.to_thread(router.forget_user, user) for router in opened]
        counts = [field.name for field in fields(Forgotten)]
        return ForgottenAnswer(
            **{count: sum(getattr(forgotten, count) for forgotten in erased) for count in counts}
        )

    return api


def _changes(body: SettingsBody) -> dict[str, Any]:  # Any: of each setting's own type
    """The settings that are given, as the library has them."""
    changes: dict[str, Any] = {}  # Any: as above
    for name, value in body.model_dump(exclude_unset=True).items():
        try:
            changes |= settings_changes({name: value})
        except SettingsError as error:
            raise RefusedError("invalid_value", str(error), param=name) from error
    return changes


def _refuse_embeddings(changes: Mapping[str, Any], router: Router | None) -> None:  # Any: as above
    """Whoever may send prompts and a key of the environment elsewhere has the machine, not only a key."""
    features = changes.get("features")
    same = router is not None and router.settings.features == features
    if isinstance(features, str) and embeds(features) and not same:
        said = "embeddings are set by the config file, `bandit-router rebuild` or the library, not over HTTP"
        raise RefusedError("invalid_value", f"features: {said}", param="features")


def _merged(router: Router, name: str, body: ModelBody) -> Model:
    given = body.model_dump(exclude_unset=True, exclude={"reset"})
    known = router.known_models.get(name)
    return Model(name, **given) if known is None else replace(known, **given)


def _router_answer(router: Router) -> RouterAnswer:
    active, known = {model.name for model in router.models}, router.known_models
    settings = router.settings.to_json()
    metrics = {name: asdict(metric) for name, metric in router.settings.metrics.items()}
    return RouterAnswer(
        name=router.name,
        settings=SettingsAnswer.model_validate(settings | {"metrics": metrics}),
        models=[_model_answer(model, retired=name not in active) for name, model in known.items()],
    )


def _model_answer(model: Model, *, retired: bool) -> ModelAnswer:
    return ModelAnswer(**model_to_json(model), retired=retired)
