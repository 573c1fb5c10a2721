"""Our bundles read by another implementation of SPIFFE, and ours reading those that it makes: go-spiffe v2.6.0."""

import asyncio
import hashlib
import os
import ssl
import subprocess
from pathlib import Path

import msgspec
import pytest

from controlplane.demo.binaries import find_go
from multicluster import trust
from tests.unit.federation.clusters import cluster
from tests.unit.multicluster.roots import root, rsa_key

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]  # the program is built once, from source

MODULE = Path(__file__).parent / "spiffe"


@pytest.fixture(scope="module")
def go_spiffe(tmp_path_factory):
    """Runs a command of the program in `spiffe/`; its output, or the words with which it failed."""
    built = tmp_path_factory.mktemp("go") / "spiffe"
    env = {"HOME": str(Path.home())} | os.environ
    env |= {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = [str(find_go(MODULE)), "build", "-o", str(built), "."]
    done = subprocess.run(command, cwd=MODULE, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr

    def run(*arguments, stdin=b""):
        done = subprocess.run([built, *arguments], input=stdin, capture_output=True, timeout=60, check=False)
        return done.stdout if done.returncode == 0 else done.stderr.decode()

    return run


def digests(roots):
    return sorted(hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() for pem in roots)


def test_it_reads_ours(go_spiffe):
    roots = [root("east.test"), root(""), root("east.test", key=rsa_key())]
    told = msgspec.json.decode(go_spiffe("read", "east.test", stdin=trust.document(12, roots, 60)))
    assert told == {"sequence": 12, "refreshHint": 60, "roots": digests(roots)}


def test_we_read_its(go_spiffe):
    raw = go_spiffe("make", "east.test", "7")
    found = trust.read(raw, "east.test")
    assert (found.sequence, found.refresh_hint, len(found.roots)) == (7, 90, 1)
    told = msgspec.json.decode(go_spiffe("read", "east.test", stdin=raw))
    assert digests(found.roots) == told["roots"]
    with pytest.raises(trust.Refused, match=r"east\.test"):
        trust.read(raw, "west.test")


def test_it_fetches_ours_from_the_bundle_endpoint(go_spiffe, tmp_path):
    """By https_spiffe: the endpoint's certificate must lead to the bundle that is known, and hold the endpoint's id."""

    async def run():
        async with cluster(tmp_path, "east") as east:
            bundle = east.context.mirror.view.bundle("east.test").spec
            known, other = tmp_path / "known.json", tmp_path / "other.json"
            known.write_bytes(trust.document(bundle.sequence, bundle.roots))
            other.write_bytes(trust.document(1, [root("east.test")]))
            url, endpoint = east.url + "/v1/trust-bundle", "spiffe://east.test/controlplane/east-cp1"

            async def fetch(endpoint, file):
                return await asyncio.to_thread(go_spiffe, "fetch", "east.test", url, endpoint, str(file))

            told = msgspec.json.decode(await fetch(endpoint, known))
            assert told == {"sequence": bundle.sequence, "refreshHint": 60, "roots": digests(bundle.roots)}
            assert "unexpected ID" in await fetch("spiffe://east.test/controlplane/another", known)
            assert "unknown authority" in await fetch(endpoint, other)

    asyncio.run(run())
