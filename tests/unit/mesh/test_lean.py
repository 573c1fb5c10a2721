"""What is imported lean: without the system's roots, and with nothing left behind."""

import gc
import os
import subprocess
import sys

import pytest

from mesh import lean

TRUSTED = "; import aiohttp.connector as a; print(a._SSL_CONTEXT_VERIFIED.cert_store_stats()['x509'])"
SYSTEM = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509'])"


def said(code: str) -> int:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    "start",
    [
        "from mesh.lean import lean\nwith lean():\n import aiohttp\nimport sys",
        "import controlplane.cli.client",
    ],
)
def test_aiohttp_reads_no_roots_of_the_system(start: str):
    if not said(SYSTEM):
        pytest.skip("this machine trusts nobody")
    assert said(start + TRUSTED) == 0
    assert said(start + "; " + SYSTEM) == said(SYSTEM), "what asks for them later gets them"


@pytest.mark.parametrize("roots", ["", "/some/roots.pem"])
def test_all_is_as_before(monkeypatch: pytest.MonkeyPatch, roots: str):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    if roots:
        monkeypatch.setenv("SSL_CERT_FILE", roots)
    before = dict(os.environ)
    with pytest.raises(ImportError), lean.lean():
        assert not gc.isenabled()
        raise ImportError
    assert dict(os.environ) == before
    assert gc.isenabled()
