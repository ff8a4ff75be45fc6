"""Reports: everything in one page, nothing from data taken as markup, no global state."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from rich.console import Console

from bandit_router import __version__
from bandit_router.events import Model
from simulations import pictures
from simulations.report import Line, lines, terminal_table, write_html, write_json
from simulations.runs import Run
from simulations.tables import Table

EVIL = "<script>alert('$x$')</script> [red]日本"


def table_of(n: int = 40, k: int = 3, *, costs: bool = True, name: str = "t") -> Table:
    rng = np.random.default_rng(0)
    models = (EVIL, *(f"m{i}" for i in range(1, k)))
    return Table(
        name=name,
        prompt_ids=tuple(map(str, range(n))),
        prompts=("p",) * n,
        models=tuple(Model(model) for model in models),
        quality=rng.random((n, k)),
        cost_usd=rng.random((n, k)) * np.geomspace(0.001, 1.0, k) * costs,
        dropped=7,
    )


def walk(
    table: Table, policy: str, seed: int, *, weight: float = 0.0, budget: float | None = None
) -> Run:
    rng = np.random.default_rng(seed)
    order, chosen = rng.permutation(len(table)), rng.integers(len(table.models), size=len(table))
    return Run(
        policy=policy,
        seed=seed,
        price_weight=weight,
        budget_usd=budget,
        models=table.names,
        chosen=chosen,
        order=order,
        quality=table.quality[order, chosen],
        cost_usd=table.cost_usd[order, chosen],
        reward=table.reward(weight)[order, chosen],
    )


def some_runs(table: Table, seeds: int = 3) -> list[Run]:
    policies = ("thompson", "best-fixed", EVIL)
    weights = (0.0, 0.3) if table.has_cost else (0.0,)
    return [walk(table, p, s, weight=w) for w in weights for p in policies for s in range(seeds)]


class Page(HTMLParser):
    """Collects tags and text, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(path: Path, table: Table, runs: list[Run]) -> tuple[str, Page]:
    write_html(path, table, runs)
    text = path.read_text("utf-8")
    page = Page()
    page.feed(text)
    return text, page


def test_lines_average_over_seeds() -> None:
    table = table_of()
    runs = [walk(table, "greedy", seed) for seed in range(4)]
    (line,) = lines(table, runs)
    assert isinstance(line, Line)
    assert (line.policy, line.seeds) == ("greedy", 4)
    assert line.reward[0] == pytest.approx(np.mean([run.reward.mean() for run in runs]))
    assert line.reward[1] < line.reward[0] < line.reward[2]
    assert sum(line.share.values()) == pytest.approx(1.0)


def test_a_line_per_policy_weight_and_budget() -> None:
    table = table_of()
    runs = [walk(table, "a", 0), walk(table, "a", 0, weight=0.5), walk(table, "a", 0, budget=0.01)]
    found = [(line.price_weight, line.budget_usd) for line in lines(table, runs)]
    assert found == [(0.0, None), (0.5, None), (0.0, 0.01)]


def test_a_fixed_model_of_the_hull_is_level_with_the_zero_router() -> None:
    table = table_of()
    dearest = int(table.quality.mean(axis=0).argmax())
    run = walk(table, "fixed", 0)
    chosen = np.full(len(table), dearest)
    fixed = Run(
        policy="fixed",
        seed=0,
        price_weight=0.0,
        budget_usd=None,
        models=table.names,
        chosen=chosen,
        order=run.order,
        quality=table.quality[run.order, dearest],
        cost_usd=table.cost_usd[run.order, dearest],
        reward=table.quality[run.order, dearest],
    )
    (line,) = lines(table, [fixed])
    assert line.above_zero is not None
    assert line.above_zero[0] == pytest.approx(0.0)


def test_terminal_table_takes_nothing_as_markup() -> None:
    table = table_of()
    console = Console(width=220)
    with console.capture() as captured:
        console.print(terminal_table(table, some_runs(table)))
    text = captured.get()
    assert "7 rows dropped" in text
    assert "[red]" in text
    assert text.count("best-fixed") == 2


