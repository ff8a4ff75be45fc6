"""Environments: what is installed is not installed again; what cannot be had is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bandit_router.errors import PeerError
from simulations.compare import answering
from simulations.compare.environments import ANSWERING, PEERS, Peer, command

PEER = Peer(name="nobody", version="1.0", settings=("default",))


def test_an_environment_that_stands_is_used(tmp_path: Path) -> None:
    home = tmp_path / "nobody-1.0"
    home.mkdir()
    (home / "installed").touch()
    assert command(PEER, tmp_path) == (str(home / "bin" / "python"), str(ANSWERING), "nobody")
    assert PEER.requirement == "nobody==1.0"


def test_a_peer_that_cannot_be_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PeerError, match=r"nobody: cannot be installed: .+"):
        command(PEER, tmp_path / "file")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_the_answering_side_knows_every_peer_and_setting(peer: Peer) -> None:
    known = {
        "paretobandit": answering.ParetoBandit,
        "vowpalwabbit": answering.VowpalWabbit,
        "mabwiser": answering.MABWiser,
        "river": answering.River,
    }
    assert answering.PEERS[peer.name] is known[peer.name]
    assert tuple(known[peer.name].SETTINGS) == peer.settings


def test_the_answering_side_needs_the_standard_library_only() -> None:
    imported = [
        line.split()[1].split(".")[0]
        for line in ANSWERING.read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert set(imported) <= sys.stdlib_module_names
