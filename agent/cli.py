"""The commands of `holdfast-agent`: join, run, status, and what an operator may order on the host itself."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from agent.doctor.commands import debug, doctor
from agent.settings import DEFAULT_PATH, Settings, SettingsError, load
from agent.start import start
from mesh.durations import DURATION, Duration, spelled

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="The agent's settings.",
)
output_option = click.option(
    "-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of output."
)


LOOK_SECONDS = 0.2
WAITS = Duration(zero=True)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Besides: `host status|ready|clean` and `capture status|arm|confirm|off`, of this host's privileged helper.",
)
@click.version_option(package_name="holdfast", prog_name="holdfast-agent")
def main() -> None:
    """The per-host agent of the Holdfast service mesh."""


def _settings(path: Path) -> Settings:
    try:
        return load(path)
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@config_option
@click.option("--token", help="A join token for this node's name; better in a file, where no process list shows it.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token; '-' is stdin.")
@click.option("--force", is_flag=True, help="Join anew, though this host has an identity.")
def join(config: Path, token: str | None, token_file: Path | None, *, force: bool) -> None:
    """Give this host its identity, with a one-time token from `holdfast token create`.

    \b
    Examples:
      holdfast-agent join --token-file web-1.token
      ssh admin@cp-1 holdfast token create web-1 -i shop/web | holdfast-agent join --token-file -
    """
    from agent import addresses
    from agent.identity import exchange
    from agent.identity import join as joining
    from agent.state import Disk

    settings = _settings(config)
    if fault := addresses.fault(settings, addresses.own(), addresses.here):
        raise click.ClickException(fault)
    disk = Disk(settings.data)
    if (held := disk.identities.load()) and held[0].node == settings.node and not force:
        raise click.ClickException(
            f"this host has already joined as {held[0].own.spiffe_id}; --force joins anew with a new token"
        )
    try:
        text = _token(token, token_file, settings)
        stored = asyncio.run(joining.join(settings, disk, text, exchange.run, time.time()))
    except joining.JoinError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"joined as {stored.own.spiffe_id}")
    click.echo("next: `holdfast-agent run`, or start its service; a running agent goes on by itself")


def _token(token: str | None, token_file: Path | None, settings: Settings) -> str:
    from agent.identity.join import read_token

    if token:
        return token
    if token_file is not None and str(token_file) == "-":
        return sys.stdin.read().strip()
    path = token_file or (Path(settings.token_file) if settings.token_file else None)
    if path is None:
        raise click.ClickException("a token is needed: --token-file FILE, or --token TOKEN (`holdfast token create`)")
    return read_token(path)


@main.command()
@config_option
def run(config: Path) -> None:
    """Run the agent. It joins by itself if `tokenFile` is set; Envoy outlives it unless it is drained.

    \b
    Examples:
      holdfast-agent run
      holdfast-agent run --config ./agent.yaml
    """
    start(config)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_PATH)
def check(file: Path) -> None:
    """Check a file of settings, and say everything that is wrong with it. Nothing is asked or changed.

    \b
    Examples:
      holdfast-agent check                       the settings of this host
      holdfast-agent check new.yaml              before it takes their place
    """
    _settings(file)
    click.echo(f"{file} is fine")


@main.command()
@config_option
@output_option
def status(config: Path, output: str) -> None:
    """Tell what is: phase, revisions, certificates, services, problems.

    \b
    Examples:
      holdfast-agent status
      holdfast-agent status -o json | jq .problems
    """
    body = _ask(config, "status")
    click.echo(json.dumps(body, indent=2) if output == "json" else _text(body))


@main.command()
@config_option
@output_option
def history(config: Path, output: str) -> None:
    """Tell which endpoints came, went or got another standing in Envoy, and at which revision; the newest is last.

    It reaches back to the agent's start, or as far as a megabyte does. An endpoint's standing is its health, its
    weight and its priority in one load assignment; those of other clusters are marked as far.

    \b
    Examples:
      holdfast-agent history
      holdfast-agent history -o json | jq '.entries[] | select(.changes[].after == null)'
    """
    body = _ask(config, "history")
    click.echo(json.dumps(body, indent=2) if output == "json" else "\n".join(_lines(body)))


@main.command()
@config_option
def reload(config: Path) -> None:
    """Look at services.d now, and tell which definitions are in use and what is wrong with others. Status 1: something.

    The agent also looks by itself, every two seconds.

    \b
    Example:
      holdfast-agent reload
    """
    body = _ask(config, "reload")
    click.echo(f"services: {', '.join(body['services']) or 'none'}")
    for problem in body["problems"]:
        click.echo(f"problem: {problem}", err=True)
    if body["problems"]:
        sys.exit(1)


@main.command()
@config_option
def release(config: Path) -> None:
    """Obey a mass deletion that is held back because no control-plane write declared it.

    \b
    Example:
      holdfast-agent status && holdfast-agent release
    """
    click.echo(f"released {_ask(config, 'release')['released']} deletions")


wait_options = (
    click.option("--wait/--no-wait", default=True, show_default=True, help="Return when callers have left."),
    click.option("--timeout", type=WAITS, default="30s", show_default=True, help="How long; then status 1."),
)


def _waits(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(wait_options):
        command = option(command)
    return command


@main.command()
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
    _ask(config, "drain")
    done = not wait or _departed(config, "", timeout)
    if end:
        _ask(config, "leave")
        click.echo("deregistered; Envoy and the agent end")
    if not done:
        sys.exit(1)


@main.command()
@config_option
def undrain(config: Path) -> None:
    """Put this host back into service: what is healthy is called again.

    \b
    Example:
      holdfast-agent undrain
    """
    for name, health in _ask(config, "undrain")["services"].items():
        click.echo(f"{name}: {health}")


@main.group()
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
    _ask(config, "drain", name)
    if wait and not _departed(config, name, timeout):
        sys.exit(1)


@service.command("start")
@config_option
@click.argument("name")
def start_service(config: Path, name: str) -> None:
    """Let a service be called again, as soon as its health check says that it is healthy.

    \b
    Examples:
      holdfast-agent service start web
      holdfast-agent service start web.shop
    """
    for found, health in _ask(config, "undrain", name)["services"].items():
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

    \b
    Examples:
      holdfast-agent service hook web --unit web.service
      holdfast-agent service hook web.shop --unit web.service --write
    """
    from agent import unithook

    try:
        text = unithook.render(name, unit, timeout, unithook.own_stops(unit), config)
        where = unithook.write(unit, text) if write else None
    except unithook.HookError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(f"written: {where}" if where else text, nl=where is not None)


