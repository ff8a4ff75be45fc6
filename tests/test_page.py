"""The page with thumbs, in a real browser, before the example chat backend in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from serving import until

from bandit_router import Reward, Router
from bandit_router.log.deciding import Story

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "chat.py"
FLAGS = [
    *("--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
PATIENCE_MS = 30_000
WATCH = """() => {
  const talk = document.querySelector("#talk");
  window.lengths = new Set();
  const watched = { childList: true, subtree: true, characterData: true };
  new MutationObserver(() => lengths.add(talk.innerText.length)).observe(talk, watched);
}"""


class Chat:
    """The example, started as its reader starts it."""

    def __init__(self, folder: Path) -> None:
        self.log = f"sqlite:///{folder / 'example.db'}"
        self.said = folder / "said"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(EXAMPLE)],
                cwd=folder,
                env={**os.environ, "PORT": "0"},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self.url = self._wait()

    def _wait(self) -> str:
        until(lambda: "http://" in self.said.read_text() or self.process.poll() is not None, "no start")
        found = re.search(r"http://\S+:\d+", self.said.read_text())
        assert found is not None, self.said.read_text()
        return found[0]

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) in (0, -15), self.said.read_text()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    running = Chat(tmp_path_factory.mktemp("chat"))
    yield running
    running.end()
    assert "Traceback" not in running.said.read_text()


@pytest.fixture
def story(chat: Chat) -> Iterator[Callable[[str], Story]]:
    """What the log has of a decision."""
    with Router.open(chat.log) as router:
        yield router.decision


@pytest.fixture(scope="module")
def browser(browser_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def trouble() -> list[str]:
    """What the page's console said, and what broke; empty where all is well."""
    return []


@pytest.fixture(params=[1100, 375], ids=["desk", "phone"])
def page(
    request: pytest.FixtureRequest, browser: Browser, chat: Chat, trouble: list[str]
) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": request.param, "height": 700}, locale="en")
    opened.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.goto(chat.url)
    yield opened
    opened.close()


def ask(page: Page, question: str) -> str:
    """Ask, watch the answer stream in, and return the decision's id."""
    page.get_by_label("Your question").fill(question)
    page.evaluate(WATCH)
    with page.expect_response("**/chat") as response:
        page.get_by_label("Your question").press("Enter")
    expect(page.get_by_text(question, exact=True)).to_be_visible()
    answer = page.get_by_role("article").last
    expect(answer.get_by_text("answered by")).to_be_visible()
    expect(answer).to_have_attribute("aria-busy", "false")
    assert page.evaluate("lengths.size") > 3, "the answer did not come piece by piece"
    return str(response.value.headers["x-router-decision-id"])


def press(page: Page, name: str, *, pressed: bool = True) -> None:
    """Press a thumb of the latest answer, and wait until it was heard."""
    thumb = page.get_by_role("button", name=name).last
    with page.expect_response("**/v1/feedback") as response:
        thumb.click()
    assert response.value.status == 200
    expect(thumb).to_have_attribute("aria-pressed", str(pressed).lower())
    expect(page.get_by_role("status")).to_have_text("Thank you." if pressed else "Taken back.")


def test_thumbs_teach_the_router(page: Page, story: Callable[[str], Story], trouble: list[str]) -> None:
    asked = ask(page, "How do tides work?")
    press(page, "Good answer")
    assert story(asked).reward == Reward(value=1.0)
    press(page, "Bad answer")
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "false")
    told = story(asked)
    assert told.reward == Reward(value=0.0)
    assert [said.feedback.value for said in told.feedback] == [True, False]
    assert {said.feedback.source for said in told.feedback} == {"user:1"}
    assert told.outcome is not None
    assert told.outcome.error is None
    assert told.answer is not None
    assert told.answer.strip() == page.locator(".answer p").inner_text()
    press(page, "Bad answer", pressed=False)
    assert story(asked).reward is None
    assert trouble == []


def test_each_answer_has_thumbs_of_its_own(
    page: Page, story: Callable[[str], Story], trouble: list[str]
) -> None:
    first, second = ask(page, "What is a qubit?"), ask(page, "<b>And why</b>?")
    press(page, "Bad answer")
    assert (story(first).reward, story(second).reward) == (None, Reward(value=0.0))
    prompt = story(second).prompt
    assert isinstance(prompt, list)
    assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
    assert page.locator("b").count() == 0
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "the page is wider than its window"
    assert trouble == []


def test_keys_are_enough(page: Page, story: Callable[[str], Story], trouble: list[str]) -> None:
    asked = ask(page, "Can you hear me?")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("button", name="Bad answer")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    with page.expect_response("**/v1/feedback"):
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Thank you.")
    assert story(asked).reward == Reward(value=1.0)
    assert trouble == []


def test_what_could_not_be_sent_is_said(page: Page, story: Callable[[str], Story]) -> None:
    asked = ask(page, "Are you there?")
    page.route("**/v1/feedback", lambda route: route.abort())
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("status")).to_have_text("That could not be sent. Please try again.")
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "false")
    assert story(asked).feedback == ()
    page.unroute("**/v1/feedback")
    press(page, "Good answer")
    page.route("**/chat", lambda route: route.fulfill(status=503))
    page.get_by_label("Your question").fill("And now?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("There is no answer just now.")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_a_token_speaks_of_one_answer_only(chat: Chat) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    one, other = (httpx.post(f"{chat.url}/chat", json=talk, timeout=60) for _ in range(2))
    assert one.headers["x-router-model"] in ("small", "large")
    word = {"decision_id": other.headers["x-router-decision-id"], "name": "thumb", "value": True}
    for token, status in [(None, 401), ("brt1.x.y", 401), (one.headers["x-feedback-token"], 403),
                          (other.headers["x-feedback-token"], 200)]:  # fmt: skip
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = httpx.post(f"{chat.url}/v1/feedback", json=word, headers=headers, timeout=60)
        assert answer.status_code == status, answer.text
    assert httpx.post(f"{chat.url}/chat", json=[], timeout=60).status_code == 422


def test_a_reader_who_leaves_is_reported(chat: Chat, story: Callable[[str], Story]) -> None:
    talk = [{"role": "user", "content": "word " * 200}]
    with httpx.stream("POST", f"{chat.url}/chat", json=talk, timeout=60) as answer:
        next(answer.iter_bytes())
    asked = answer.headers["x-router-decision-id"]
    until(lambda: story(asked).outcome is not None, "no outcome")
    told = story(asked)
    assert told.outcome is not None
    assert told.outcome.error == "cut short"
