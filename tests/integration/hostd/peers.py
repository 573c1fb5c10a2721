"""Everybody else on a host: applications, listeners of Envoy, and the sockets on which agent and Envoy answer.

    python peers.py tcp:127.0.0.1:15101 tcp:[::1]:8080 unix:/path:LIVE

A TCP listener says its own address to whoever connects; a unix socket says what stands behind the second colon.
"""

import asyncio
import sys


async def main():
    async with asyncio.TaskGroup() as group:
        for spec in sys.argv[1:]:
            kind, _, rest = spec.partition(":")
            where, _, what = rest.rpartition(":") if kind == "tcp" else rest.partition(":")
            words = rest if kind == "tcp" else what

            async def serve(reader, writer, words=words, kind=kind):
                if kind != "tcp":
                    await reader.readline()
                writer.write(words.encode() + b"\n")
                writer.close()

            if kind == "tcp":
                server = await asyncio.start_server(serve, where.strip("[]"), int(what))
            else:
                server = await asyncio.start_unix_server(serve, where)
            group.create_task(server.serve_forever())
        print("ready", flush=True)


asyncio.run(main())
