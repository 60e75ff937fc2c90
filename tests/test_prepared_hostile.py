"""Preparing as root for another user: what that user's child leaves leads root nowhere."""

import os

import pytest

from agent.prepared import PrepareError
from agent.prepared.folder import put
from agent.prepared.making import _become
from agent.runtime.prepared import CACHE, Blob, Key, Record

RECORD = Record(Key("0" * 64, "litert", "1", "c", "weight-cache-1"), (Blob(CACHE, 1, "0" * 32),))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path, link):
    """What it leads to keeps its mode, and nothing gets a name."""
    victim, made = tmp_path / "victim", tmp_path / "root" / ".new-1"
    victim.write_text("x")
    victim.chmod(0o600)
    made.mkdir(parents=True)
    link(victim, made / CACHE)
    with pytest.raises(PrepareError, match="left no file of its own"):
        put(made.parent, made, RECORD)
    assert victim.stat().st_mode & 0o777 == 0o600
    assert list(made.parent.glob("[!.]*")) == []


def test_who_looks_at_a_model_for_root_has_no_group_of_roots():
    """Neither root's own nor those that root is in."""
    became = _become(65534)
    assert became["user"] == 65534
    assert became["group"] != 0
    assert became["extra_groups"] == ()
