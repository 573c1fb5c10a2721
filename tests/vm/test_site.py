"""From empty hosts to a mesh with one play, as the README says it: its own commands are run, on real hosts."""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.readme import Block, blocks
from tests.vm.shell import VmError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
APP = Path(__file__).with_name("app.py")
PLANES = ("cp-1", "cp-2", "cp-3")
SERVICES = {"web-1": "web", "api-1": "api", "api-2": "api", "db-1": "db"}
SPIFFE = "spiffe://prod.example/ns/shop/sa"
PLAY_SECONDS = 1500


@dataclass
class Site:
    """An operator's shell in a clone: what one block exports, the next one has."""

    folder: Path
    env: dict[str, str]
    said: str = ""
    """All that its commands have printed."""
    hosts: dict[str, Host] = field(default_factory=dict)

    def run(self, script: str, *, timeout: float = 120, verbosity: int = 0) -> str:
        state = self.folder / "shell"
        script = f"export ANSIBLE_VERBOSITY={verbosity}\n{script}"
        whole = f"set -euo pipefail\n{script}\nexport -p >{shlex.quote(str(state))}\n"
        start = f". {shlex.quote(str(state))}\n" if state.exists() else ""
        done = subprocess.run(
            ["bash", "-c", start + whole], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.said += done.stdout + done.stderr
        if done.returncode != 0:
            raise VmError(f"{script[:300]}\nexit {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def play(self, *words: str) -> str:
        return self.run(shlex.join(["ansible-playbook", "-i", "fleet/inventory.yml", *words]), timeout=PLAY_SECONDS)


def recap(said: str) -> dict[str, dict[str, int]]:
    """Host -> what the play counted."""
    lines = re.findall(r"^(\S+) +: (ok=.*)$", said, re.MULTILINE)
    return {host: {k: int(v) for k, v in (pair.split("=") for pair in counts.split())} for host, counts in lines}


def changed_tasks(said: str) -> set[str]:
    """Names of the tasks that changed something, or would."""
    parts = re.split(r"^(?:TASK|RUNNING HANDLER) \[(.*?)\].*$", said, flags=re.MULTILINE)
    return {
        name for name, body in zip(parts[1::2], parts[2::2], strict=True) if re.search("^changed:", body, re.MULTILINE)
    }


def start(host: Host, name: str, listen: str = "127.0.0.1:8080") -> None:
    """The application that is there before the mesh comes."""
    host.run(f"useradd -r {name}")
    host.put(APP, "/srv/app.py")
    host.run("chmod 755 /srv /srv/app.py")
    host.run(f"systemd-run --unit={name} -p User={name} python3 /srv/app.py {name} {listen}")


@pytest.fixture(scope="module")
def site(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    for name in (".venv", "ansible"):
        (folder / name).symlink_to(ROOT / name)
    found = {host.name: host for host in fleet.up(*PLANES, *SERVICES)}
    for name, service in SERVICES.items():
        start(found[name], service)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "HOLDFAST_"))},
        "ANSIBLE_SSH_COMMON_ARGS": shlex.join(next(iter(found.values())).ssh_options()),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_LOG_PATH": str(folder / "play.log"),
        "ANSIBLE_NOCOLOR": "1",
    }
    return Site(folder, env, hosts=found)


def commands(fleet: Fleet) -> list[Block]:
    return blocks("From zero to a fleet", network=f"{fleet.subnet}.")


def run_until(site: Site, todo: list[Block], last: str) -> list[Block]:
    """Runs them up to the one that holds `last`; returns the others."""
    for number, block in enumerate(todo, 1):
        # What a play says at its most talkative holds no secret either.
        site.run(block.script(), timeout=PLAY_SECONDS, verbosity=3 * ("ansible-playbook" in block.text))
        if last in block.text:
            return todo[number:]
    raise AssertionError(f"the README has no {last!r}")


def asked(host: Host, user: str, url: str) -> tuple[int, str]:
    """Status and caller, as a process of this user is answered."""
    code = host.run(f"runuser -u {user} -- curl -sS -o /tmp/said -w '%{{http_code}}' {url}", check=False)
    said = host.run("cat /tmp/said; rm -f /tmp/said", check=False).out
    try:
        return int(code.out or 0), str(json.loads(said)["caller"])
    except (ValueError, KeyError):
        return int(code.out or 0), said + code.err


def wait_answer(host: Host, user: str, url: str, status: int, caller: str) -> None:
    def check() -> bool:
        got = asked(host, user, url)
        assert got[0] == status, got
        assert caller in got[1], got
        return True

    host.wait(check, timeout=30, what=f"{user} asks {url}")


