"""`holdfast version`."""

import click

from controlplane.cli.options import output


@click.command()
@output("table", "json", "yaml")
def version(form: str) -> None:
    r"""Show the versions of Holdfast and of what it stands on here.

    \b
    Examples:
      holdfast version
      holdfast version -o json
    """
    import platform
    from importlib.metadata import version as installed

    found = {"holdfast": installed("holdfast"), "python": platform.python_version()}
    if form == "table":
        click.echo("\n".join(f"{name} {value}" for name, value in found.items()))
        return
    from controlplane.cli.output import emit

    emit(found, form)
