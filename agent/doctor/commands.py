"""`holdfast-agent doctor` and `holdfast-agent debug dump`."""

import io
import json
import sys
import time
from pathlib import Path

import click

from agent.asking import config_option, output_option

MARKS = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


def _quiet() -> None:
    """What the agent's own modules would log is told as a finding, or as the reason of a part."""
    from mesh import obs

    obs.setup_logging("critical", stream=io.StringIO())


@click.command()
@config_option
@output_option
def doctor(config: Path, output: str) -> None:
    """Check this host, and say what is wrong and what to do about it. Changes nothing; works without the agent.

    Looks at settings, identity and certificates, control plane and store gates, clocks, units, agent and Envoy, ports,
    limits, the advertised address, names and rules, disks and logs. As root it sees all of that. Status 1: a fault.

    \b
    Examples:
      sudo holdfast-agent doctor
      sudo holdfast-agent doctor -o json | jq '.findings[] | select(.verdict != "ok")'
    """
    from agent.doctor.checks import checks
    from agent.doctor.gather import gather

    _quiet()
    findings = checks(gather(config, time.time))
    worst = max((f.verdict for f in findings), key=list(MARKS).index)
    if output == "json":
        click.echo(json.dumps({"verdict": worst, "findings": [f._asdict() for f in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.verdict]}  {finding.check}: {finding.found}")
            if finding.advice and finding.verdict != "ok":
                click.echo(f"         -> {finding.advice}")
    sys.exit(1 if worst == "fault" else 0)


@click.group()
def debug() -> None:
    """Collect what somebody else needs to see what is wrong on this host."""


@debug.command()
@config_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file; '-' is stdout. Default: in this folder.",
)
@click.option("--max-mib", type=click.IntRange(1, 192), default=192, show_default=True, help="Of all parts, unpacked.")
@output_option
def dump(config: Path, out: Path | None, max_mib: int, output: str) -> None:
    """Write one tar.gz with all that is known of this host, secrets removed. Works with everything else dead.

    In it: doctor's findings, versions, settings, status, certificates without keys, what is compiled, limits, clock,
    units and the end of their journals, Envoy's configuration and figures, names and rules. index.json lists every
    part, and why it is missing where it is. What looks like a secret, is called like one, or is one that this host
    holds, is removed; look through it before it leaves your hands all the same. Nobody else may read the file (0600).

    \b
    Examples:
      sudo holdfast-agent debug dump
      ssh root@web-1 holdfast-agent debug dump --out - > web-1.tar.gz
      sudo holdfast-agent debug dump --out /root/web-1.tar.gz -o json | jq '.parts[] | select(.state != "ok")'
    """
    from agent.doctor import archive
    from agent.doctor.parts import Source

    _quiet()
    source, now = Source(config, time.time), time.time()
    name = f"holdfast-{source.node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    target = out or Path(f"{name}.tar.gz")
    about, total = {"name": name, "node": source.node, "created": now}, max_mib * 2**20
    if str(target) == "-":
        archive.pack(sys.stdout.buffer, source.parts(), source.secrets(), about, _collecting, total)
        return
    try:
        index = archive.write(target, source.parts(), source.secrets(), about, _collecting, total)
    except FileExistsError as exc:
        raise click.ClickException(f"{target} is there already; name another with --out") from exc
    except OSError as exc:
        raise click.ClickException(f"{target} cannot be written: {exc.strerror}; name another with --out") from exc
    if output == "json":
        click.echo(json.dumps({**index, "file": str(target)}, indent=2))
        return
    for part in index["parts"]:
        if part["state"] != "ok":
            click.echo(f"{part['state']}: {part['file']}: {part['reason']}", err=True)
    click.echo(f"{target}: {target.stat().st_size / 1024:.0f} KiB, {len(index['parts'])} parts")


def _collecting(file: str) -> None:
    click.echo(f"collecting {file}", err=True)
