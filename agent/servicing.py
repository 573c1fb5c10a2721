"""Out of service and back, on the host itself: `holdfast-agent drain`, `undrain`, `service …`."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from agent.asking import asked, config_option, settings_of
from mesh.durations import DURATION, WAIT, spelled

LOOK_SECONDS = 0.2
LATE_SECONDS = 3.0
"""How long an agent that is about to start may take until it answers. The service's own unit waits meanwhile."""

wait_options = (
    click.option("--wait/--no-wait", default=True, show_default=True, help="Return when callers have left."),
    click.option("--timeout", type=WAIT, default="30s", show_default=True, help="How long; then status 1."),
)


def _waits(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(wait_options):
        command = option(command)
    return command


@click.command()
@config_option
@_waits
@click.option("--end", is_flag=True, help="Then deregister, and end Envoy and the agent.")
def drain(config: Path, timeout: float, *, wait: bool, end: bool) -> None:
    """Take this host out of service (maintenance): callers leave, what is under way finishes, Envoy and agent go on.

    It holds until `undrain`, also over restarts. Calls that this host makes itself go on.

    \b
    Examples:
      holdfast-agent drain                       before work on the host
      holdfast-agent drain --timeout 5m          for long requests
      holdfast-agent drain --no-wait
    """
    asked(config, "drain")
    done = not wait or _departed(config, "", timeout)
    if end:
        asked(config, "leave")
        click.echo("deregistered; Envoy and the agent end")
    if not done:
        sys.exit(1)


@click.command()
@config_option
def undrain(config: Path) -> None:
    """Put this host back into service: what is healthy is called again.

    \b
    Example:
      holdfast-agent undrain
    """
    for name, health in asked(config, "undrain")["services"].items():
        click.echo(f"{name}: {health}")


@click.group()
def service() -> None:
    """Take one local service out of service and back; tie it to its systemd unit."""


@service.command("stop")
@config_option
@click.argument("name")
@_waits
def stop_service(config: Path, name: str, timeout: float, *, wait: bool) -> None:
    """Let a service's callers leave, before it is stopped.

    It is *draining* until `service start`; when this returns, no request is under way and none comes any more.

    \b
    Examples:
      holdfast-agent service stop web
      holdfast-agent service stop web.shop --timeout 90s
    """
    asked(config, "drain", name)
    if wait and not _departed(config, name, timeout):
        sys.exit(1)


@service.command("start")
@config_option
@click.argument("name")
def start_service(config: Path, name: str) -> None:
    """Let a service be called again, as soon as its health check says that it is healthy.

    Where no agent runs this is kept for the next one.

    \b
    Examples:
      holdfast-agent service start web
      holdfast-agent service start web.shop
    """
    for found, health in _undrained(config, name).items():
        click.echo(f"{found}: {health}")


@service.command("hook")
@config_option
@click.argument("name")
@click.option("--unit", required=True, help="The service's own unit.")
@click.option("--timeout", type=DURATION, default="30s", show_default=True, help="How long callers have to leave.")
@click.option("--write", is_flag=True, help="Write it to /etc/systemd/system/<unit>.d/, and reload systemd.")
def hook_service(config: Path, name: str, unit: str, timeout: float, *, write: bool) -> None:
    """Print or write the drop-in that ties a service's unit to its registration.

    With it, `systemctl restart` of the unit fails no request: callers leave first, and come back when it is healthy.
    Where the agent is down the unit starts and stops all the same.

    Of a template, each instance is a service of its own, with %i in its name.

    \b
    Examples:
      holdfast-agent service hook web --unit web.service
      holdfast-agent service hook web-%i --unit web@.service --write
      holdfast-agent service hook web.shop --unit web.service --write
    """
    from agent import unithook

    try:
        text = unithook.render(name, unit, timeout, unithook.own_stops(unit), config)
        where = unithook.write(unit, text) if write else None
    except unithook.HookError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"written: {where}" if where else text, nl=where is not None)


def _undrained(config: Path, name: str) -> Mapping[str, str]:
    """Health by service.

    A unit that starts must not find its service drained for good because the agent was away in that moment: without
    one the word is taken back on disk, where the next one finds it. One that read it before is asked once more.
    """
    from agent import drained
    from agent.admin import AdminError, NoAgentError, ask

    settings, end, absent = settings_of(config), time.monotonic() + LATE_SECONDS, ""
    while True:
        try:
            body = asyncio.run(ask(settings.admin_socket, "undrain", name))
        except NoAgentError as exc:
            absent = str(exc)
            try:
                drained.end_kept(settings.data, name)
            except OSError as fault:
                raise click.ClickException(f"{absent}, and {settings.data}: {fault.strerror}") from fault
        except AdminError as exc:
            if time.monotonic() >= end or not absent:
                raise click.ClickException(str(exc)) from exc
        else:
            return body["services"]  # type: ignore[no-any-return]
        if time.monotonic() >= end:
            click.echo(f"{absent}; it will find {name} in service", err=True)
            return {}
        time.sleep(LOOK_SECONDS)


def _departed(config: Path, what: str, timeout: float) -> bool:
    """Tell how far it is, until callers have left or time is over."""
    end, said = time.monotonic() + timeout, ""
    while True:
        body = asked(config, "drained", what)
        if body["words"] != said:
            said = body["words"]
            click.echo(f"{body['what']}: {said}")
        if body["done"]:
            return True
        if time.monotonic() >= end:
            click.echo(f"{body['what']}: not done after {spelled(timeout)}; it stays out of service", err=True)
            return False
        time.sleep(LOOK_SECONDS)
