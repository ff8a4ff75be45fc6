"""The judge, against a real log and a local server: each answer once, whatever breaks in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from judged import CALL_USD, Clock, answered, grades_of, jobs_of, judge_of, until
from upstream import Reply, Upstream

from bandit_router import ClosedError, Outcome, Router, SettingsError
from bandit_router.log import judging
from bandit_router.log import tables as t
from bandit_router.log.judging import Claim, JudgeStatus, Queue
from bandit_router.log.writer import committed
from bandit_router.rewards import Metric
from feedback.judge import Judge, JudgeWork
from feedback.sampling import OVERLAP_S, sampled
from feedback.shift import LEASE_S, PAUSE_S

Open = Callable[..., Router]
QUEUE = Queue(router="default", judge="grader")


@pytest.fixture
def url(log_url: str) -> str:
    return log_url


def test_answers_are_graded_and_learnt_from(router: Router, judge: Judge, upstream: Upstream) -> None:
    decisions = answered(router, 5)
    assert judge.run_once() == JudgeWork(sampled=5, graded=5)
    for decision_id in decisions:
        (said,) = router.decision(decision_id).feedback
        assert (said.feedback.name, said.feedback.value, said.feedback.applied) == ("judge", 0.75, True)
        assert said.feedback.key in {f"judgement:{job['id']}" for job in jobs_of(router)}
        reward = router.decision(decision_id).reward
        assert reward is not None
        assert reward.value == 0.75
    assert sum(belief["n"] for belief in router.beliefs().values()) == 2.5  # each counts half
    assert judge.status() == JudgeStatus(graded=5, spent_today_usd=pytest.approx(5 * CALL_USD))
    shown = " ".join(request["messages"][1]["content"] for request in upstream.requests)
    for i in range(5):
        assert f"question {i} about the sea" in shown
        assert f"an answer {i}" in shown
    for job in jobs_of(router):
        assert (job["state"], job["grade"], job["probability"], job["attempts"]) == (
            "graded",
            0.75,
            1,
            1,
        )
        assert job["finished_us"] >= job["claimed_us"] >= job["created_us"]
    assert judge.run_once() == JudgeWork()


def test_only_a_share_is_sampled_and_every_judge_samples_the_same(
    router: Router, upstream: Upstream
) -> None:
    decisions = answered(router, 60)
    wanted = {i for i in decisions if sampled(i, 0.3, "judge")}
    one, two = (judge_of(router, upstream, share=0.3) for _ in range(2))
    assert one.run_once() == JudgeWork(sampled=len(wanted), graded=len(wanted))
    assert two.run_once() == JudgeWork()
    jobs = jobs_of(router)
    assert {job["decision_id"] for job in jobs} == wanted
    assert {job["probability"] for job in jobs} == {0.3}
    other = judge_of(router, upstream, share=0.3, model="other")  # a second opinion on the same answers
    assert other.run_once().graded == len(wanted)


def test_nothing_to_grade_is_not_sampled(router: Router, judge: Judge, upstream: Upstream) -> None:
    router.choose("never reported")
    router.report(router.choose("no answer").id, Outcome(error="timeout"))
    assert judge.run_once() == JudgeWork()
    assert upstream.requests == []


def test_what_the_budget_cannot_pay_waits_until_the_next_day(
    router: Router, upstream: Upstream, clock: Clock
) -> None:
    clock.ahead = 86_400 - clock() % 86_400 + 10  # a new day has just begun
    judge = judge_of(router, upstream, clock=clock, daily_budget_usd=0.008, concurrency=1)
    decisions = answered(router, 20)
    first = judge.run_once()
    assert first.sampled == 20
    assert 0 < first.graded < 20
    assert first.pause_s == PAUSE_S
    assert judge.status().spent_today_usd <= 0.008
    clock.ahead += 80_000
    assert judge.run_once() == JudgeWork(put_back=1, pause_s=PAUSE_S)
    assert len(upstream.requests) == first.graded
    done = first.graded
    for _ in range(20):
        clock.ahead += 86_400
        work = judge.run_once()
        assert judge.status().spent_today_usd <= 0.008
        done += work.graded
        if not work.pause_s:
            break
    assert done == 20
    assert all(len(grades_of(router, decision_id)) == 1 for decision_id in decisions)
    assert {job["attempts"] for job in jobs_of(router)} == {1}


def test_many_judges_overspend_nothing_and_grade_nothing_twice(
    open_router: Open, upstream: Upstream
) -> None:
    """Replies cost just what was reserved; four judges at once stop exactly where one would."""
    routers = [open_router() for _ in range(2)]
    decisions = answered(routers[0], 30)
    upstream.usual = Reply(usage=None, slow_s=0.02)
    probe = judge_of(routers[0], upstream, share=1.0)
    first = judge_of(routers[0], upstream, daily_budget_usd=1.0, attempts=1, concurrency=1)
    assert first.run_once().graded == 30
    each = probe.status().spent_today_usd / 30
    assert each > 0.005

    more = answered(routers[1], 30)
    budget = probe.status().spent_today_usd + 10.5 * each
    judges = [
        judge_of(routers[i % 2], upstream, daily_budget_usd=budget, concurrency=3) for i in range(4)
    ]
    threads = [threading.Thread(target=judge.run_once) for judge in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert probe.status().spent_today_usd <= budget
    assert probe.status().graded == 40
    words = Counter(len(grades_of(routers[0], i)) for i in (*decisions, *more))
    assert words == {1: 40, 0: 20}
    assert len(upstream.requests) == 40


def test_a_waiting_job_survives_a_restart(open_router: Open, upstream: Upstream, clock: Clock) -> None:
    router = open_router()
    decisions = answered(router, 3)
    upstream.usual = Reply(status=500)
    assert judge_of(router, upstream).run_once() == JudgeWork(sampled=3, put_back=3)
    router.close()
    upstream.usual = Reply()
    again, clock.ahead = open_router(), 30.0
    assert judge_of(again, upstream, clock=clock).run_once() == JudgeWork(graded=3)
    assert [grades_of(again, i) for i in decisions] == [[0.75]] * 3


def test_a_worker_that_died_after_the_grade_was_said(
    router: Router, judge: Judge, upstream: Upstream, clock: Clock
) -> None:
    (decision_id,) = answered(router, 1)
    upstream.then(Reply(status=500))
    judge.run_once()
    clock.ahead += 60
    claimed = _claim_at(router, clock())
    key = f"judgement:{claimed.id}"
    router.feedback(decision_id, "judge", 0.1, source="judge:grader", key=key)  # and then it died
    assert judge.run_once() == JudgeWork()
    clock.ahead += 100
    assert judge.run_once() == JudgeWork(graded=1)
    assert grades_of(router, decision_id) == [0.1]
    assert jobs_of(router)[0]["grade"] == 0.1
    assert len(upstream.requests) == 1  # it was not asked again


def _claim_at(router: Router, now: float) -> Claim:
    job = partial(judging.claim, queue=QUEUE, now=now, lease_s=60.0, attempts=5)
    claimed = committed(router.log.write(job))
    assert claimed is not None
    return claimed


def test_a_worker_so_slow_that_its_claim_ended(
    router: Router, judge: Judge, upstream: Upstream, clock: Clock
) -> None:
    """While one waits for its grade, another claims the same answer and says another grade first."""
    (decision_id,) = answered(router, 1)
    later = Clock()
    later.ahead = judge.settings.timeout_s + LEASE_S + 5
    other = judge_of(router, upstream, clock=later)

    def meanwhile(_: dict[str, Any]) -> Reply:
        assert other.run_once() == JudgeWork(graded=1)
        return Reply(content='{"grade": 1}')

    upstream.then(meanwhile, Reply(content='{"grade": 5}'))
    assert judge.run_once() == JudgeWork(sampled=1, graded=1)
    assert grades_of(router, decision_id) == [1.0]  # the first one counts
    (job,) = jobs_of(router)
    assert (job["state"], job["grade"], job["attempts"]) == ("graded", 1.0, 2)
    assert judge.status() == JudgeStatus(graded=1, spent_today_usd=pytest.approx(2 * CALL_USD))


def test_a_job_that_kills_its_workers_fails_in_the_end(
    router: Router, upstream: Upstream, clock: Clock
) -> None:
    judge = judge_of(router, upstream, clock=clock, attempts=2)
    answered(router, 1)
    asyncio.run(judge._sample(asyncio.Event()))
    for _ in range(2):
        _claim_at(router, clock())
        clock.ahead += 100
    assert judge.run_once() == JudgeWork()
    assert judge.status() == JudgeStatus(failed=1)
    assert jobs_of(router)[0]["error"] == "its workers died"


def test_a_forgotten_user_leaves_no_judgement(
    router: Router, judge: Judge, upstream: Upstream, clock: Clock
) -> None:
    decisions = answered(router, 2, user="user:1") + answered(router, 1, user="user:2")
    upstream.then(*[Reply(status=500)] * 3)
    assert judge.run_once().put_back == 3
    router.forget_user("user:1")
    assert {job["decision_id"] for job in jobs_of(router)} == {decisions[2]}
    clock.ahead += 60
    assert judge.run_once() == JudgeWork(graded=1)
    assert len(upstream.requests) == 4


def test_a_user_forgotten_while_the_judge_is_thinking(
    router: Router, judge: Judge, upstream: Upstream
) -> None:
    answered(router, 1, user="user:1")

    def forget(_: dict[str, Any]) -> Reply:
        router.forget_user("user:1")
        return Reply()

    upstream.then(forget)
    assert judge.run_once() == JudgeWork(sampled=1)
    for table in (t.judgements, t.feedback, t.pending, t.rewards):
        assert router.log.read(lambda c, table=table: c.execute(sa.select(table)).first()) is None


def test_it_runs_beside_everything_else(router: Router, upstream: Upstream) -> None:
    judge = judge_of(router, upstream)
    judge.start()
    judge.start()  # once is enough
    decisions = answered(router, 4)
    until(lambda: judge.status().graded == 4)
    judge.stop()
    judge.stop()
    more = answered(router, 1)
    time.sleep(0.3)
    assert [len(grades_of(router, i)) for i in (*decisions, *more)] == [1, 1, 1, 1, 0]
    judge.start()
    until(lambda: judge.status().graded == 5)
    judge.stop()


def test_stopping_waits_for_calls_under_way(router: Router, upstream: Upstream) -> None:
    answered(router, 3)
    upstream.usual = Reply(slow_s=0.5)
    judge = judge_of(router, upstream, concurrency=2)
    judge.start()
    until(lambda: len(upstream.requests) == 2)
    judge.stop(grace_s=20.0)
    assert judge.status().graded == 2
    assert judge.status().waiting == 1


def test_stopping_puts_back_what_does_not_end(router: Router, upstream: Upstream, clock: Clock) -> None:
    answered(router, 2)
    upstream.usual = Reply(slow_s=60.0)
    judge = judge_of(router, upstream)
    judge.start()
    until(lambda: len(upstream.requests) == 2)
    began = time.monotonic()
    judge.stop(grace_s=0.1)
    assert time.monotonic() - began < 5
    upstream.usual = Reply()
    until(lambda: {job["attempts"] for job in jobs_of(router)} == {0})
    assert judge.run_once() == JudgeWork(graded=2)  # at once: no claim had to end


def test_the_thread_outlives_a_log_that_is_away(
    router: Router, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("feedback.judge.PAUSE_S", 0.05)
    answered(router, 1)
    rename(router, "judgements", "away")
    judge = judge_of(router, upstream)
    judge.start()
    until(lambda: "grading waits" in caplog.text)
    time.sleep(0.3)
    rename(router, "away", "judgements")
    until(lambda: judge.status().graded == 1)
    judge.stop()
    assert caplog.text.count("grading waits") == 1


def rename(router: Router, old: str, new: str) -> None:
    committed(router.log.write(lambda c: c.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")))


def test_a_closed_router_ends_the_thread(open_router: Open, upstream: Upstream) -> None:
    router = open_router()
    judge = judge_of(router, upstream)
    judge.start()
    router.close()
    until(lambda: not any(thread.name == "bandit-router-judge" for thread in threading.enumerate()))
    judge.stop()
    with pytest.raises(ClosedError):
        judge.run_once()


def test_an_event_loop_goes_on_beside_it(router: Router, judge: Judge, upstream: Upstream) -> None:
    """The answer comes only when the event loop, which is free meanwhile, says so."""
    answered(router, 1)
    free = threading.Event()
    upstream.usual = lambda _: Reply() if free.wait(10) else Reply(status=500)

    async def live() -> JudgeWork:
        grading = asyncio.create_task(judge.arun_once())
        while not upstream.requests:
            await asyncio.sleep(0.01)
        free.set()
        return await grading

    assert asyncio.run(live()).graded == 1


def test_keys_come_from_the_environment(router: Router, upstream: Upstream) -> None:
    answered(router, 1)
    environ = {"JUDGE_KEY": " sk-123 "}
    judge = judge_of(router, upstream, api_key_env="JUDGE_KEY", environ=environ)
    judge.run_once()
    assert upstream.headers[0]["authorization"] == "Bearer sk-123"
    assert "sk-123" not in repr(judge) + repr(judge.settings)
    for bad in ({}, {"JUDGE_KEY": " "}, {"JUDGE_KEY": "a\nb"}, {"JUDGE_KEY": "schlüssel"}):
        with pytest.raises(SettingsError, match="JUDGE_KEY") as caught:
            judge_of(router, upstream, api_key_env="JUDGE_KEY", environ=bad)
        assert "schl" not in str(caught.value)


def test_the_metric_must_be_what_a_judge_says(open_router: Open, upstream: Upstream) -> None:
    router = open_router(metrics={"judge": Metric(low=1.0, high=5.0)})
    with pytest.raises(SettingsError, match="judge"):
        judge_of(router, upstream)


def test_a_router_without_texts_is_told(
    open_router: Open, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    router = open_router(text="hash")
    judge = judge_of(router, upstream)
    assert "keeps no texts" in caplog.text
    answered(router, 1)
    assert judge.run_once() == JudgeWork()


def test_an_outcome_whose_number_is_lower_may_appear_later(
    postgres_url: str, open_router: Open, upstream: Upstream, clock: Clock
) -> None:
    """PostgreSQL commits out of the order of numbers; what was passed by is looked at again."""
    router = open_router(log=postgres_url)
    late = router.choose("late").id
    row = {"decision_id": late, "revision": 0, "router": "default", "at_us": 1, "model": "small"}
    text = sa.update(t.texts).where(t.texts.c.decision_id == late).values(answer="late")
    judge = judge_of(router, upstream, clock=clock)
    with router.log.engine.connect() as connection, connection.begin():
        connection.execute(sa.insert(t.outcomes), row)
        connection.execute(text)
        answered(router, 2)
        assert judge.run_once().graded == 2
    assert judge.run_once() == JudgeWork()
    for _ in range(3):
        clock.ahead += OVERLAP_S + 1
        judge.run_once()
    assert grades_of(router, late) == [0.75]


WORKER = """
import sys
from bandit_router import Router
from feedback.judge import Judge, JudgeSettings

