"""The command `aiosocketserver migrate`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click


@click.command(
    epilog="Exit code: 0 when no legacy handler is left, 1 when some are, 2 when something could "
    "not be read or written."
)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option(
    "--diff/--write",
    "show",
    default=True,
    help="Show the changes on standard output, or make them. [--diff]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Convert also handlers with calls that stop the loop, which are told all the same.",
)
@click.pass_context
def migrate(ctx: click.Context, /, paths: tuple[Path, ...], show: bool, force: bool) -> None:
    """Rewrite handlers made for socketserver as coroutine handlers.

    PATH is a file, or a folder in which all files *.py are meant. What cannot be proved
    to be right is left as it is, and told with its line and the way out.
    """
    if importlib.util.find_spec("libcst") is None:
        raise click.ClickException("migrate needs more: pip install 'aiosocketserver[migrate]'")
    from .running import run

    ctx.exit(run(paths, write=not show, force=force))
