"""The wheel, installed in a fresh environment outside the checkout, with nothing but what it asks for."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSIDE = """
import importlib.util, sys
from bandit_router import Model, Router
for heavy in ("sklearn", "river", "pandas", "pyarrow", "matplotlib", "pytest"):
    assert importlib.util.find_spec(heavy) is None, heavy
with Router.open("sqlite:///inside.db", models=[Model("a"), Model("b")]) as router:
    router.feedback(router.choose("x").id, "thumb", True)
import feedback, simulations
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_ships_three_packages_and_the_migrations(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"bandit_router", "feedback", "simulations"}
    for needed in (
        "bandit_router/py.typed",
        "bandit_router/migrations/env.py",
        "bandit_router/migrations/versions/0001_first.py",
        "simulations/report.html",
        "simulations/replay.html",
    ):
        assert needed in names
    assert not [name for name in names if "test" in name.lower() and name.endswith(".py")]


@pytest.mark.timeout(300)
def test_a_fresh_environment_plays_the_demo_and_migrates(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "fresh"], cwd=tmp_path, check=True, timeout=100)
    binaries = tmp_path / "fresh" / ("Scripts" if sys.platform == "win32" else "bin")

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    quick = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run("python", "-m", "pip", "install", *quick, str(wheel))
    run("python", "-W", "error", "-c", INSIDE)
    assert "has schema" in run("bandit-router", "migrate", "--log", "sqlite:///new.db")
    assert "60 requests" in run("bandit-router", "demo", "--requests", "60")
    assert "small" in run("bandit-router", "models", "put", "small", "--log", "sqlite:///inside.db")