url, upstream = sys.argv[1:]
with Router.open(url, create=False) as router:
    judge = Judge(router, JudgeSettings(url=upstream, model="grader", share=1.0, concurrency=3))
    print("ready", flush=True)
    sys.stdin.readline()
    print(judge.run_once().graded, flush=True)
"""


@contextmanager
def started(n: int, url: str, upstream: Upstream) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have all begun to grade; none is left at the end."""
    command = [sys.executable, "-c", WORKER, url, upstream.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ExitStack() as stack:
        workers = [stack.enter_context(subprocess.Popen(command, text=True, **pipes)) for _ in range(n)]
        for worker in workers:
            stack.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        yield workers


def test_processes_grade_each_answer_once(url: str, router: Router, upstream: Upstream) -> None:
    decisions = answered(router, 30)
    upstream.usual = Reply(slow_s=0.01)
    with started(2, url, upstream) as workers:
        told = [worker.communicate(timeout=100)[0] for worker in workers]
    assert sum(int(line) for line in told) == 30
    assert len(upstream.requests) == 30
    assert [len(grades_of(router, i)) for i in decisions] == [1] * 30


def test_the_job_of_a_killed_worker_is_done_by_another(
    url: str, router: Router, upstream: Upstream, clock: Clock
) -> None:
    decisions = answered(router, 2)
    upstream.then(Reply(slow_s=60.0), Reply(slow_s=60.0))
    with started(1, url, upstream) as (worker,):
        until(lambda: len(upstream.requests) == 2)
        worker.kill()
    judge = judge_of(router, upstream, clock=clock)
    assert judge.run_once() == JudgeWork()  # their claims hold
    clock.ahead += 60 + LEASE_S + 5
    assert judge.run_once() == JudgeWork(graded=2)
    assert [grades_of(router, i) for i in decisions] == [[0.75], [0.75]]
    assert {job["attempts"] for job in jobs_of(router)} == {2}
