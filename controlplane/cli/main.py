"""The `holdfast` command: the table of its commands. None of them is imported before it is called."""

import importlib
from typing import NamedTuple

import click

from controlplane.cli.errors import CliError, Exit


class Row(NamedTuple):
    where: str
    """`module:attribute`."""
    help: str


HERE = "controlplane.cli."
COMMANDS: dict[str, Row] = {
    "init": Row(HERE + "init:init", "Set up a new mesh: etcd's certificates, then the mesh itself."),
    "token": Row(HERE + "token:token", "Make tokens with which hosts join."),
    "operator": Row(HERE + "operator:operator", "Make, list and end the tokens of operators."),
    "dist": Row(HERE + "dist:dist", "Make and check the folder from which hosts install."),
    "apply": Row(HERE + "apply:apply", "Write objects from files, all of them in one transaction."),
    "plan": Row(HERE + "plan:plan", "Show what objects from files would change in which proxies."),
    "explain": Row(HERE + "explain:explain", "Tell what becomes of a call between two services, and why."),
    "get": Row(HERE + "get:get", "List objects, or show one."),
    "describe": Row(HERE + "describe:describe", "Show an object and what belongs to it."),
    "delete": Row(HERE + "delete:delete", "Delete objects."),
    "watch": Row(HERE + "watch:watch", "Show changes as they happen."),
    "history": Row(HERE + "history:history", "Show who changed what, and when."),
    "status": Row(HERE + "status:status", "Show the state of the mesh and its control plane."),
    "proxy": Row(HERE + "proxy:proxy", "Show what the proxies have applied and hold."),
    "peering": Row(HERE + "peering:peering", "Make and keep peerings with other clusters."),
    "node": Row(HERE + "node:node", "Take a host out of service, and put it back."),
    "backup": Row(HERE + "backup:backup", "Save the mesh's state to a file."),
    "restore": Row(HERE + "backup:restore", "Put a saved state back."),
    "debug": Row(HERE + "debug:debug", "Collect what somebody else needs to see what is wrong."),
    "doctor": Row(HERE + "doctor:doctor", "Find out what is wrong with the way to the mesh, and in it."),
    "demo": Row(HERE + "demo:demo", "Run a whole mesh on this machine, or check one end to end."),
    "version": Row(HERE + "version:version", "Show versions."),
}


def paragraphs(command: click.Command) -> click.Command:
    """Click keeps the lines of a paragraph that begins with a backspace character; raw docstrings spell it in two."""
    if command.help:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            paragraphs(inner)
    return command


class Lazy(click.Group):
    """A group that imports a command when it is called, and prints its own help from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base class names it
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, attribute = row.where.split(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return paragraphs(found)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `holdfast {near[0]}`?" if near else "`holdfast --help` lists them"
            raise CliError(f"no command is called {args[0]!r}", code=Exit.USAGE, hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    r"""Operate a Holdfast mesh.

    \b
    Where the control plane is and who you are, first found wins:
      flags         --addr HOST:PORT[,HOST:PORT]  --token-file FILE  --ca FILE
      environment   HOLDFAST_ADDR, HOLDFAST_TOKEN or HOLDFAST_TOKEN_FILE,
                    HOLDFAST_CA, HOLDFAST_NAMESPACE, HOLDFAST_CONTEXT
      config file   ~/.config/holdfast/config.yaml (or $HOLDFAST_CONFIG):
                      current: prod
                      contexts:
                        prod:
                          addresses: [cp1.example:8443, cp2.example:8443]
                          tokenFile: ~/.config/holdfast/prod.token
                          ca: ~/.config/holdfast/prod-ca.pem
                          namespace: shop

    \b
    Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, or (--wait) not in
                force everywhere, 4 conflict, 5 refused (violations, not
                permitted), 6 unreachable.
    """


paragraphs(main)

if __name__ == "__main__":
    main()
