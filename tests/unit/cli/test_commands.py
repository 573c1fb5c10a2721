"""The commands against a real control-plane node (its store in memory), over TLS."""

import asyncio
import json
import socket
from pathlib import Path

import yaml
from click.testing import CliRunner, Result
from cryptography import x509

from controlplane.cli.errors import Exit
from controlplane.cli.main import main
from tests.unit.controlplane.harness import mesh, namespace, service


class Cli:
    """Runs `holdfast` as an operator of one control plane."""

    def __init__(self, cp, folder: Path) -> None:
        self.folder = folder
        ca = folder / "ca.pem"
        ca.write_text("\n".join(cp.issuing.trusted))
        self.env = {
            "HOLDFAST_ADDR": cp.url,
            "HOLDFAST_TOKEN": cp.admin,
            "HOLDFAST_CA": str(ca),
            "HOLDFAST_NAMESPACE": "shop",
            "HOLDFAST_CONFIG": "/nonexistent",
        }

    async def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, input=stdin, env=self.env | env)

    def file(self, name: str, *documents: object) -> str:
        path = self.folder / name
        path.write_text(yaml.safe_dump_all(documents))
        return str(path)


def operate(tmp_path, work):
    async def run():
        async with mesh(tmp_path) as cp:
            await work(Cli(cp, tmp_path))

    asyncio.run(run())


def test_apply_get_describe_delete(tmp_path):
    async def work(cli: Cli):
        done = await cli("apply", "-f", cli.file("shop.yaml", namespace(), service()))
        assert done.exit_code == 0, done.output
        assert "Service shop/api" in done.stdout
        assert "created" in done.stdout
        assert "revision" in done.stderr
        assert "80->8080/http" in (await cli("get", "svc")).stdout
        assert json.loads((await cli("get", "svc", "api", "-o", "json")).stdout)["metadata"]["name"] == "api"
        assert "serviceAccounts" in (await cli("describe", "svc", "api")).stdout
        assert (await cli("delete", "svc", "api")).exit_code == 0
        assert (await cli("get", "svc", "api")).exit_code == Exit.NOT_FOUND
        assert (await cli("delete", "svc", "api")).exit_code == Exit.NOT_FOUND
        ignored = await cli("delete", "svc", "api", "--ignore-missing")
        assert (ignored.exit_code, "was not there" in ignored.stderr) == (0, True)

    operate(tmp_path, work)


def test_what_get_prints_can_be_applied_again(tmp_path):
    async def work(cli: Cli):
        await cli("apply", "-f", cli.file("shop.yaml", namespace(), service()))
        text = (await cli("get", "svc", "-o", "yaml")).stdout
        done = await cli("apply", "-f", "-", "-o", "json", stdin=text)
        assert done.exit_code == 0, done.output
        assert [r["action"] for r in json.loads(done.stdout)["results"]] == ["unchanged"]

    operate(tmp_path, work)


def test_a_change_made_meanwhile_is_a_conflict(tmp_path):
    async def work(cli: Cli):
        await cli("apply", "-f", cli.file("shop.yaml", namespace(), service()))
        old = (await cli("get", "svc", "api", "-o", "yaml")).stdout
        await cli("apply", "-f", cli.file("new.yaml", service(serviceAccounts=["other"])))
        done = await cli("apply", "-f", "-", stdin=old.replace("- api", "- mine"))
        assert done.exit_code == Exit.CONFLICT
        assert "get it again" in done.stderr

    operate(tmp_path, work)


def test_violations_name_file_object_and_path_and_nothing_is_written(tmp_path):
    async def work(cli: Cli):
        bad = service("b") | {"spec": {"portz": [], "serviceAccounts": 5}}
        done = await cli("apply", "-f", cli.file("shop.yaml", namespace(), service(), bad))
        assert done.exit_code == Exit.REFUSED
        assert done.stdout == ""
        assert "shop.yaml (document 3): Service shop/b spec.portz: unknown field" in done.stderr
        assert "spec.serviceAccounts" in done.stderr
        assert (await cli("get", "svc", "api")).exit_code == Exit.NOT_FOUND

    operate(tmp_path, work)


