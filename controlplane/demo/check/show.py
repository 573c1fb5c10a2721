"""A report for people."""

from controlplane.demo.check.result import Report


def lines(report: Report) -> list[tuple[str, str, str]]:
    """Rows of (step, what, figure). Pure."""
    rows = []
    for step in report.steps:
        rows.append((str(step.number), step.title, f"{'ok' if step.ok else 'FAIL'} ({step.seconds:g} s)"))
        rows += [("", f"  {name}", str(value)) for name, value in step.figures.items()]
        rows += [("", "  FAILED", failure) for failure in step.failures]
    return rows


def show(report: Report) -> None:
    """The table on stdout, then the verdict; the logs' ends only when something failed."""
    import click

    from controlplane.cli.output import table

    table(["STEP", "WHAT", "FOUND"], lines(report))
    click.echo("")
    for name, fact in report.facts.items():
        click.echo(f"{name}: {fact}")
    failed = [str(step.number) for step in report.steps if not step.ok]
    verdict = f"FAILED: step {', '.join(failed)}" if failed else f"all {len(report.steps)} steps passed"
    for path, text in report.log_tails.items():
        click.echo(f"\n--- end of {path}\n{text}", err=True)
    click.echo(f"{verdict} in {report.seconds:g} s")
