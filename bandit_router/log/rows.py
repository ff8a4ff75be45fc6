"""How values become rows, and rows values: lossless both ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bandit_router.errors import FormatError
from bandit_router.events import Candidate, Decision, FeedbackValue, Outcome
from bandit_router.values import Array

Row = Mapping[Any, Any]  # Any: what SQLAlchemy's row mappings are


def to_us(moment: float) -> int:
    """Seconds since 1970 as whole microseconds."""
    return round(moment * 1e6)


def from_us(microseconds: int) -> float:
    """Whole microseconds as seconds since 1970."""
    return microseconds / 1e6


def pack(x: Array) -> bytes:
    """A vector as little-endian float64."""
    return x.astype("<f8", copy=False).tobytes()


def unpack(data: bytes) -> Array:
    """What `pack` wrote; not writeable.

    Raises
    ------
    FormatError
        Of a wrong length, or not finite.
    """
    if len(data) % 8:
        raise FormatError(f"features: {len(data)} bytes are no float64 vector")
    x = np.frombuffer(data, dtype="<f8").astype(np.float64, copy=False)
    if not np.isfinite(x).all():
        raise FormatError("features: expected finite numbers")
    return x


def digest(body: object) -> str:
    """SHA-256 of a JSON body or a text, as 64 hexadecimal digits."""
    text = body if isinstance(body, str) else json.dumps(body, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def decision_row(
    decision: Decision, *, input_tokens: float, body_hash: str | None, prompt_hash: str | None
) -> dict[str, Any]:
    """The row of a decision."""
    return {
        "id": decision.id,
        "router": decision.router,
        "at_us": to_us(decision.at),
        "model": decision.model,
        "probability": decision.probability,
        "reason": decision.reason,
        "policy": decision.policy,
        "features": pack(decision.features),
        "features_version": decision.features_version,
        "candidates": json.dumps(
            [
                [c.model, c.probability, c.mean, c.std, c.cost_usd, c.latency_s]
                for c in decision.candidates
            ]
        ),
        "input_tokens": input_tokens,
        "predicted_usd": decision.predicted_usd,
        "cost_unit_usd": decision.cost_unit_usd,
        "user": decision.user,
        "conversation": decision.conversation,
        "head": decision.conversation_head,
        "tags": json.dumps(dict(decision.tags)) if decision.tags else None,
        "key": decision.key,
        "body_hash": body_hash,
        "prompt_hash": prompt_hash,
    }


def candidates_of(text: str) -> tuple[Candidate, ...]:
    """The candidates of a decision's row."""
    return tuple(
        Candidate(model=model, probability=p, mean=mean, std=std, cost_usd=cost, latency_s=latency)
        for model, p, mean, std, cost, latency in json.loads(text)
    )


def decision_of(row: Row, *, duplicate: bool = False) -> Decision:
    """The decision of a row."""
    return Decision(
        id=row["id"],
        router=row["router"],
        model=row["model"],
        probability=row["probability"],
        reason=row["reason"],
        policy=row["policy"],
        candidates=candidates_of(row["candidates"]),
        at=from_us(row["at_us"]),
        features=unpack(row["features"]),
        features_version=row["features_version"],
        user=row["user"],
        conversation=row["conversation"],
        conversation_head=row["head"],
        tags=json.loads(row["tags"]) if row["tags"] else {},
        key=row["key"],
        cost_unit_usd=row["cost_unit_usd"],
        duplicate=duplicate,
    )


def outcome_of(row: Row) -> Outcome:
    """The outcome of a row; its cost is the one that was paid, reported or worked out."""
    return Outcome(
        model=row["model"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_usd=row["cost_usd"],
        latency_s=row["latency_s"],
        ttft_s=row["ttft_s"],
        error=row["error"],
    )


def value_to_text(value: FeedbackValue) -> str:
    """A feedback's value as JSON."""
    return json.dumps(value)


def value_of(text: str) -> FeedbackValue:
    """A feedback's value from JSON."""
    value: FeedbackValue = json.loads(text)
    return value
