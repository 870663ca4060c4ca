"""Where the LMDB store's directory lies."""

from types import SimpleNamespace

from adc_features.store.lmdb.places import directory_of


def asked(repo):
    store = SimpleNamespace(path="online.lmdb", live_path="live.lmdb", map_size_mb=1)
    return directory_of(SimpleNamespace(repo_path=str(repo), online_store=store)).path


def test_a_link_that_points_elsewhere_is_followed_anew(tmp_path):
    """A path through a link is the directory behind it, also where it is swapped, or moved along
    with the link, while the process runs."""
    link, one, two = (tmp_path / name for name in ("repo", "one", "two"))
    for place in (one, two):
        (place / "online.lmdb").mkdir(parents=True)
    link.symlink_to(one)
    assert asked(link) == asked(link) == one / "online.lmdb"
    link.unlink()
    link.symlink_to(two)
    assert asked(link) == two / "online.lmdb"
    moved = two.rename(tmp_path / "moved")
    link.unlink()
    link.symlink_to(moved)
    assert asked(link) == moved / "online.lmdb"


def test_a_directory_that_is_not_there_yet_has_a_place(tmp_path):
    """It is told before it is made, and stays the same when it is."""
    before = asked(tmp_path)
    before.mkdir()
    assert asked(tmp_path) == before
