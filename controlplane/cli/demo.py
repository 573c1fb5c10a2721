"""`holdfast demo`."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from controlplane.cli.errors import CliError, Exit

MOST_TAILS = 4
TAIL_LINES = 15


@click.command()
@click.option("--check", is_flag=True, help="Run the scenario step by step, print figures, and stop.")
@click.option("--json", "as_json", is_flag=True, help="With --check: the report as JSON.")
@click.option("--keep", default="", metavar="DIR", help="Use this directory and leave it there afterwards.")
@click.option(
    "--grace",
    type=click.FloatRange(min=1),
    default=15.0,
    show_default=True,
    help="Seconds until a silent host is lost.",
)
@click.option(
    "--clusters",
    type=click.IntRange(min=1, max=4),
    default=1,
    show_default=True,
    help="So many meshes, each whole by itself, and peered.",
)
def demo(check: bool, as_json: bool, keep: str, grace: float, clusters: int) -> None:
    r"""Run a whole mesh on this machine: etcd, OpenBao, two control-plane nodes with gates, five hosts.

    All of it listens on loopback only. Nothing is left behind, but the directory of --keep. With --clusters, each of
    them has an etcd, an OpenBao, a control-plane node, two east-west gateways and four hosts of its own.

    \b
    Examples:
      holdfast demo
      holdfast demo --check
      holdfast demo --clusters 2 --check
      holdfast demo --check --json | jq '.steps[] | {number, ok, figures}'
      holdfast demo --keep /tmp/mesh
    """
    if as_json and not check:
        raise click.UsageError("--json goes with --check")
    with folder(keep) as place:
        if check and clusters > 1:
            work = _check_clusters(place, grace, clusters, as_json=as_json)
        elif clusters > 1:
            work = _stay_clusters(place, grace, clusters)
        else:
            work = _check(place, grace, as_json=as_json) if check else _stay(place, grace)
        try:
            code = asyncio.run(_until_stopped(work))
        except Exception as exc:
            raise failed(exc, place) from exc
    raise SystemExit(code)


@contextmanager
def folder(keep: str) -> Iterator[Path]:
    """Where the demo lives: a temporary directory, or an empty one of the caller's choice."""
    if not keep:
        # Short on purpose: sockets lie deep in it, and their paths may have 107 bytes.
        with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    place = Path(keep).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CliError(f"{keep} is there already and not an empty directory", code=Exit.CONFLICT, hint="name another")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    yield place


async def _until_stopped(work: Any) -> int:
    """Run it; SIGINT, SIGTERM and SIGHUP end it in order."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return int(await task)
    except asyncio.CancelledError:
        return 130


async def _stay(place: Path, grace: float) -> int:
    from controlplane.demo.guide import text, write_env
    from controlplane.demo.mesh import Mesh
    from controlplane.demo.progress import progress

    async with Mesh(place, progress(), grace=grace) as mesh:
        write_env(mesh)
        click.echo(text(mesh))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            click.echo("", err=True)
    return int(Exit.OK)


async def _check(place: Path, grace: float, *, as_json: bool) -> int:
    from controlplane.cli.client import Api
    from controlplane.demo.check.context import Context
    from controlplane.demo.check.runner import run
    from controlplane.demo.check.step5 import SHORT_TTL
    from controlplane.demo.check.steps import STEPS
    from controlplane.demo.guide import write_env
    from controlplane.demo.mesh import Mesh
    from controlplane.demo.progress import progress

    async with Mesh(place, progress(), grace=grace, workload_ttl=SHORT_TTL) as mesh:
        write_env(mesh)
        store = mesh.etcd.store()
        try:
            async with Api(mesh.connection) as api:
                report = await run(STEPS, Context(mesh, api, store), mesh.facts())
        finally:
            await store.close()
    return _told(report, mesh.stubborn, as_json=as_json)


async def _stay_clusters(place: Path, grace: float, count: int) -> int:
    from controlplane.demo.check.clusters import peered
    from controlplane.demo.check.clusters.context import scene
    from controlplane.demo.check.result import Findings
    from controlplane.demo.clusters import Clusters
    from controlplane.demo.guide import of_clusters, write_env
    from controlplane.demo.progress import progress

    async with Clusters(place, progress(), count, grace=grace) as clusters, scene(clusters) as context:
        for mesh in clusters.meshes.values():
            write_env(mesh)
        with clusters.progress.stage(peered.TITLE):
            await peered.run(context, Findings())
        click.echo(of_clusters(clusters))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            click.echo("", err=True)
    return int(Exit.OK)


async def _check_clusters(place: Path, grace: float, count: int, *, as_json: bool) -> int:
    from controlplane.demo.check.clusters.context import scene
    from controlplane.demo.check.clusters.steps import STEPS
    from controlplane.demo.check.runner import run
    from controlplane.demo.clusters import Clusters
    from controlplane.demo.guide import write_env
    from controlplane.demo.progress import progress

    async with Clusters(place, progress(), count, grace=grace) as clusters, scene(clusters) as context:
        for mesh in clusters.meshes.values():
            write_env(mesh)
        report = await run(STEPS, context, clusters.facts())
    return _told(report, clusters.stubborn, as_json=as_json)


def _told(report: Any, stubborn: int, *, as_json: bool) -> int:
    """Print what a scenario found."""
    from controlplane.cli.output import emit
    from controlplane.demo.check.show import show

    report = msgspec.structs.replace(report, facts=report.facts | {"processes that had to be killed": stubborn})
    if as_json:
        emit(report, "json")
    else:
        show(report)
    return int(Exit.OK if report.ok else Exit.FAILED)


def failed(exc: BaseException, place: Path) -> CliError:
    """Why the demo could not start or go on, with the end of the logs that say most."""
    if isinstance(exc, CliError):
        return exc
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    tails = []
    for path in sorted(place.rglob("*.log"), key=lambda p: -p.stat().st_mtime)[:MOST_TAILS]:
        end = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        tails += [f"end of {path}:", *(f"    {line[:300]}" for line in end)] if end else []
    print("\n".join(tails), file=sys.stderr)
    return CliError(f"the demo failed: {exc}", hint="--keep DIR leaves its files, with all logs, in a directory")
