"""Whatever changes, what is taken over from before gives what a run from nothing gives."""

import random

import pytest
import yaml

from mesh import codec
from mesh.compile import Compiler, check, project
from mesh.compile.compiler import compile as compile_anew
from mesh.model import Object, Ref, Revision, ServiceRef, World
from mesh.model.world import Upserted
from tests.support.changes import HOST, Changes
from tests.support.meshes import bundle, config

STEPS = 150


@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_over_is_what_a_run_from_nothing_gives(seed: int):
    changes, compiler = Changes(random.Random(seed)), Compiler()
    world = World().apply([Upserted(o, Revision(1)) for o in (config(), bundle("x"))], Revision(1))
    for step in range(STEPS):
        world = world.apply(changes.next(world), Revision(step + 2))
        view = compiler.project(world, HOST)
        fresh = project(world, HOST)
        assert view.frame == fresh.frame, step
        snapshot, anew = compiler.compile(view), compile_anew(fresh)
        assert check(snapshot) == (), step
        assert snapshot.digest == anew.digest, step
        assert {url: dict(r) for url, r in snapshot.resources.items()} == {
            url: dict(r) for url, r in anew.resources.items()
        }, step


def test_a_change_elsewhere_finds_the_same_objects_again():
    """Not equal ones: the same, so that what is made of them is not even compared."""
    changes, compiler = Changes(random.Random(3)), Compiler()
    world = World().apply([Upserted(config(), Revision(1))], Revision(1))
    for step in range(60):
        world = world.apply(changes.next(world), Revision(step + 2))
    before = compiler.project(world, HOST)
    compiler.compile(before)
    text = changes.service().replace("name: ", "name: unrelated-")
    obj = codec.decode_strict(yaml.safe_load(text))
    assert isinstance(obj, Object)
    after = compiler.project(world.apply([Upserted(obj, Revision(99))], Revision(99)), HOST)
    assert all(a is b for a, b in zip(before.frame.outbound, after.frame.outbound, strict=True))
    assert all(a is b for a, b in zip(before.frame.backends, after.frame.backends, strict=True))
    assert Ref("Service", obj.metadata.namespace, obj.metadata.name) == obj.ref
    assert ServiceRef(obj.metadata.namespace, obj.metadata.name) not in after.endpoints
