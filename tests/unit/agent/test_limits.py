"""What the host gives, what Envoy is set to take, and the words where that does not fit."""

import os
import resource
import subprocess
import sys

import pytest

from agent import limits, minding, procfs
from agent.limits import Limits, Wanted
from agent.settings import EnvoySettings, Settings
from tests.support.waiting import eventually

WANTED = Wanted(connections=50_000, heap=2048 << 20)


def test_what_is_enough_is_not_told():
    assert limits.of_envoy(Limits(files=524288, memory=8 << 30, memory_of="this host"), WANTED) == ()
    assert limits.of_envoy(Limits(), WANTED) == ()
    assert limits.of_agent(Limits(files=65536, memory=2 << 30)) == ()


def test_too_few_files_name_the_unit_and_what_would_fit():
    (said,) = limits.of_envoy(Limits(files=20_000, memory=8 << 30), WANTED)
    assert "20000 files" in said
    assert "LimitNOFILE of holdfast-envoy.service" in said
    fits = int(said.rpartition(" ")[2])
    assert limits.of_envoy(Limits(files=20_000), Wanted(fits, 1)) == ()
    assert limits.of_envoy(Limits(files=20_000), Wanted(fits + 1, 1)) != ()


def test_too_little_memory_names_who_limits_it_and_what_would_fit():
    (said,) = limits.of_envoy(Limits(memory=1024 << 20, memory_of="memory.max of /x"), WANTED)
    assert "1024 MiB (memory.max of /x)" in said
    assert "envoy.maxHeapMib to 870" in said
    assert limits.of_envoy(Limits(memory=1024 << 20), Wanted(1, 870 << 20)) == ()


def test_without_a_word_a_small_host_has_a_small_heap():
    assert [limits.heap_mib(size) for size in (None, 64 << 30, 1 << 30, 1 << 20)] == [2048, 2048, 614, 64]
    for memory in (1 << 30, 2 << 30, 3 << 30):
        assert limits.of_envoy(Limits(memory=memory), Wanted(1, limits.heap_mib(memory) << 20)) == ()
    assert minding.wanted(Settings(node="vm1", address="127.0.0.1")).heap == limits.heap_mib(procfs.memory()) << 20


def test_the_agents_own_are_looked_at():
    found = limits.of_agent(Limits(files=256, memory=64 << 20, memory_of="this host"))
    assert [("files" in f, "memory" in f) for f in found] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/holdfast-envoy.service\n", "/system.slice/holdfast-envoy.service"),
        ("9:memory:/a\n0::/\n", "/"),
        ("9:memory:/a\n", ""),
        ("", ""),
    ],
)
def test_a_process_names_its_cgroup(text, path):
    assert limits.cgroup(text) == path


def test_the_kernels_own_words_are_understood():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = procfs.limits_of("self")
    assert found.files == soft
    assert found.memory
    assert found.memory > 64 << 20
    assert procfs.limits_of(os.getpid()) == found


def test_a_process_with_another_limit_is_seen():
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (77, 77)); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            eventually(lambda: procfs.limits_of(process.pid).files == 77)
        finally:
            process.stdin.close()
            process.wait(10)


def test_the_smallest_of_all_cgroups_above_counts(tmp_path):
    unit = tmp_path / "a.slice" / "b.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("max\n")
    (tmp_path / "a.slice" / "memory.max").write_text("33554432\n")
    assert procfs._memory_of(tmp_path, "/a.slice/b.service") == [(33554432, "/a.slice")]


def test_a_process_that_is_gone_has_no_files_to_tell_of():
    assert procfs.limits_of(2**22 + 1).files is None


def test_all_of_it_is_looked_at_together():
    settings = Settings(
        node="vm1", address="192.0.2.77", envoy=EnvoySettings(max_connections=10_000_000, max_heap_mib=1)
    )
    found = minding.look(settings, (os.getpid(),))
    assert [f.split(" ")[0] for f in found if "files open" in f] == ["Envoy"]
    assert "address 192.0.2.77 is not an address of this host" in found[-1]
