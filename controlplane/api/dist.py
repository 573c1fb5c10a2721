"""What bare hosts download: the manifest, and the files that it lists. For anybody, since nothing in it is secret.

Whoever downloads trusts none of it: the line that is pasted on the host names the manifest's hash, and the manifest
that of each file (docs/security.md). Here is what strangers may cost: so many downloads at a time, from one source and
in all, each for a bounded time.
"""

import asyncio
from contextlib import nullcontext

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from controlplane.api.answers import ApiError
from controlplane.api.context import CONTEXT, Context

INSTALLER = "install.py"
DOWNLOAD_SECONDS = 900.0
"""For the largest file, some 200 MB, over a slow line."""


class _File(web.FileResponse):
    """Sent by who made it. The server prepares each answer once more, and this kind takes that for another sending."""

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        return None if self.prepared else await super().prepare(request)


async def manifest(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    catalogue = await context.shelf.catalogue()
    if catalogue is None:
        raise _nothing(context)
    # One line for each installation that begins; bounded like those about refusals, since anybody may ask.
    context.audit.refused(request.remote or "", "dist.manifest", peer=request.remote or "", sha256=catalogue.sha256)
    return web.Response(body=catalogue.raw, content_type="application/json")


async def installer(request: web.Request) -> web.StreamResponse:
    return await _send(request, INSTALLER)


async def file(request: web.Request) -> web.StreamResponse:
    return await _send(request, request.match_info["path"])


async def _send(request: web.Request, path: str) -> web.StreamResponse:
    context = request.app[CONTEXT]
    # The installer is small, and waits for its turn; the line that fetches it does not.
    with nullcontext() if path == INSTALLER else context.downloads.one(request.remote or ""):
        found = await context.shelf.find(path)
        if found is None:
            if await context.shelf.catalogue() is None:
                raise _nothing(context)
            raise ApiError(404, "the distribution folder has no such file", "its manifest.json lists all")
        response = _File(found, headers={"Content-Type": "application/octet-stream"})
        try:
            async with asyncio.timeout(DOWNLOAD_SECONDS):
                # Here rather than by the server afterwards: the file is sent while it counts as a download.
                await response.prepare(request)
        except TimeoutError:
            # Its head is sent: nothing but the end of the connection can tell that the rest does not come.
            if request.transport is not None:
                request.transport.abort()
        return response


def _nothing(context: Context) -> ApiError:
    folder = context.settings.dist_dir
    return ApiError(404, "this node has no distribution folder", f"`holdfast dist build --out {folder}` makes one")