@main.group()
def envoy() -> None:
    """Look after this host's Envoy."""


@envoy.command()
@config_option
def upgrade(config: Path) -> None:
    """Let the Envoy that is installed now take over from the one that runs, without losing a connection.

    \b
    Example:
      ln -sfn 1.40.1 /opt/holdfast/envoy/current && holdfast-agent envoy upgrade
    """
    body = _ask(config, "envoy-restart", timeout=90)
    click.echo(f"envoy {body['before']} -> {body['now']}, epoch {body['epoch']}")


def _departed(config: Path, what: str, timeout: float) -> bool:
    """Tell how far it is, until callers have left or time is over."""
    end, said = time.monotonic() + timeout, ""
    while True:
        body = _ask(config, "drained", what)
        if body["words"] != said:
            said = body["words"]
            click.echo(f"{body['what']}: {said}")
        if body["done"]:
            return True
        if time.monotonic() >= end:
            click.echo(f"{body['what']}: not done after {spelled(timeout)}; it stays out of service", err=True)
            return False
        time.sleep(LOOK_SECONDS)


@main.command()
@click.option("--keep-config", is_flag=True, help="Leave /etc/holdfast as it is.")
@click.option(
    "--timeout",
    "--drain-seconds",
    type=WAITS,
    default="15s",
    show_default=True,
    help="What is under way may take so long.",
)
def leave(*, keep_config: bool, timeout: float) -> None:
    """Take Holdfast off this host: drain, stop, and remove all that its installation made, and nothing else.

    For hosts that install.py set up (the line of `holdfast token create`). It works with the control plane away, may
    be repeated, and goes on where a killed run stopped.

    \b
    Examples:
      holdfast-agent leave
      holdfast-agent leave --keep-config --timeout 2m
    """
    from agent.leaving import LeaveError, hand_over

    try:
        hand_over(keep_config=keep_config, drain_seconds=timeout)
    except LeaveError as exc:
        raise click.ClickException(str(exc)) from exc


main.add_command(doctor)
main.add_command(debug)


def _ask(config: Path, do: str, what: str = "", timeout: float = 20.0) -> Any:
    from agent.admin import AdminError, ask

    settings = _settings(config)
    try:
        return asyncio.run(ask(settings.admin_socket, do, what, timeout=timeout))
    except AdminError as exc:
        raise click.ClickException(str(exc)) from exc


def _lines(history: dict[str, Any]) -> Iterator[str]:
    for entry in history["entries"]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["at"]))
        for change in entry["changes"]:
            before, after = (_standing(change[side]) for side in ("before", "after"))
            what = f"{change['assignment']} {change['endpoint']}"
            yield f"{when} revision {entry['revision']} {what}: {before} -> {after}"


def _standing(standing: dict[str, Any] | None) -> str:
    if standing is None:
        return "not there"
    said = f"{standing['health']}, weight {standing['weight']}, priority {standing['priority']}"
    said += f", share {standing['share']}" if standing["share"] else ""
    return said + (", far" if standing["far"] else "")


def _text(body: dict[str, Any]) -> str:
    lines = [
        f"{body['node']}: {body['phase']}, observed revision {body['observed']}, applied {body['applied']}",
        f"envoy: {body['envoy']} {body.get('envoyVersion', '')}".rstrip(),
        f"store: {body['store']}",
        f"control plane: {body['controlplane']}",
    ]
    for name, left in sorted(body["runwaySeconds"].items()):
        lines.append(f"certificate {name}: {left / 3600:.1f} h left")
    for i in body["instances"]:
        reason = f" ({i['reason']})" if i["reason"] else ""
        lines.append(f"service {i['service']} as {i['identity']}: {i['health']}{reason}, registered: {i['registered']}")
    if since := body["drained"].get("host"):
        lines.insert(1, f"MAINTENANCE: out of service for {(time.time() - since) / 60:.0f} min; `undrain` ends it")
    lines += [
        f"REJECTED {r['object']}: {r['reason']}; in force: {r.get('inForce', 'nothing')}"
        for r in body.get("rejected", ())
    ]
    lines += [f"PROBLEM {problem}" for problem in body.get("problems", ())]
    lines += [f"WARNING {warning}" for warning in body.get("warnings", ())]
    return "\n".join(lines)
