"""The face: every public name is there, and a bare import stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import bandit_router
from bandit_router import errors

# Section 1 of the contract, and what its signatures name.
PUBLIC = {
    *("Router", "Model", "Outcome", "Decision", "Feedback", "Reward", "Preference", "Metric"),
    *("Policy", "LinUCB", "ThompsonSampling", "InverseGapWeighting"),
    *("EpsilonGreedy", "Greedy", "Uniform"),
}
METHODS = {
    *("open", "close", "aclose", "choose", "achoose", "report", "areport", "feedback", "afeedback"),
    *("retract", "forget_user", "decision", "put_model", "retire_model", "configure"),
    *("rebuild", "beliefs"),
}
HEAVY = (
    "sklearn",
    "river",
    "pandas",
    "pyarrow",
    "matplotlib",
    "alembic",
    "joblib",
    "jinja2",
    "rich",
    "click",
)


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_every_public_name_is_there() -> None:
    assert set(bandit_router.__all__) >= PUBLIC
    assert len(bandit_router.__all__) == len(set(bandit_router.__all__))


@pytest.mark.parametrize("name", bandit_router.__all__)
def test_every_name_of_the_face_can_be_imported(name: str) -> None:
    assert getattr(bandit_router, name) is not None
    assert name in dir(bandit_router)


def test_the_face_has_every_error() -> None:
    ours = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.BanditRouterError)
    }
    assert ours <= set(bandit_router.__all__)
    for name in ours:
        assert name in (errors.__doc__ or ""), f"{name} is missing in the tree"
        assert str(getattr(errors, name)("a sentence")) == "a sentence"


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Rooter'"):
        bandit_router.Rooter  # noqa: B018 - that is what is tested


def test_router_has_every_method() -> None:
    missing = {name for name in METHODS if not callable(getattr(bandit_router.Router, name, None))}
    assert not missing


def test_public_classes_are_documented() -> None:
    for name in bandit_router.__all__:
        thing = getattr(bandit_router, name)
        if inspect.isclass(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


def test_a_bare_import_is_light() -> None:
    loaded = loaded_by("import bandit_router")
    assert not loaded & {*HEAVY, "numpy", "scipy", "sqlalchemy", "simulations", "feedback"}


def test_all_of_the_face_needs_no_extra() -> None:
    loaded = loaded_by("from bandit_router import *")
    assert "numpy" in loaded
    assert not loaded & {*HEAVY, "simulations", "feedback"}


def test_the_checks_need_no_test_runner() -> None:
    assert not loaded_by("import bandit_router.checks") & {"pytest", "hypothesis", *HEAVY}
