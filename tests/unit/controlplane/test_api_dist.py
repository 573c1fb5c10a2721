"""What bare hosts download, over the real listener."""

import asyncio
import hashlib
import json
from pathlib import Path

from structlog.testing import capture_logs

from controlplane import manifest
from controlplane.api.downloads import EACH
from controlplane.manifest import Entry
from tests.unit.controlplane.harness import mesh


def put(folder: Path, files: dict[str, bytes]) -> str:
    entries = []
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append(
            Entry(path=path, sha256=digest, size=len(content), kind="script", name=Path(path).name, version="1")
        )
    raw = manifest.encode(manifest.build("1", entries))
    (folder / manifest.NAME).write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


BEYOND = (
    *("secret", "wheels", "wheels/", "", ".", "../outside", "%2e%2e/outside", "..%2Foutside", "wheels/..%2Fsecret"),
    *("/etc/passwd", "%2Fetc%2Fpasswd", "bin/x86_64/envoy/", "a%00b"),
)
FILES = {"install.py": b"print('hello')\n", "bin/x86_64/envoy": bytes(range(256)) * 8000, "wheels/a-1.whl": b"abc"}


async def get(cp, path, **more):
    async with cp.request("GET", path, **more) as response:
        return response.status, await response.read()


def test_what_the_manifest_lists_is_handed_out_to_anybody(tmp_path):
    async def run():
        sha256 = put(tmp_path / "dist", FILES)
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp:
            status, raw = await get(cp, "/v1/dist/manifest.json")
            assert (status, hashlib.sha256(raw).hexdigest()) == (200, sha256)
            for path, content in FILES.items():
                assert await get(cp, f"/v1/dist/{path}") == (200, content)
            assert await get(cp, "/install.py") == (200, FILES["install.py"])
            assert await get(cp, "/v1/dist/wheels/a-1.whl", headers={"Range": "bytes=1-"}) == (206, b"bc")
            lines = [json.loads(line) for line in cp.audit_text().splitlines()]
            assert [line["sha256"] for line in lines if line["event"] == "dist.manifest"] == [sha256]

    asyncio.run(run())


def test_a_download_is_no_fault_in_the_log_and_its_connection_is_used_again(tmp_path):
    async def run():
        put(tmp_path / "dist", FILES)
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp, cp.session() as session:
            places = set()
            for path, content in FILES.items():
                url = f"{cp.url}/v1/dist/{path}"
                async with session.get(url, server_hostname="controlplane.holdfast") as response:
                    places.add(response.connection.transport.get_extra_info("sockname"))
                    assert await response.read() == content
            return len(places)

    with capture_logs() as said:
        assert asyncio.run(run()) == 1
    assert [line for line in said if line["log_level"] == "error"] == []


def test_nothing_else_of_the_folder_or_beyond_it_is(tmp_path):
    async def run():
        put(tmp_path / "dist", FILES)
        (tmp_path / "dist/secret").write_text("secret")
        (tmp_path / "outside").write_text("secret")
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp:
            for path in BEYOND:
                status, raw = await get(cp, f"/v1/dist/{path}")
                assert status == 404, path
                assert b"secret" not in raw

    asyncio.run(run())


def test_a_file_that_is_not_as_listed_is_not_handed_out(tmp_path):
    async def run():
        put(tmp_path / "dist", FILES)
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp:
            assert (await get(cp, "/v1/dist/wheels/a-1.whl"))[0] == 200
            (tmp_path / "dist/wheels/a-1.whl").write_bytes(b"abd")
            assert (await get(cp, "/v1/dist/wheels/a-1.whl"))[0] == 404
            sha256 = put(tmp_path / "dist", {"install.py": b"new\n"})
            assert hashlib.sha256((await get(cp, "/v1/dist/manifest.json"))[1]).hexdigest() == sha256
            assert (await get(cp, "/v1/dist/bin/x86_64/envoy"))[0] == 404
            (tmp_path / "dist/manifest.json").write_text("{")
            status, raw = await get(cp, "/v1/dist/manifest.json")
            assert status == 404
            assert b"no distribution folder" in raw

    asyncio.run(run())


def test_a_token_says_what_to_pin_if_there_is_an_installer(tmp_path):
    async def run():
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp:
            _, made = await cp.call("POST", "/v1/tokens", {"node": "n1"})
            assert "install" not in made
            sha256 = put(tmp_path / "dist", FILES)
            _, made = await cp.call("POST", "/v1/tokens", {"node": "n1"})
            assert made["install"] == {"url": cp.url, "manifestSha256": sha256}

    asyncio.run(run())


def test_one_source_has_so_many_downloads_at_a_time_and_others_go_on(tmp_path):
    async def run():
        big = bytes(64) * (1 << 20)
        put(tmp_path / "dist", {"install.py": b"x", "wheels/a-1.whl": b"abc", "bin/x86_64/envoy": big})
        async with mesh(tmp_path, dist_dir=str(tmp_path / "dist")) as cp, cp.session() as session:
            url = cp.url + "/v1/dist/bin/x86_64/envoy"
            held = []
            for _ in range(EACH):
                response = await session.get(url, server_hostname="controlplane.holdfast")
                assert response.status == 200  # and its body is not read: it stays open
                held.append(response)
            status, raw = await get(cp, "/v1/dist/wheels/a-1.whl")
            assert (status, b"at the same time" in raw) == (429, True)
            # What is pasted on a host asks for this once: it is what waits for its turn.
            assert (await get(cp, "/install.py"))[0] == 200
            assert (await cp.call("GET", "/v1/kinds"))[0] == 200
            for response in held:
                response.close()
            async with asyncio.timeout(10):
                while (await get(cp, "/v1/dist/wheels/a-1.whl"))[0] != 200:
                    await asyncio.sleep(0.02)

    asyncio.run(run())
