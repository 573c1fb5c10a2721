"""The collection's own Python, imported as Ansible does."""

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from tests.support.collection import collections_path


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """`plugin("module_utils.members")` is that module of the collection."""
    folder = str(collections_path(tmp_path_factory.mktemp("collections")))
    sys.path.insert(0, folder)
    try:
        yield lambda name: importlib.import_module(f"ansible_collections.holdfast.mesh.plugins.{name}")
    finally:
        sys.path.remove(folder)
