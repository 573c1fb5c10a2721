"""What changes for a proxy between two snapshots."""

from mesh.compile import Compiler, difference, project
from mesh.compile.compiler import compile as compile_anew
from mesh.model import LocalPort, Upstream
from mesh.model.world import Removed
from tests.support import meshes

UPSTREAM = Upstream(service="db", port=80, listen="127.0.0.1:9000")
LOCAL = meshes.local(meshes.definition("api", LocalPort(port=8080), upstreams=[UPSTREAM]))
BASE = meshes.world(
    meshes.config(),
    meshes.bundle(meshes.FAKE_ROOT),
    meshes.service("api"),
    meshes.service("db"),
    meshes.endpoint("db", "vm-2", "10.0.0.2"),
)


def snapshot(world):
    return compile_anew(project(world, LOCAL))


def between(before, after):
    return {(d.type, d.action) for d in difference(snapshot(before), snapshot(after))}


def test_the_same_configuration_has_no_difference_whoever_made_it():
    compiler = Compiler()
    assert difference(compiler.compile(project(BASE, LOCAL)), snapshot(BASE)) == ()
    assert difference(snapshot(BASE), snapshot(meshes.world(meshes.service("other"), base=BASE, revision=9))) == ()


def test_resources_are_added_and_removed_by_name():
    without = BASE.apply([Removed(meshes.service("api").ref)], BASE.revision)
    added = difference(snapshot(without), snapshot(BASE))
    assert {(d.type, d.action) for d in added} >= {("cds", "add"), ("lds", "add")}
    assert all(d.after and not d.before for d in added if d.action == "add")
    removed = difference(snapshot(BASE), snapshot(without))
    assert {(d.type, d.name) for d in removed} == {(d.type, d.name) for d in added}
    assert all(d.before and not d.after for d in removed if d.action == "remove")
    assert list(added) == sorted(added, key=lambda d: (d.type, d.name))


def test_what_is_changed_keeps_its_name_and_has_another_version():
    moved = meshes.world(meshes.endpoint("db", "vm-2", "10.0.0.3"), base=BASE, revision=2)
    ((change),) = difference(snapshot(BASE), snapshot(moved))
    assert (change.type, change.action) == ("eds", "change")
    assert change.before != change.after


def test_a_policy_changes_what_stands_before_the_application_and_nothing_else():
    allowed = meshes.world(meshes.policy("web", "api", meshes.rule("shop/web")), base=BASE, revision=2)
    assert between(BASE, allowed) <= {("rds", "change"), ("lds", "change")}
    assert between(BASE, allowed)