def test_dry_run_writes_nothing(tmp_path):
    async def work(cli: Cli):
        done = await cli("apply", "-f", cli.file("shop.yaml", namespace()), "--dry-run")
        assert done.exit_code == 0
        assert "created (dry run)" in done.stdout
        assert (await cli("get", "ns", "shop")).exit_code == Exit.NOT_FOUND

    operate(tmp_path, work)


def test_delete_by_file_is_one_transaction(tmp_path):
    async def work(cli: Cli):
        path = cli.file("shop.yaml", namespace(), service(), service("web"))
        await cli("apply", "-f", path)
        services = cli.file("services.yaml", service(), service("web"))
        assert (await cli("delete", "-f", services)).exit_code == 0
        assert (await cli("get", "svc")).stdout == ""
        again = await cli("delete", "-f", services, "--ignore-missing")
        assert (again.exit_code, "none of them was there" in again.stderr) == (0, True)

    operate(tmp_path, work)


def test_tokens(tmp_path):
    async def work(cli: Cli):
        out = tmp_path / "web.token"
        done = await cli("token", "create", "web-1", "-i", "shop/web", "--out", str(out))
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        assert out.stat().st_mode & 0o777 == 0o600
        assert out.read_text().startswith("hf1.")
        assert (await cli("token", "create", "web-1", "--out", str(out))).exit_code == Exit.FAILED
        assert (await cli("token", "create", "../x")).exit_code == Exit.REFUSED
        assert (await cli("token", "create", "x", "-i", "no-slash")).exit_code == Exit.USAGE

    operate(tmp_path, work)


def test_status_proxies_doctor_and_backup(tmp_path):
    async def work(cli: Cli):
        assert "mesh.test" in (await cli("status")).stdout
        assert json.loads((await cli("status", "-o", "json")).stdout)["trustDomain"] == "mesh.test"
        assert (await cli("proxy", "status")).exit_code == 0
        assert (await cli("proxy", "config", "nobody")).exit_code == Exit.NOT_FOUND
        found = {c["name"]: c["verdict"] for c in json.loads((await cli("doctor", "-o", "json")).stdout)["checks"]}
        assert found["etcd"] == "ok"
        assert found["token"] in {"ok", "warn"}
        path = tmp_path / "backup.ndjson"
        done = await cli("backup", str(path))
        assert done.exit_code == 0, done.output
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await cli("backup", str(path))).exit_code == Exit.FAILED
        piped = await cli("backup", "-")
        assert len(piped.stdout_bytes.splitlines()) == len(path.read_bytes().splitlines())

    operate(tmp_path, work)


def test_an_unreachable_address_is_passed_over_and_told_only_if_all_are(tmp_path):
    async def work(cli: Cli):
        both = await cli("get", "ns", HOLDFAST_ADDR=f"127.0.0.1:1,{cli.env['HOLDFAST_ADDR']}")
        assert both.exit_code == 0, both.output
        none = await cli("get", "ns", HOLDFAST_ADDR="127.0.0.1:1")
        assert none.exit_code == Exit.UNREACHABLE
        assert "Connection refused" in none.stderr
        assert "HOLDFAST_ADDR" in none.stderr

    operate(tmp_path, work)


def test_bad_tokens_and_foreign_cas(tmp_path):
    async def work(cli: Cli):
        assert (await cli("get", "ns", HOLDFAST_TOKEN="nonsense")).exit_code == Exit.REFUSED
        import time

        from cryptography.hazmat.primitives.serialization import Encoding

        from controlplane.demo.check.forge import new_authority, utc

        foreign = tmp_path / "foreign.pem"
        foreign.write_bytes(new_authority("foreign", utc(time.time())).certificate.public_bytes(Encoding.PEM))
        done = await cli("get", "ns", HOLDFAST_CA=str(foreign))
        assert done.exit_code == Exit.UNREACHABLE
        assert "is " + str(foreign) + " the CA" in done.stderr
        told = await cli("doctor", HOLDFAST_CA=str(foreign))
        assert told.exit_code == Exit.FAILED
        assert "fail" in told.stdout

    operate(tmp_path, work)