def secrets_of(site: Site) -> dict[str, str]:
    """What the play keeps, decrypted, by the name of its file."""
    kept = {}
    for path in sorted((site.folder / "fleet/secrets").glob("*.vault")):
        kept[path.name] = site.run(
            f'base64 -d {path} | ansible-vault decrypt --vault-password-file <(echo "$HOLDFAST_SECRETS_PASSWORD")'
        ).strip()
    return kept


@pytest.fixture(scope="module")
def rest(site: Site, fleet: Fleet) -> list[Block]:
    """The mesh, made by the README's commands; what is left of them."""
    return run_until(site, commands(fleet), "holdfast.mesh.site")


def test_one_play_ends_in_a_mesh_whose_services_answer_by_name(site: Site, rest: list[Block], fleet: Fleet):
    counts = recap(site.said)
    assert set(counts) == {*PLANES, *SERVICES}
    assert all(count["failed"] == count["unreachable"] == 0 for count in counts.values())
    web, api = site.hosts["web-1"], site.hosts["api-1"]
    wait_answer(web, "web", "http://api.shop.mesh/", 200, f"URI={SPIFFE}/web")
    wait_answer(api, "api", "http://db.shop.mesh/", 200, f"URI={SPIFFE}/api")
    wait_answer(web, "web", "http://db.shop.mesh/", 403, "")
    seen = {json.loads(web.run("runuser -u web -- curl -sS http://api.shop.mesh/").out)["host"] for _ in range(20)}
    assert seen == {"api-1", "api-2"}
    rest[:] = run_until(site, rest, "curl -sS")
    assert f"URI={SPIFFE}/web" in site.said


def test_no_secret_is_in_the_log_or_in_clear_on_the_controller(site: Site, rest: list[Block]):
    site.said = ""
    kept = secrets_of(site)
    site.said = ""
    assert set(kept) == {
        "admin-token.vault", "etcd-ca-key.vault", "openbao-ca-key.vault", "openbao-init.vault", "seal-key.vault",
    }  # fmt: skip
    bao = json.loads(kept["openbao-init.vault"])
    # The last line of a key holds nothing but the public one, which a certificate may have as the same letters.
    keys = [line for name in ("etcd-ca-key.vault", "openbao-ca-key.vault") for line in kept[name].splitlines()[1:-2]]
    words = [kept["admin-token.vault"], kept["seal-key.vault"], bao["token"], *bao["keys"], *keys]
    assert all(len(word) > 20 for word in words)
    for path in site.folder.rglob("*"):
        # `shell` is the operator's own environment, kept by this test.
        if path.is_file() and not path.is_symlink() and path.name != "shell" and "dist" not in path.parts:
            text = path.read_text(errors="replace")
            assert [word[:8] for word in words if word in text] == [], path
            assert "hf1." not in text, path
            assert "PRIVATE KEY" not in text, path


def test_a_second_run_changes_nothing(site: Site, rest: list[Block]):
    said = site.play("holdfast.mesh.site")
    assert {host: count["changed"] for host, count in recap(said).items()} == dict.fromkeys([*PLANES, *SERVICES], 0)
    assert changed_tasks(said) == set()


def test_check_shows_exactly_what_a_variable_would_change(site: Site, rest: list[Block]):
    said = site.play("holdfast.mesh.site", "--check", "--diff", "-e", "holdfast_election_ttl_seconds=7")
    assert changed_tasks(said) == {"holdfast.mesh.controlplane : Write its settings"}
    lines = [line for line in said.splitlines() if re.match(r"[+-](?![+-])", line)]
    assert sorted(lines) == ["+electionTtlSeconds: 7"] * 3 + ["-electionTtlSeconds: 5"] * 3
    told = site.hosts["cp-1"].run("cat /etc/holdfast/controlplane.yaml").out
    assert "electionTtlSeconds: 5" in told


def test_one_host_more_in_one_play_with_its_port_closed(site: Site, rest: list[Block], fleet: Fleet):
    [more] = fleet.up("api-3")
    start(more, "api", "0.0.0.0:8080")
    web = site.hosts["web-1"]
    plain = f"curl -sS -m 5 http://{more.address}:8080/"
    assert json.loads(web.run(plain).out)["caller"] == ""
    run_until(site, rest, "holdfast.mesh.add_hosts")
    assert "capture: confirmed" in more.run("holdfast-agent capture status").out
    assert web.run(plain, check=False).code != 0

    def reached() -> bool:
        answer = json.loads(web.run("runuser -u web -- curl -sS http://api.shop.mesh/").out)
        assert f"URI={SPIFFE}/web" in answer["caller"], answer
        return bool(answer["host"] == "api-3")

    web.wait(reached, timeout=60, what="the new host is called")
