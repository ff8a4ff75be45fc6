"""Our side of a dialogue with a peer: a process of its own that sees only what it chose."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from bandit_router.errors import PeerError
from bandit_router.values import Array
from simulations.replay import Player, Rows, Scene

ANSWER_S = 120.0  # an answer may wait for large libraries to be imported
CHUNK = 65536  # bytes


class Dialogue:
    """A peer's process, which lives one life after the other. Use it as a context manager.

    The protocol stands in ``answering.py``.

    Parameters
    ----------
    name : str
        What to call the peer in errors.
    command : sequence of str
        That starts it.
    answer_s : float
        How long one answer may take [s].

    Attributes
    ----------
    version : str
        As the peer says it; empty before the first life.
    """

    def __init__(self, name: str, command: Sequence[str], *, answer_s: float = ANSWER_S) -> None:
        self.name, self.command, self.answer_s = name, tuple(command), answer_s
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._features: Array | None = None
        self._heard = b""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="bandit-router-peer-")
        # One BLAS thread, as our own lives have: small matrices are slower with more.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            with self._file("words").open("wb") as words:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=words,
                    env=environment,
                )
        except OSError as error:
            self._folder.cleanup()
            raise PeerError(f"{self.name}: cannot be started: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._folder is not None
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def player(self, setting: str, scene: Scene) -> Player:
        """Return the peer as a player; its life begins with its first round, and ends the one before."""
        return _Guest(self, setting, scene)

    def begin(self, setting: str, scene: Scene) -> None:
        """Begin a new life."""
        features = self._file("features")
        if scene.features is not self._features:
            scene.features.astype(np.float64).tofile(features)
            self._features = scene.features
        life = {
            "arms": len(scene.table.models),
            "dim": scene.features.shape[1],
            "seed": _seed(scene.order),
            "setting": setting,
            "features": str(features),
        }
        self.version = str(self.ask({"begin": life}).get("version"))

    def ask(self, said: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        """Say something, and return the answer.

        Raises
        ------
        PeerError
            The peer died, was silent for too long, or answered no JSON object.
        """
        self.say(said)
        line = self._line()
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise PeerError(f"{self.name}: expected JSON, got {line[:80]!r}") from error
        if not isinstance(answer, dict):
            raise PeerError(f"{self.name}: expected an object, got {line[:80]!r}")
        return answer

    def say(self, said: dict[str, Any]) -> None:  # Any: JSON
        """Say something that wants no answer; it travels with the next question at the latest."""
        assert self._process is not None, "expected a started peer"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(said).encode() + b"\n")
            if "learn" not in said:
                self._process.stdin.flush()
        except OSError as error:
            raise PeerError(f"{self.name}: died: {self._last_words()}") from error

    def _file(self, name: str) -> Path:
        assert self._folder is not None, "expected a started peer"
        return Path(self._folder.name) / name

    def _line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        answers = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            if not select.select([answers], [], [], self.answer_s)[0]:
                raise PeerError(f"{self.name}: silent for {self.answer_s:g} s")
            heard = os.read(answers, CHUNK)
            if not heard:
                raise PeerError(f"{self.name}: died: {self._last_words()}")
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = self._file("words").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "without a word"


class _Guest:
    """A peer's life as a `Player`; it is told the reward, as peers know no other word for costs."""

    def __init__(self, dialogue: Dialogue, setting: str, scene: Scene) -> None:
        self.dialogue, self.setting, self.scene = dialogue, setting, scene
        self._charge = scene.charge
        self._begun = False

    def choose(self, row: int) -> Array:
        if not self._begun:
            self.dialogue.begin(self.setting, self.scene)
            self._begun = True
        p = np.zeros(self._charge.shape[1])
        p[self._arm(self.dialogue.ask({"choose": row}).get("arm"))] = 1.0
        return p

    def _arm(self, arm: object) -> int:
        k = self._charge.shape[1]
        if not isinstance(arm, int) or isinstance(arm, bool) or not 0 <= arm < k:
            raise PeerError(f"{self.dialogue.name}: expected an arm from 0 to {k - 1}, got {arm!r:.80}")
        return arm

    def report(self, row: int, k: int) -> None:
        """Peers hear of costs with the reward."""

    def learn(self, row: int, k: int, quality: float, *, weight: float = 1.0) -> None:
        reward = quality - float(self._charge[row, k])
        self.dialogue.say({"learn": row, "arm": k, "reward": reward})


def _seed(order: Rows) -> int:
    """The peer's own luck follows from the order, so that a comparison can be repeated."""
    return zlib.crc32(order.astype(np.int64).tobytes()) % 2**31
