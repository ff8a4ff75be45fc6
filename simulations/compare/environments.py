"""Peers, and the virtual environment that each of them lives in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bandit_router.errors import PeerError

ENVIRONMENTS = Path("~/.cache/bandit-router/peers")
INSTALL_S = 900.0
ANSWERING = Path(__file__).with_name("answering.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A published bandit to compare with.

    Attributes
    ----------
    name : str
        Of its distribution.
    version : str
        That is installed.
    settings : tuple of str
        Names that ``answering.py`` knows: the package's defaults, then the best documented ones.
    """

    name: str
    version: str
    settings: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}"


PEERS = (
    Peer(name="paretobandit", version="0.1.1", settings=("default", "stationary")),
    Peer(name="vowpalwabbit", version="9.11.9", settings=("default", "squarecb", "elim")),
    Peer(name="mabwiser", version="2.7.4", settings=("default", "lints", "calm")),
    Peer(name="river", version="0.26.1", settings=("default", "calm")),
)


def command(peer: Peer, folder: Path) -> tuple[str, ...]:
    """Return the command that starts a peer, which is installed first where it is not there yet.

    Parameters
    ----------
    peer : Peer
    folder : Path
        Where the environments are.

    Raises
    ------
    PeerError
        It cannot be installed.
    """
    home = folder.expanduser() / f"{peer.name}-{peer.version}"
    python, mark = home / "bin" / "python", home / "installed"
    if not mark.exists():
        _run(peer, sys.executable, "-m", "venv", str(home))
        _run(peer, str(python), "-m", "pip", "install", "--quiet", peer.requirement)
        mark.touch()
    return str(python), str(ANSWERING), peer.name


def _run(peer: Peer, *arguments: str) -> None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{peer.name}: cannot be installed: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise PeerError(f"{peer.name}: cannot be installed: {said[-1]}")
