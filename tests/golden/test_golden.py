"""Each folder here is a case: world.yaml and node.yaml in, expect/*.yaml out (protobuf's JSON form).

`pytest tests/golden --update-golden` rewrites what is expected; read the difference before you commit it. A real Envoy
takes every case: with certificates in place of the placeholders.
"""

import json
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from controlplane.demo.binaries import find_envoy
from mesh import codec, pb
from mesh.compile import Snapshot, check, project
from mesh.compile.compiler import compile as compile_anew
from mesh.model import NodeLocal, Object, TrustBundle, World
from tests.golden.static import document
from tests.support.meshes import FAKE_ROOT, TestCa, fake_identity, world

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/node.yaml"))


def read_world(case: str) -> World:
    documents = yaml.safe_load_all((HERE / case / "world.yaml").read_text())
    objects = [codec.decode_strict(d) if d["kind"] != "Endpoint" else _endpoint(d) for d in documents if d]
    assert all(isinstance(o, Object) for o in objects), objects
    return world(*objects)


def _endpoint(tree: dict) -> Object:
    from mesh.model import Endpoint

    return msgspec.convert(tree, Endpoint)


def read_local(case: str, ca: TestCa | None = None) -> NodeLocal:
    """`holds` names identities; what is held for them is made here."""
    tree = yaml.safe_load((HERE / case / "node.yaml").read_text())
    held = {}
    for name in tree.pop("holds"):
        path = "/node/" + tree["node"] if name == "gate" else "/ns/{}/sa/{}".format(*name.split("/"))
        held[name] = ca.identity(path) if ca else fake_identity(name.replace("gate", "gate/gate"))
    local = msgspec.convert({"identities": {}, **tree}, NodeLocal)
    return msgspec.structs.replace(local, identities=held, bundle_roots=(ca.root if ca else FAKE_ROOT,))


def expected(snapshot: Snapshot) -> dict[str, str]:
    """File name -> text. A type without resources has no file."""
    files = {}
    for url, short in pb.SHORT.items():
        trees = [_redacted(pb.to_json(pb.decode(url, r.body))) for _, r in sorted(snapshot.resources[url].items())]
        if trees:
            files[f"{short}.yaml"] = yaml.safe_dump_all(trees, sort_keys=True, width=120)
    if snapshot.problems:
        lines = [{"object": str(p.object or ""), "path": p.path, "reason": p.reason} for p in snapshot.problems]
        files["problems.yaml"] = yaml.safe_dump(lines, sort_keys=True, width=120)
    return files


def _redacted(tree: object) -> object:
    if isinstance(tree, dict):
        return {k: {"inline_string": "[redacted]"} if k == "private_key" else _redacted(v) for k, v in tree.items()}
    return [_redacted(item) for item in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, update_golden: bool) -> None:
    snapshot = compile_anew(project(read_world(case), read_local(case)))
    assert check(snapshot) == ()
    folder = HERE / case / "expect"
    found = expected(snapshot)
    if update_golden:
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.yaml"):
            path.unlink()
        for name, text in found.items():
            (folder / name).write_text(text)
    assert {path.name: path.read_text() for path in folder.glob("*.yaml")} == found


def _with_real_roots(state: World) -> World:
    """Of other trust domains: the placeholders are no certificates."""
    bundles = [found for found in state.objects.values() if isinstance(found, TrustBundle)]
    real = [
        msgspec.structs.replace(
            found, spec=msgspec.structs.replace(found.spec, roots=(TestCa(found.spec.trust_domain).root,))
        )
        for found in bundles
        if found.spec.trust_domain != "east.test"
    ]
    return world(*real, base=state)


@pytest.mark.real
@pytest.mark.parametrize("case", CASES)
def test_a_real_envoy_takes_it(case: str, tmp_path: Path) -> None:
    ca = TestCa("east.test")
    local = read_local(case, ca)
    if local.gate:
        mine = ca.workload("etcd/reader")
        files = {"etcd_ca": ca.root, "etcd_cert": mine.chain_pem, "etcd_key": mine.key_pem}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        gate = msgspec.structs.replace(local.gate, **{name: str(tmp_path / name) for name in files})
        local = msgspec.structs.replace(local, gate=gate)
    snapshot = compile_anew(project(_with_real_roots(read_world(case)), local))
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(document(snapshot)))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(config), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    # Fields on their way out would be refused by a later Envoy.
    assert "deprecated" not in done.stderr
