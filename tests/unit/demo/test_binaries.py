"""Where servers are looked for, and in which order. Small scripts stand for them."""

import threading

import pytest

from controlplane.demo import binaries
from controlplane.demo.binaries import MissingBinaryError, find_envoy, find_etcd, version_of


def etcd_at(folder, version):
    folder.mkdir(parents=True)
    for name in ("etcd", "etcdctl", "etcdutl"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
        program.chmod(0o755)
    return folder


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No etcd, no go, an empty cache."""
    monkeypatch.delenv("HOLDFAST_ETCD_DIR", raising=False)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(binaries.sys, "executable", str(tmp_path / "bin" / "python"))
    return tmp_path


def test_the_folder_that_was_named_comes_first(nothing_here, monkeypatch):
    folder = etcd_at(nothing_here / "mine", "3.4.0")
    monkeypatch.setenv("HOLDFAST_ETCD_DIR", str(folder))
    assert find_etcd().etcd == folder / "etcd"
    (folder / "etcdutl").unlink()
    with pytest.raises(MissingBinaryError, match="HOLDFAST_ETCD_DIR"):
        find_etcd()


@pytest.mark.parametrize(("version", "fit"), [("3.5.29", False), ("3.5.30", True), ("3.10.0", True), ("?", False)])
def test_the_one_on_path_must_be_new_enough(nothing_here, monkeypatch, version, fit):
    folder = etcd_at(nothing_here / "path", version)
    monkeypatch.setenv("PATH", f"{folder}:/bin")
    if fit:
        assert find_etcd().etcdctl == folder / "etcdctl"
    else:
        with pytest.raises(MissingBinaryError, match=r"Go 1\.26"):
            find_etcd()


def go_at(folder):
    """A toolchain that "builds" scripts, and counts how often."""
    folder.mkdir(parents=True)
    go = folder / "go"
    go.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = version ]; then echo go version go1.27.3 linux/amd64; exit; fi\n'
        f"echo built >> {folder}/count\n"
        'while [ "$1" != -o ]; do shift; done\n'
        "for name in server etcdctl etcdutl; do\n"
        '  printf "#!/bin/sh\\necho etcd Version: 3.6.16\\n" > "$2/$name"; chmod +x "$2/$name"\n'
        "done\n"
    )
    go.chmod(0o755)
    return folder / "count"


def test_parallel_callers_build_once_into_the_cache(nothing_here):
    count = go_at(nothing_here / "bin")
    said, found = [], []
    threads = [threading.Thread(target=lambda: found.append(find_etcd(said.append))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert version_of(found[0].etcd) == (3, 6, 16)
    assert count.read_text() == "built\n"
    assert len(said) == 2
    assert [p.name for p in found[0].etcd.parent.parent.iterdir() if p.name.startswith("build-")] == []


def test_a_failed_build_says_why_and_leaves_nothing(nothing_here):
    folder = nothing_here / "bin"
    folder.mkdir()
    go = folder / "go"
    go.write_text('#!/bin/sh\n[ "$1" = version ] && echo go version go1.30.0 && exit\necho no route >&2\nexit 2\n')
    go.chmod(0o755)
    with pytest.raises(MissingBinaryError, match="no route"):
        find_etcd()
    assert [p.suffix for p in (nothing_here / "cache" / "holdfast").iterdir()] == [".lock"]


def test_envoy_is_taken_from_where_it_was_named(nothing_here, monkeypatch):
    with pytest.raises(MissingBinaryError, match=r"holdfast\[demo\]"):
        find_envoy()
    envoy = nothing_here / "envoy"
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    monkeypatch.setenv("HOLDFAST_ENVOY", str(envoy))
    assert find_envoy() == envoy


def test_a_named_program_that_is_not_there_is_told(nothing_here, monkeypatch):
    """Another one must not be taken in its place without a word."""
    monkeypatch.setenv("HOLDFAST_BAO", str(nothing_here / "no-such-bao"))
    with pytest.raises(MissingBinaryError, match="HOLDFAST_BAO"):
        binaries.find_bao()
