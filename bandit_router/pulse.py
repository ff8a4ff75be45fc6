"""Pulse: a thread that does one thing again and again, and at once when somebody asks for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from bandit_router.errors import BanditRouterError, ClosedError

logger = logging.getLogger(__name__)
PAUSE_S = 0.25  # before it is tried again after an error


class Pulse:
    """Calls `step` every now and then, and at once for whoever asks; outlives whatever a step meets.

    Parameters
    ----------
    name : str
        What the program's log calls it.
    step : callable
        Those who asked hear when it is done, or why not.
    rest : callable
        What can wait until nobody does; called after each step.
    leave : callable
        The last thing it does.
    every_s : float
        The pause between steps that nobody asked for [s].

    Attributes
    ----------
    error : Exception, optional
        What the last step, or the rest after it, met.
    done_at : float
        When the last step was done, by the monotonic clock [s].
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        *,
        rest: Callable[[], None],
        leave: Callable[[], None],
        every_s: float,
    ) -> None:
        self.error: Exception | None = None
        self.done_at = time.monotonic()
        self._name, self._step, self._rest, self._leave = name, step, rest, leave
        self._every_s = every_s
        self._asked = threading.Condition()
        self._waiting: list[_Asked] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"bandit-router {name}", daemon=True)
        self._thread.start()

    def ask(self, *, patient: bool = True) -> Future[None]:
        """Ask for a step that begins after now; the future is done when it is.

        Parameters
        ----------
        patient : bool
            False: when the step that goes on now fails, that is the answer, and no other step is waited for.

        Raises
        ------
        ClosedError
        """
        asked = _Asked(patient)
        with self._asked:
            self.check()
            self._waiting.append(asked)
            self._asked.notify()
        return asked.future

    def refuse(self, error: Exception, waiting: Sequence[_Asked] = ()) -> None:
        """Answer all who are not patient, and some more: what a step would meet is known."""
        known = error if isinstance(error, BanditRouterError) else BanditRouterError(str(error))
        for asked in (*waiting, *self._hasty()):
            asked.future.set_exception(known)

    def check(self) -> None:
        """See that it goes on.

        Raises
        ------
        ClosedError
        """
        if self._closed:
            raise ClosedError("the router was closed")

    def close(self) -> None:
        """Do one more step, leave, and stop."""
        with self._asked:
            if self._closed:
                return
            self._closed = True
            self._asked.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._asked:
                if not self._waiting and not self._closed:
                    self._asked.wait(PAUSE_S if self.error else self._every_s)
                waiting, self._waiting = self._waiting, []
                closing = self._closed
            self._serve([asked for asked in waiting if asked.future.set_running_or_notify_cancel()])
            if closing:
                self._try(self._leave)
                return

    def _serve(self, waiting: list[_Asked]) -> None:
        error = self._try(self._step)
        if error is None:
            if self.error is not None:
                logger.info("%s goes on after %.1f s", self._name, time.monotonic() - self.done_at)
            self.done_at = time.monotonic()
            for asked in waiting:
                asked.future.set_result(None)
        else:
            self.error = error  # who asks from now on is told so
            self.refuse(error, waiting)
        self.error = error or self._try(self._rest)

    def _hasty(self) -> list[_Asked]:
        """Who asked meanwhile and does not wait for another step."""
        with self._asked:
            hasty = [asked for asked in self._waiting if not asked.patient]
            self._waiting = [asked for asked in self._waiting if asked.patient]
        return [asked for asked in hasty if asked.future.set_running_or_notify_cancel()]

    def _try(self, do: Callable[[], None]) -> Exception | None:
        try:
            do()
        except Exception as error:  # the thread must outlive whatever it meets
            if str(error) != str(self.error):  # told once, not at every try
                unforeseen = not isinstance(error, BanditRouterError)
                logger.warning("%s waits: %s", self._name, error, exc_info=unforeseen)
            return error
        return None


class _Asked:
    """Somebody who waits for a step."""

    __slots__ = ("future", "patient")

    def __init__(self, patient: bool) -> None:
        self.future: Future[None] = Future()
        self.patient = patient