def test_page_is_one_file_and_escapes_what_comes_from_data(tmp_path: Path) -> None:
    table = table_of(name=EVIL)
    text, page = page_of(tmp_path / "r.html", table, some_runs(table))
    assert "script" not in page.tags
    assert "<script" not in text
    assert EVIL in " ".join(page.text)
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)", text)
    assert page.tags.count("svg") == 8
    assert page.tags.count("h2") == 2


def test_page_says_what_was_run(tmp_path: Path) -> None:
    table = table_of()
    text, page = page_of(tmp_path / "r.html", table, some_runs(table))
    words = " ".join(page.text)
    for wanted in ("40 rows", "7 dropped", "0, 1, 2", __version__, "Price weight 0.3"):
        assert wanted in words
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S).lower()
    row = lines(table, some_runs(table))[0]
    assert f"{row.reward[0]:.4f}" in words


def test_pictures_are_xml_and_do_not_depend_on_when(tmp_path: Path) -> None:
    table = table_of()
    groups = {"thompson": [walk(table, "thompson", seed) for seed in range(2)]}
    before = dict(mpl.rcParams)
    drawn = [
        pictures.reward_picture(groups),
        pictures.regret_picture(groups, table),
        pictures.share_picture(groups, table.names),
        pictures.plane_picture(groups, table, 0.01),
    ]
    assert dict(mpl.rcParams) == before
    for svg in drawn:
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert drawn[3] == pictures.plane_picture(groups, table, 0.01)
    assert EVIL[:20] in "".join(ElementTree.fromstring(drawn[3]).itertext())


@pytest.mark.parametrize("k", [1, 12])
def test_few_and_many_models(tmp_path: Path, k: int) -> None:
    table = table_of(k=k)
    text, _ = page_of(tmp_path / "r.html", table, some_runs(table))
    assert ("other models" in text) == (k == 12)


def test_no_costs_no_plane(tmp_path: Path) -> None:
    table = table_of(costs=False)
    text, page = page_of(tmp_path / "r.html", table, some_runs(table))
    assert "the table has no costs" in text
    assert page.tags.count("svg") == 3
    assert lines(table, some_runs(table))[0].above_zero is None


def test_one_seed_two_rounds_no_learner_and_a_budget(tmp_path: Path) -> None:
    table = table_of(n=2)
    text, page = page_of(tmp_path / "r.html", table, [walk(table, "uniform", 0, budget=0.01)])
    assert "Budget $10 per 1,000 requests" in text
    assert page.tags.count("svg") == 3
    assert "±" not in re.sub(r"<caption>.*?</caption>", "", text)


def test_more_policies_than_colours(tmp_path: Path) -> None:
    table = table_of()
    text, _ = page_of(tmp_path / "r.html", table, [walk(table, f"p{i}", 0) for i in range(11)])
    assert "border-top-style: dashed" in text


def test_json(tmp_path: Path) -> None:
    table = table_of()
    write_json(tmp_path / "r.json", table, some_runs(table, seeds=1))
    whole = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert len(whole["rows"]) == 6
    assert EVIL in whole["rows"][0]["share"]


def test_an_unwritable_path(tmp_path: Path) -> None:
    table = table_of()
    for write in (write_html, write_json):
        with pytest.raises(OSError, match="nowhere"):
            write(tmp_path / "nowhere" / "r", table, some_runs(table, seeds=1))


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'bandit-router\[simulate\]'"):
        write_html(tmp_path / "r.html", table, some_runs(table, seeds=1))


def test_moving_mean() -> None:
    np.testing.assert_allclose(pictures.moving_mean(np.array([1.0, 2.0, 3.0, 4.0]), 2), [1.5, 2.5, 3.5])
    assert pictures.shorten("abcdef", 4) == "abc…"
