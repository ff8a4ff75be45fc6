"""Files of the journal: whose they may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bandit_router.log.files import JournalFile
from bandit_router.log.frames import to_frame

FRAME = to_frame([("decisions", {"id": "a"})])


def test_what_belongs_to_another_user_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile.create(tmp_path)
    file.append(FRAME)
    file.close()
    me = os.geteuid()
    if me == 0:
        os.chown(file.path, 4242, -1)  # root can give it away
    else:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for _ in range(2):  # it is not even locked
        with pytest.raises(PermissionError, match="belongs to another user"):
            JournalFile.adopt(file.path)
    assert file.path.read_bytes() == FRAME
    monkeypatch.undo()
    os.chown(file.path, me, -1)
    again = JournalFile.adopt(file.path)
    assert again is not None
    assert again.decisions == 1
    again.remove()
