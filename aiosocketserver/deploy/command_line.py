"""The command `aiosocketserver`: settings from flags, variables and a file."""

from __future__ import annotations

import logging
import os
from typing import Any

import click
from click.core import ParameterSource

from ..compiled import CORE
from ..migrate.command import migrate
from ..version import __version__
from .ending import Ending, leave
from .errors import StartError, report, report_crash
from .exits import CANNOT_START, exit_code
from .log_lines import LineFormatter
from .log_output import take_over, tell
from .running import serve as serve_target
from .settings import (
    ACCESS_LOGS,
    LOOPS,
    Setting,
    Settings,
    default_binds,
    read_file,
    server_options,
)
from .standard_streams import open_standard_streams
from .variables import check_variables, variable_of

_LOG_LEVELS = ("debug", "info", "warning", "error")

_LOG_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(message)s"

_OPTIONS = server_options()


class _OptionType(click.ParamType):  # type: ignore[type-arg] # generic since 8.2 only
    """The value of one option of the servers."""

    def __init__(self, option: Setting) -> None:
        self.option = option
        self.name = option.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.option.check(self.option.read(value) if isinstance(value, str) else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Workers(click.ParamType):  # type: ignore[type-arg]
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto":
            return _processors()
        try:
            return int(value)
        except ValueError:
            self.fail(f"it must be a number above 0, or auto, and is {value!r}", param, ctx)


def _processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _flag(option: Setting) -> click.Option:
    """The flag for an option of the servers."""
    dashed = f"--{option.name.replace('_', '-')}"
    described = f"{option.description[:1].upper()}{option.description[1:]}"
    text = f"{described}. [{option.shown_default}]"
    if option.is_flag:
        return click.Option([f"{dashed}/--no-{dashed[2:]}"], default=None, help=text)
    if option.choices:
        return click.Option([dashed], type=click.Choice(option.choices), help=text)
    if option.is_list:
        return click.Option([dashed], multiple=True, metavar=option.metavar, help=text)
    return click.Option([dashed], type=_OptionType(option), help=text)


class _ServeCommand(click.Command):
    """Shows the options of the servers apart from those of the service."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        service: list[tuple[str, str]] = []
        servers: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                (servers if param.name in _OPTIONS else service).append(record)
        with formatter.section("Service"):
            formatter.write_dl(service)
        with formatter.section("Servers"):
            formatter.write_dl(servers)


def _setting_names(command: click.Command) -> set[str]:
    return {param.name for param in command.params if param.name and param.name != "target"}


def _read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    if path is not None:
        lists = {p.name for p in ctx.command.params if p.name and getattr(p, "multiple", False)}
        ctx.default_map = read_file(path, _setting_names(ctx.command) - {"config"}, lists)
    return path


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(f"{__version__} ({CORE})")
def cli() -> None:
    """Servers from handler classes."""


@cli.command(
    cls=_ServeCommand,
    epilog="Each option is a variable too, as AIOSOCKETSERVER_MAX_CONNECTIONS for "
    "--max-connections, and a key of the TOML file. The command line comes first, "
    "then the variables, then the file. 'none' stands for no limit.",
)
@click.argument("target")
@click.option(
    "--bind",
    multiple=True,
    metavar="URL",
    help="Where to listen: tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, unix://PATH, "
    "unix-dgram://PATH, fd://NUMBER or systemd://NAME; may be given several times. "
    "[what systemd passes, else tcp://127.0.0.1:9999]",
)
@click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    callback=_read_config,
    help="A TOML file with settings.",
)
@click.option(
    "--workers",
    type=_Workers(),
    default=1,
    help="Processes that serve, or auto: one for each processor. [1]",
)
@click.option(
    "--loop",
    type=click.Choice(LOOPS),
    default="auto",
    help="The event loop; auto takes uvloop where it is installed. [auto]",
)
@click.option("--certfile", metavar="FILE", help="The certificate for tls, PEM.")
@click.option(
    "--keyfile",
    metavar="FILE",
    help="Its key, when it is not in the same file.",
)
@click.option(
    "--client-ca-file",
    metavar="FILE",
    help="The authorities that a client's certificate has to come from. [clients need none]",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Where to serve /metrics for Prometheus, /healthz and /readyz. [nowhere]",
)
@click.option(
    "--access-log",
    type=click.Choice(ACCESS_LOGS),
    default="off",
    help="A line for each request that has ended, on standard output. [off]",
)
@click.option(
    "--log-level",
    type=click.Choice(_LOG_LEVELS),
    default="info",
    help="What goes to standard error. [info]",
)
@click.option(
    "--worker-timeout",
    type=float,
    default=30.0,
    help="Seconds without a sign of life after which a worker is replaced. [30]",
)
@click.option(
    "--start-timeout",
    type=float,
    default=60.0,
    help="Seconds from the start of a worker until it has to serve, after which it is killed and "
    "started again. [60]",
)
@click.option(
    "--drain-delay",
    type=float,
    default=0.0,
    help="Seconds from SIGTERM on in which it goes on accepting, but is not ready, so that load "
    "balancers hear of the end first. [0]",
)
@click.pass_context
def serve(
    ctx: click.Context, /, target: str, log_level: str, bind: tuple[str, ...], **given: Any
) -> None:
    """Serve TARGET, which is module:Name or path/to/file.py:Name.

    It names a handler class, or a server class or factory that is called with an
    address and options. SIGTERM and Ctrl-C let the requests in progress finish, a
    second one ends them; SIGHUP reloads.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(_LOG_FORMAT))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    # To the very end of the process.
    take_over()
    check_variables(os.environ, _setting_names(ctx.command))
    del given["config"]
    options = {
        name: given.pop(name)
        for name in _OPTIONS
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    service = {name: value for name, value in given.items() if name not in _OPTIONS}
    settings = Settings(binds=bind or default_binds(), options=options, **service)
    ctx.exit(serve_target(target, settings, ctx.ensure_object(Ending)))


cli.add_command(migrate)
serve.params += map(_flag, _OPTIONS.values())
for _param in serve.params:
    if isinstance(_param, click.Option) and _param.name:
        _param.envvar = variable_of(_param.name)


def main() -> None:
    """Run the command, and exit."""
    open_standard_streams()
    ending = Ending()
    try:
        code = cli.main(prog_name="aiosocketserver", standalone_mode=False, obj=ending)
    except click.ClickException as error:
        tell(f"aiosocketserver: {error.format_message()}\n")
        code = CANNOT_START
    except StartError as error:
        report(error)
        code = CANNOT_START
    except click.Abort:
        code = 130
    except SystemExit as exit_:
        # Of a task that a handler has made, which asyncio raises out of the loop.
        code = exit_code(exit_)
    except BaseException as error:  # noqa: BLE001 - reported as the interpreter would
        report_crash(error)
        code = 1
    leave(code or 0, ending)
