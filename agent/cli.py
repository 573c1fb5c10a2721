"""The commands of `holdfast-agent`: join, run, status, and what an operator may order on the host itself."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.asking import asked, config_option, output_option, settings_of
from agent.doctor.commands import debug, doctor
from agent.servicing import drain, service, undrain
from agent.settings import DEFAULT_PATH, Settings
from agent.start import start
from mesh.durations import WAIT


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Besides: `host status|ready|clean` and `capture status|arm|confirm|off`, of this host's privileged helper.",
)
@click.version_option(package_name="holdfast", prog_name="holdfast-agent")
def main() -> None:
    """The per-host agent of the Holdfast service mesh."""


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

    settings = settings_of(config)
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
    settings_of(file)
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
    body = asked(config, "status")
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
    body = asked(config, "history")
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
    body = asked(config, "reload")
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
    click.echo(f"released {asked(config, 'release')['released']} deletions")


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
    body = asked(config, "envoy-restart", timeout=90)
    click.echo(f"envoy {body['before']} -> {body['now']}, epoch {body['epoch']}")


@main.command()
@click.option("--keep-config", is_flag=True, help="Leave /etc/holdfast as it is.")
@click.option(
    "--timeout",
    "--drain-seconds",
    type=WAIT,
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


for command in (drain, undrain, service, doctor, debug):
    main.add_command(command)


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
