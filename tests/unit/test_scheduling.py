"""Which tests a worker runs together, and which files begin first."""

from pathlib import Path

from tests.support.scheduling import LONG, SHARED, together

ROOT = Path(__file__).parents[2]


def test_files_that_share_servers_are_run_by_one_worker_and_others_one_by_one():
    assert together("tests/conformance/test_mesh.py::test_published[a/b::c]") == "tests/conformance"
    assert together("tests/conformance_not/test_mesh.py::test_it") == "tests/conformance_not/test_mesh.py"
    assert together("tests/unit/test_one.py::Two::test_three") == "tests/unit/test_one.py"


def test_what_is_named_is_there():
    assert [name for name in (*SHARED, *LONG) if not (ROOT / name).exists()] == []
    for name in LONG:
        assert together(f"{name}/test_x.py" if (ROOT / name).is_dir() else name) == name
