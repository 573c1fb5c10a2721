"""The helpers of the benches say what is, and the pure bench measures changes that happen."""

import asyncio
import os
import subprocess
import sys

import msgspec

from bench import compile_cost
from bench.facts import facts
from bench.proc import cpu_seconds, memory
from bench.signing import Host, Job, requests
from ca.wire import SignRequest


def test_processor_time_grows_with_work():
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) < before + 0.03:
        sum(range(10_000))


def test_memory_is_what_a_process_holds():
    code = "import sys; held = b'x' * 50_000_000; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        found = memory(process.pid)
        process.stdin.close()
    assert 50e6 < found["own"] <= found["rss"] < 120e6


def test_every_change_reaches_the_wire():
    """A bench of changes that change nothing would be fast, and worthless."""
    for services, per_service in ((1, 10), (3, 4)):
        seconds, sent = compile_cost.one(services, per_service, changes=3 * services * per_service)
        assert seconds > 0
        assert sent == 1.0


def test_requests_for_certificates_go_round_all_identities():
    host = Host(name="n", pem="", roots="", csrs={f"bench/{n}": f"csr {n}" for n in range(5)})
    job = Job(url="https://127.0.0.1:1", hosts=(host,), requests=1, batch=2, server=1)
    made = requests(host, job.batch, "127.0.0.1:1")
    seen = []
    for _ in range(5):
        head, _, body = next(made).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower()
        seen += [item.identity for item in msgspec.json.decode(body, type=SignRequest).items]
    assert sorted(seen) == sorted(2 * [f"bench/{n}" for n in range(5)])


def test_the_pure_bench_gives_its_figures():
    said = []
    figures = asyncio.run(compile_cost.run(said.append, quick=True))
    assert [figure.goal for figure in figures if figure.goal] == ["≤ 1.5"]
    assert said


def test_facts_name_the_machine_and_the_servers():
    found = facts(quick=True)
    assert found["cpus"] >= 1
    assert found["etcd"][0].isdigit()
    assert "few" in found["samples"]
