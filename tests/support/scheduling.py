"""Which files a worker runs together, and which begin first."""

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

SHARED = ("tests/conformance", "tests/contract/store")
"""Folders whose files share servers for as long as a worker lives: one worker has all of them."""

LONG = (
    "tests/integration/federation/test_links.py",
    "tests/integration/collection/test_openbao_lost.py",
    "tests/conformance",
    "tests/integration/demo/test_demo.py",
    "tests/integration/compile/test_clusters_fail.py",
    "tests/integration/collection/test_store_lost.py",
    "tests/integration/federation/test_peers.py",
    "tests/integration/security/test_secrets_and_store.py",
    "tests/integration/hostd/test_capture.py",
    "tests/integration/collection/test_admin.py",
    "tests/integration/federation/test_spiffe.py",
    "tests/integration/distribution/test_build.py",
)
"""A minute or so, and more: they begin first, the longest of all at once, so that none is left over at the end."""


def together(nodeid: str) -> str:
    """What is run by one worker: a file, or the files of a folder that share servers."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in SHARED if PurePosixPath(file).is_relative_to(folder)), file)


class Together(LoadScopeScheduling):
    """As `--dist loadfile`, but for what is said above. Of those that are not long, most tests come first."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        long = next((scope for scope in LONG if scope in self.workqueue), None)
        if long:
            self.workqueue.move_to_end(long, last=False)
        super()._assign_work_unit(node)
