"""What the installer fetches, from servers that lie, and what it writes down."""

import hashlib
import json
import ssl
import time
from pathlib import Path

import pytest

from agent.installer import source as module
from agent.installer.model import InstallError
from agent.installer.offer import Item
from agent.installer.record import Made
from agent.installer.source import FolderSource, RemoteSource, is_whole
from tests.support.lying import certificate, server

CONTENT = bytes(range(256)) * 2000


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between tries; how often it tries stays as it is."""
    monkeypatch.setattr(module.time, "sleep", lambda _: None)


def item(content=CONTENT):
    return Item("wheels/a.whl", hashlib.sha256(content).hexdigest(), len(content), "wheel", "any", "any", "a", "1")


def roots(*ders: bytes) -> bytes:
    return json.dumps({"roots": [ssl.DER_cert_to_PEM_cert(der) for der in ders]}).encode()


def token(der: bytes) -> str:
    return "hf1.0123456789abcdef." + "A" * 43 + "." + hashlib.sha256(der).hexdigest()[:32]


def look(tmp_path: Path, answers, *, der=None, clock=0.0, work=lambda source: None):
    pem, own = certificate(tmp_path)
    replies = {"/v1/roots": (200, {}, roots(own)), **answers(own)}
    with server(pem, lambda path: replies[path], clock=clock) as (url, asked):
        source = RemoteSource(url, token(der or own))
        try:
            skew = source.look(time.time())
            return skew, work(source), asked
        finally:
            source.close()


def test_the_mesh_of_the_token_is_known_by_its_root(tmp_path):
    skew, raw, _ = look(
        tmp_path, lambda _: {"/v1/dist/manifest.json": (200, {}, b"{}")}, clock=3600, work=lambda s: s.manifest()
    )
    assert raw == b"{}"
    assert 3590 < skew < 3610


def test_another_mesh_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(InstallError, match="not the mesh that this token is for"):
        look(tmp_path, lambda _: {}, der=b"another")


def test_a_server_that_shows_the_pinned_root_and_has_another_certificate_gets_nothing(tmp_path):
    """Roots are public: whoever stands between can repeat them, but cannot speak for them."""
    (tmp_path / "real").mkdir()
    _, real = certificate(tmp_path / "real")
    with pytest.raises(InstallError, match="not one of this mesh"):
        look(tmp_path, lambda _: {"/v1/roots": (200, {}, roots(real))}, der=real, work=lambda s: s.manifest())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, {}, CONTENT[:-1] + b"x"), "is not what the manifest says"),
        ((200, {}, CONTENT + b"x"), "longer than the manifest says"),
        ((200, {}, CONTENT[:100]), "is not what the manifest says"),
        ((200, {"Content-Length": str(len(CONTENT))}, CONTENT[:100]), "could not be fetched"),
        ((302, {"Location": "https://elsewhere/"}, b""), "answers 302"),
        ((404, {}, b"no such file"), "answers 404: no such file"),
    ],
    ids=["altered", "longer", "shorter", "cut", "redirect", "missing"],
)
def test_a_file_that_is_not_as_listed_has_no_name_afterwards(tmp_path, reply, said):
    target = tmp_path / "a.whl"
    with pytest.raises(InstallError, match=said):
        look(tmp_path, lambda _: {"/v1/dist/wheels/a.whl": reply}, work=lambda s: s.fetch(item(), target))
    assert not target.exists()


def test_a_good_file_is_there_and_known_to_be_whole(tmp_path):
    target = tmp_path / "a.whl"
    look(tmp_path, lambda _: {"/v1/dist/wheels/a.whl": (200, {}, CONTENT)}, work=lambda s: s.fetch(item(), target))
    assert target.read_bytes() == CONTENT
    assert is_whole(item(), target)
    assert not is_whole(item(b"other"), target)


def test_a_download_goes_on_where_a_killed_run_left_it(tmp_path):
    target, part = tmp_path / "a.whl", tmp_path / ".a.whl.part"
    part.write_bytes(CONTENT[:1000])
    answers = {"/v1/dist/wheels/a.whl": (206, {}, CONTENT[1000:])}
    look(tmp_path, lambda _: answers, work=lambda s: s.fetch(item(), target))
    assert target.read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "2"}), (503, {})])
def test_a_host_waits_for_its_turn(tmp_path, status, headers):
    """Many hosts behind one address install at once: the control plane lets so many download at a time."""
    left = [20]

    def answer() -> tuple[int, dict[str, str], bytes]:
        left[0] -= 1
        return (status, headers, b"later") if left[0] >= 0 else (200, {}, CONTENT)

    pem, own = certificate(tmp_path)
    told: list[str] = []
    with server(pem, lambda path: answer() if path.startswith("/v1/dist") else (200, {}, roots(own))) as (url, _):
        source = RemoteSource(url, token(own), told.append)
        source.look(time.time())
        source.fetch(item(), tmp_path / "a.whl")
        source.close()
    assert (tmp_path / "a.whl").read_bytes() == CONTENT
    assert told == [f"{url} is busy with other hosts; waiting for its turn"]


def test_a_host_does_not_wait_for_good(tmp_path):
    with pytest.raises(InstallError, match="has been busy for 10 min"):
        look(tmp_path, lambda _: {"/v1/dist/wheels/a.whl": (429, {"Retry-After": "9"}, b"")},
             work=lambda source: source.fetch(item(), tmp_path / "a.whl"))  # fmt: skip


def test_what_a_killed_run_left_is_not_believed(tmp_path):
    target, part = tmp_path / "a.whl", tmp_path / ".a.whl.part"
    part.write_bytes(b"evil" * 250)
    answers = {"/v1/dist/wheels/a.whl": (206, {}, CONTENT[1000:])}
    with pytest.raises(InstallError, match="is not what the manifest says"):
        look(tmp_path, lambda _: answers, work=lambda s: s.fetch(item(), target))
    assert not part.exists()
    assert not target.exists()


def test_a_control_plane_that_is_away_is_named():
    with pytest.raises(InstallError, match=r"https://127\.0\.0\.1:9 cannot be reached: .*Connection refused"):
        RemoteSource("https://127.0.0.1:9", token(b"x")).look(0.0)


def test_a_folder_is_believed_as_little(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/a.whl").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InstallError, match="altered"):
        FolderSource(tmp_path).fetch(item(), tmp_path / "a.whl")
    (tmp_path / "wheels/a.whl").unlink()
    with pytest.raises(InstallError, match="listed in the manifest and is not there"):
        FolderSource(tmp_path).fetch(item(), tmp_path / "a.whl")
    with pytest.raises(InstallError, match="no distribution folder"):
        FolderSource(tmp_path).manifest()


def test_things_are_written_down_and_read_again_in_order(tmp_path):
    made = Made(tmp_path / "home")
    made.begin()
    for key in ("user holdfast", "folder /opt/holdfast", "file /x"):
        made.note(key, sha256="1") if key.startswith("file") else made.note(key)
    made.tell(node="web-1")
    made.forget("folder /opt/holdfast")
    again = Made(tmp_path / "home").load()
    assert list(again.things) == ["user holdfast", "file /x"]
    assert (again.things["file /x"], again.facts) == ({"sha256": "1"}, {"node": "web-1"})
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["made.json"]


def test_a_damaged_record_is_named_and_not_overwritten(tmp_path):
    (tmp_path / "made.json").write_text("{")
    with pytest.raises(InstallError, match=r"made\.json cannot be read"):
        Made(tmp_path).load()
    assert (tmp_path / "made.json").read_text() == "{"