def test_watch_shows_changes_from_a_revision_on(tmp_path):
    async def work(cli: Cli):
        from controlplane.cli.client import Api
        from controlplane.cli.context import ConfigFile, Flags, resolve
        from controlplane.cli.watch import changes

        await cli("apply", "-f", cli.file("shop.yaml", namespace(), service(), service("web")))
        await cli("delete", "svc", "web")
        seen = []
        async with Api(resolve(Flags(), cli.env, ConfigFile())) as api, asyncio.timeout(10):
            async for event in changes(api, "Service", "shop", 1):
                seen.append((event["type"], event["object"]["metadata"]["name"]))
                if len(seen) == 3:
                    break
        assert sorted(seen[:2]) == [("put", "api"), ("put", "web")]
        assert seen[2] == ("delete", "web")

    operate(tmp_path, work)


def test_init_makes_etcd_certificates_once(tmp_path):
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["init", "etcd-certs", "--dir", str(tmp_path / "pki"), *arguments])

    assert run("--member", "e1=10.0.0.1", "--member", "e2=10.0.0.2,e2.example").exit_code == 0
    names = {p.name for p in (tmp_path / "pki").iterdir()}
    assert {"ca.pem", "ca-key.pem", "e1.pem", "e2-key.pem", "root.pem", "holdfast-gate-key.pem"} <= names
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "pki").glob("*-key.pem"))
    assert run("--member", "e1=10.0.0.1").exit_code == Exit.CONFLICT
    before = (tmp_path / "pki" / "ca.pem").read_bytes()
    assert run("--member", "e3=10.0.0.3", "--renew").exit_code == 0
    assert (tmp_path / "pki" / "ca.pem").read_bytes() == before
    for wrong in ("e1", "e1=", "a/b=1.2.3.4", "root=1.2.3.4"):
        assert run("--member", wrong, "--renew").exit_code == Exit.USAGE


def test_init_makes_certificates_for_openbao_and_none_of_etcd_s_users(tmp_path):
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["init", "openbao-certs", "--dir", str(tmp_path / "pki"), *arguments])

    assert run("--member", "b1=10.0.0.1", "--member", "b2=fd00::2,b2.example").exit_code == 0
    names = {p.name for p in (tmp_path / "pki").iterdir()}
    assert names == {"ca.pem", "ca-key.pem", "b1.pem", "b1-key.pem", "b2.pem", "b2-key.pem"}
    assert run("--member", "b1=10.0.0.1").exit_code == Exit.CONFLICT
    assert run("--member", "b3=10.0.0.3", "--renew").exit_code == 0
    assert run("--member", "b1", "--renew").exit_code == Exit.USAGE


def test_init_makes_certificates_through_pipes_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, given: str = "") -> Result:
        return CliRunner().invoke(main, ["init", *arguments], input=given)

    new = json.loads(run("etcd-certs", "--pipe").stdout)
    assert set(new) == {"ca"}
    ca = new["ca"]["cert"] + new["ca"]["key"]
    made = json.loads(run("etcd-certs", "--pipe", "--member", "e1=10.0.0.1", given=ca).stdout)
    assert set(made) == {"ca", "e1", "root", "holdfast-controlplane", "holdfast-gate"}
    assert made["ca"] == {"cert": new["ca"]["cert"]}
    load = x509.load_pem_x509_certificate
    for name in made.keys() - {"ca"}:
        load(made[name]["cert"].encode()).verify_directly_issued_by(load(made["ca"]["cert"].encode()))
    bao = json.loads(run("openbao-certs", "--pipe", "--member", "b1=10.0.0.1").stdout)
    assert set(bao) == {"ca", "b1"}
    assert "BEGIN PRIVATE KEY" in bao["ca"]["key"]
    assert list(tmp_path.iterdir()) == []
    other = new["ca"]["cert"] + bao["ca"]["key"]
    for wrong in ("no PEM", new["ca"]["cert"], other):
        told = run("etcd-certs", "--pipe", "--member", "e1=10.0.0.1", given=wrong)
        assert (told.exit_code, "cat ca.pem ca-key.pem" in told.stderr) == (1, True), told.output
    assert run("etcd-certs", "--pipe", "--dir", "x").exit_code == Exit.USAGE
    assert run("etcd-certs", "--member", "e1=10.0.0.1").exit_code == Exit.USAGE
    assert run("etcd-certs", "--dir", "x").exit_code == Exit.USAGE


