import stat

import pytest

from agent.state import Disk, StoredIdentity, StoredRange, StoredWorld
from mesh.model import Identity
from mesh.store.follow import Known


def world(revision: int) -> StoredWorld:
    key = "/holdfast/v1/mesh/objects/x"
    known = Known(revision=revision, epoch="e", keys={key: (revision, 7)})
    return StoredWorld(epoch="e", ranges={"/p/": StoredRange(known=known, values={key: b"\xff raw"})})


def saved(tmp_path, *revisions: int) -> Disk:
    disk = Disk(tmp_path / "data")
    disk.worlds.load()
    for revision in revisions:
        disk.worlds.save(world(revision))
    return disk


def test_two_generations_are_kept_newest_first(tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert Disk(tmp_path / "data").worlds.load() == (world(3), world(2))


def test_the_first_start_finds_nothing(tmp_path):
    assert Disk(tmp_path / "data").worlds.load() == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: b"garbage\n" + raw,
        lambda raw: raw.replace(b"holdfast1", b"holdfast9", 1),
        lambda raw: b"holdfast1 x y z\n",
        lambda raw: b"holdfast1 -1 -1 " + b"0" * 64 + b"\n",
    ],
)
def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, damage, caplog):
    disk = saved(tmp_path, 1, 2)
    newest = max((tmp_path / "data").glob("world.*"), key=lambda p: int(p.read_bytes().split()[1]))
    newest.write_bytes(damage(newest.read_bytes()))
    again = Disk(tmp_path / "data")
    assert again.worlds.load() == (world(1),)
    assert "damaged" in caplog.text
    # The next write replaces the damaged one, never the only good one.
    again.worlds.save(world(7))
    assert Disk(tmp_path / "data").worlds.load() == (world(7), world(1))
    assert disk.folder == again.folder


def test_both_damaged_is_a_start_without(tmp_path):
    saved(tmp_path, 1, 2)
    for path in (tmp_path / "data").glob("world.*"):
        path.write_bytes(path.read_bytes()[:-5])
    assert Disk(tmp_path / "data").worlds.load() == ()


def test_a_crash_while_writing_leaves_what_was_there(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "data" / "world.0.tmp").write_bytes(b"half a fi")
    again = Disk(tmp_path / "data")
    assert again.worlds.load() == (world(2), world(1))
    again.worlds.save(world(3))
    again.worlds.save(world(4))
    assert Disk(tmp_path / "data").worlds.load() == (world(4), world(3))


def test_nobody_else_can_read_what_is_there(tmp_path):
    disk = saved(tmp_path, 1)
    own = Identity(spiffe_id="spiffe://d/node/a", chain_pem="c", key_pem="k", not_before=0, not_after=1)
    disk.identities.load()
    disk.identities.save(StoredIdentity(node="a", trust_domain="d", cluster="c", own=own))
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in disk.folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700
    loaded = Disk(disk.folder).identities.load()
    assert [i.own for i in loaded] == [own]


def test_a_planted_link_is_not_written_through(tmp_path):
    disk = saved(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (disk.folder / "world.0.tmp").symlink_to(victim)
    disk.worlds.save(world(1))
    assert victim.read_text() == "precious"
