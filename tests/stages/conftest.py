"""What the tests of stages share."""

import pytest

from nasframe.running.snapshots import Snapshots


@pytest.fixture
def works(monkeypatch):
    """The work after each stage, by the stage's name."""
    found = {}
    save = Snapshots.save

    def keep(self, stage, work, *rest):
        found[stage] = work
        return save(self, stage, work, *rest)

    monkeypatch.setattr(Snapshots, "save", keep)
    return found