def test_init_mesh_tells_everything_that_is_wrong_with_the_settings(tmp_path):
    path = tmp_path / "controlplane.yaml"
    path.write_text("replica: cp1\nlisten: nowhere\nextra: 1\n")
    done = CliRunner().invoke(main, ["init", "mesh", "--config", str(path), "--trust-domain", "d"])
    assert done.exit_code == Exit.USAGE
    assert "extra: unknown field" in done.stderr
    assert "etcd: is missing" in done.stderr


def test_history_lists_changes_and_shows_one_as_a_diff(tmp_path):
    async def work(cli: Cli):
        assert "the history is empty" in (await cli("history")).stderr
        await cli("apply", "-f", cli.file("shop.yaml", namespace(), service()))
        await cli("apply", "-f", cli.file("new.yaml", service(serviceAccounts=["other"])))
        listed = await cli("history")
        assert listed.exit_code == 0, listed.output
        assert "Namespace shop created, Service shop/api created" in listed.stdout
        newest = listed.stdout.splitlines()[1].split()
        assert newest[2:5] == ["admin", "Service", "shop/api"]
        shown = await cli("history", "show", newest[-2])
        assert shown.exit_code == 0, shown.output
        assert "-  - api" in shown.stdout
        assert "+  - other" in shown.stdout
        assert "generation" not in shown.stdout
        document = json.loads((await cli("history", "show", newest[-1], "-o", "json")).stdout)
        assert document["objects"][0]["after"]["metadata"]["generation"] == 2
        some = await cli("history", "--object", "ns/shop", "-o", "json")
        assert len(json.loads(some.stdout)["items"]) == 1
        assert (await cli("history", "--object", "svc/api")).exit_code == Exit.USAGE
        assert (await cli("history", "show", "99999")).exit_code == Exit.NOT_FOUND

    operate(tmp_path, work)


def test_operators_get_tokens_and_lose_them(tmp_path):
    async def work(cli: Cli):
        out = tmp_path / "prometheus.token"
        made = await cli("operator", "create", "prometheus", "--ttl", "366d", "--out", str(out))
        assert made.exit_code == 0, made.output
        token = out.read_text().strip()
        assert out.stat().st_mode & 0o777 == 0o600
        assert token not in made.output
        shown = await cli("operator", "create", "alice", "--role", "admin", "--ttl", "12h")
        assert "of admin alice, until" in shown.stderr
        assert (await cli("get", "svc", HOLDFAST_TOKEN=token)).exit_code == 0
        refused = await cli("apply", "-f", cli.file("shop.yaml", namespace()), HOLDFAST_TOKEN=token)
        assert refused.exit_code != 0
        listed = await cli("operator", "list")
        assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
            ["admin", "admin"], ["alice", "admin"], ["prometheus", "viewer"],
        ]  # fmt: skip
        items = json.loads((await cli("operator", "list", "-o", "json")).stdout)["items"]
        assert {item["name"] for item in items} == {"admin", "alice", "prometheus"}
        assert shown.stdout.strip() not in listed.output

        ended = await cli("operator", "delete", "prometheus")
        assert "prometheus: 1 token ended" in ended.stderr
        assert (await cli("get", "svc", HOLDFAST_TOKEN=token)).exit_code != 0
        assert (await cli("operator", "delete", "prometheus")).exit_code == Exit.NOT_FOUND
        mine = await cli("operator", "delete", "admin")
        assert mine.exit_code != 0
        assert "say --myself" in mine.stderr
        assert (await cli("get", "svc")).exit_code == 0
        for bad in (("create", "x", "--ttl", "367d"), ("create", "Not a name"), ("create", "x", "--role", "king")):
            assert (await cli("operator", *bad)).exit_code != 0
        assert len(json.loads((await cli("operator", "list", "-o", "json")).stdout)["items"]) == 2

    operate(tmp_path, work)


def test_a_name_that_cannot_be_resolved_is_told_in_words(monkeypatch, tmp_path):
    """A resolver's numbers are not the system's: they came out as *Unknown error -2*."""

    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def work(cli: Cli) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", away)
        done = await cli("status", HOLDFAST_ADDR="cp.example.test:8443")
        assert "https://cp.example.test:8443: its name cannot be resolved: Name or service not known" in done.output

    operate(tmp_path, work)
