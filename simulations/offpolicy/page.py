"""What a log says about policies as one page that needs nothing else, and prints well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulations.estimators import Estimate
from simulations.offpolicy.verdicts import Verdict, Verdicts
from simulations.report import rendered, write_page

TEMPLATE = "replay.html"
SHOWN = "dr"  # the estimator of the picture


def write_html(path: str | Path, found: Verdicts) -> None:
    """Write value and intervals per policy, exposure, reach, cost, and what was left out.

    Raises
    ------
    OSError
        The file cannot be written.
    ImportError
        matplotlib or jinja2 is not installed.
    """
    write_page(path, lambda: _page(found))


def _page(found: Verdicts) -> str:
    from markupsafe import Markup

    from simulations.pictures import colour, interval_picture, stacked_picture

    judged = [verdict for verdict in found.policies if not verdict.refusal]
    values = {verdict.spec: _ends(verdict.estimates[SHOWN]) for verdict in judged}
    shares = {verdict.spec: [verdict.share[m] for m in found.models] for verdict in judged}
    return rendered(
        TEMPLATE,
        found=found,
        judged=judged,
        refused=[verdict for verdict in found.policies if verdict.refusal],
        estimators=_estimators(judged),
        paid=next((v.paid.value for v in judged if v.paid and v.spec == "logged"), None),
        models=[(model, colour(at)) for at, model in enumerate(found.models)],
        # Markup: matplotlib has escaped the texts in its pictures.
        values=Markup(interval_picture(values, "mean reward of a request")) if judged else "",
        shares=Markup(stacked_picture(shares)) if judged else "",
    )


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _estimators(judged: Sequence[Verdict]) -> list[dict[str, Any]]:  # Any: what the template shows
    """A line per estimator that any policy has, and per value of a parameter."""
    names = dict.fromkeys(name for verdict in judged for name in verdict.estimates)
    lines = [
        {"name": name, "cells": [verdict.estimates.get(name) for verdict in judged]} for name in names
    ]
    swept = dict.fromkeys((s.estimator, s.parameter) for verdict in judged for s in verdict.swept)
    for estimator, parameter in swept:
        at = [
            {(s.estimator, s.parameter): s.estimate for s in v.swept}[estimator, parameter]
            for v in judged
        ]
        lines.append({"name": f"{estimator} {parameter:g}", "cells": at})
    return lines
