"""The settings of a service, from wherever they come, checked before anything is bound."""

from __future__ import annotations

import difflib
import importlib.util
import json
import tomllib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, cast, get_args, get_origin

from ..options.of_classes import Known, options_of
from ..servers.certificates import CertificateFiles
from ..servers.datagram import UDPServer
from ..servers.in_children import ForkingMixIn
from ..servers.in_threads import ThreadingMixIn
from ..servers.stream import TCPServer
from .binds import Bind, systemd_sockets
from .errors import StartError

DEFAULT_BIND = "tcp://127.0.0.1:9999"


def default_binds() -> tuple[str, ...]:
    """Where a service listens that was not told: on what systemd has passed, if it has."""
    return ("systemd://",) if systemd_sockets() else (DEFAULT_BIND,)


# Seconds between two signs of life of a worker.
BEAT = 1.0

LOOPS = ("auto", "asyncio", "uvloop")

ACCESS_LOGS = ("off", "text", "json")

# What an option is under a service when nobody has set it.
_DEFAULTS = {"end_when_draining": True}


@dataclass(frozen=True)
class Setting:
    """One option of the servers, as a setting."""

    name: str
    hint: Any
    default: Any
    description: str
    known: Known

    @property
    def is_flag(self) -> bool:
        """Whether it is True or False."""
        return bool in self._types

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return get_origin(self.hint) is not None and get_args(self.hint) == (str,)

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that there are, where they are words."""
        return get_args(self.hint) if get_origin(self.hint) is Literal else ()

    @property
    def shown_default(self) -> str:
        """The default, as it would be written."""
        if self.default is None:
            return "none"
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        if self.is_list:
            return " ".join(self.default) or "none"
        return f"{self.default:g}" if isinstance(self.default, float) else f"{self.default}"

    @property
    def metavar(self) -> str:
        """What its value is called in a help text."""
        kinds = set(self._types)
        if self.is_list:
            return "network"
        if self.name == "unix_mode":
            return "mode"
        return "seconds" if float in kinds else "name" if str in kinds else "number"

    @property
    def optional(self) -> bool:
        """Whether it can be None, written `none`."""
        return type(None) in self._types

    @property
    def _types(self) -> tuple[Any, ...]:
        if get_origin(self.hint) in (Union, types.UnionType):
            return get_args(self.hint)
        return (self.hint,)

    def read(self, text: str) -> Any:
        """The value that a text stands for. Raises ValueError when it stands for none."""
        if self.optional and text.lower() == "none":
            return None
        if self.name == "unix_mode":
            return int(text, 8)
        for kind in (int, float):
            if kind in self._types:
                try:
                    return kind(text)
                except ValueError:
                    continue
        if str in self._types or self.choices:
            return text
        raise ValueError(f"{text!r} is not a number")

    def check(self, value: Any) -> Any:
        """The value. Raises ValueError, which says what would be right, when it makes no sense."""
        wanted = self.known.wrong(value)
        if wanted is not None:
            raise ValueError(f"it must be {wanted}, and is {value!r}")
        return value


def options_and_defaults() -> dict[str, tuple[Known, Any]]:
    """Every option that a server can have, by name, with the default that is shown."""
    found: dict[str, tuple[Known, Any]] = {}
    # Of an option that several classes have, the default of the last one.
    for cls in (UDPServer, ForkingMixIn, ThreadingMixIn, TCPServer):
        found |= {name: (known, getattr(cls, name)) for name, known in options_of(cls).items()}
    return found


def server_options() -> dict[str, Setting]:
    """Every option of the servers that a service has, by name."""
    return {
        name: Setting(
            name,
            known.hint,
            _DEFAULTS.get(name, default),
            known.option.help.partition(";")[0].replace("`", ""),
            known,
        )
        for name, (known, default) in sorted(options_and_defaults().items())
        if known.option.setting
    }


@dataclass(frozen=True)
class Settings:
    """How a service runs. Checked when it is made: raises StartError."""

    binds: Sequence[str] = (DEFAULT_BIND,)
    """Where it listens: see `Bind`."""

    workers: int = 1
    """Processes that serve."""

    loop: str = "auto"
    """`asyncio`, `uvloop`, or `auto`: uvloop where it is installed."""

    certfile: str | None = None
    """The certificate for encrypted binds, PEM."""

    keyfile: str | None = None
    """Its key, when it is not in the same file."""

    client_ca_file: str | None = None
    """The authorities that a client's certificate has to come from, if it needs one."""

    metrics: str | None = None
    """`host:port` for metrics and health checks."""

    access_log: str = "off"
    """A line for each request that has ended: `text`, `json` or `off`."""

    worker_timeout: float = 30.0
    """Seconds without a sign of life after which a worker is killed and replaced."""

    start_timeout: float = 60.0
    """Seconds from the start of a worker until it has to serve; one that takes longer is killed,
    and started again."""

    drain_delay: float = 0.0
    """Seconds from the signal to stop in which it goes on accepting and is not ready any more,
    so that load balancers hear of the end first."""

    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the servers."""

    certificates: CertificateFiles | None = field(init=False, default=None)
    """What encrypted binds use."""

    def __post_init__(self) -> None:
        chosen_loop(self.loop)
        _check_choice("access_log", self.access_log, ACCESS_LOGS)
        if self.workers < 1:
            raise StartError(f"workers must be a number above 0, and is {self.workers!r}")
        if self.worker_timeout < 2 * BEAT:
            raise StartError(
                f"worker_timeout must be {2 * BEAT:g} seconds or more, because a worker gives a "
                f"sign of life each {BEAT:g}, and is {self.worker_timeout!r}"
            )
        if not self.start_timeout > 0:
            raise StartError(
                f"start_timeout must be a number of seconds above 0, and is {self.start_timeout!r}"
            )
        if self.drain_delay < 0:
            raise StartError(f"drain_delay must be 0 seconds or more, and is {self.drain_delay!r}")
        known = server_options()
        for name, value in self.options.items():
            if name not in known:
                raise StartError(f"there is no option {name!r}{_hint(name, known)}")
            try:
                known[name].check(value)
            except ValueError as error:
                raise StartError(f"{name}: {error}") from None
        self._check_tls()
        if self.certfile is not None:
            # Here, for the target may change the working directory when it is imported.
            certificates = CertificateFiles(
                self.certfile, self.keyfile, client_ca_file=self.client_ca_file
            )
            object.__setattr__(self, "certificates", certificates)
        limit = self.options.get("max_connections")
        if limit is not None and limit < self.workers:
            raise StartError(
                f"max_connections is for all workers together: {limit} are too few for "
                f"{self.workers} workers"
            )

    def _check_tls(self) -> None:
        encrypted = [bind.text for bind in self.parsed_binds() if bind.encrypted]
        if encrypted and self.certfile is None:
            raise StartError(f"{encrypted[0]} is encrypted, and needs a certfile")
        for name in ("certfile", "keyfile", "client_ca_file"):
            if getattr(self, name) is not None and not encrypted:
                raise StartError(f"a {name} is given, and no bind is encrypted: tls://host:port is")

    def parsed_binds(self) -> list[Bind]:
        """The binds, read."""
        return [Bind.parse(text) for text in self.binds]


def chosen_loop(setting: str) -> str:
    """`uvloop` or `asyncio`, for what the setting `loop` says.

    Raises StartError for anything else, and for uvloop where it is not installed.
    """
    _check_choice("loop", setting, LOOPS)
    installed = importlib.util.find_spec("uvloop") is not None
    if setting == "auto":
        return "uvloop" if installed else "asyncio"
    if setting == "uvloop" and not installed:
        raise StartError("the loop is to be uvloop, which is not installed: pip install uvloop")
    return setting


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise StartError(f"{name} must be one of {', '.join(choices)}, and is {value!r}")


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _check_list(path: str, name: str, value: object) -> None:
    if isinstance(value, str):
        right = json.dumps(value, ensure_ascii=False)
        raise StartError(f"{path}: {name!r} is a list: write {name} = [{right}]")
    texts = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise StartError(f"{path}: {name!r} must be a list of texts, and is {value!r}")


def read_file(path: str, known: Collection[str], lists: Collection[str]) -> dict[str, Any]:
    """The settings in a TOML file, of which some are `lists`.

    Raises StartError, for a name that is not `known` too.

    Names may be written with dashes, as on the command line.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise StartError(f"the file of settings cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{path} is no TOML: {error}") from error
    settings = {name.replace("-", "_"): value for name, value in table.items()}
    for name, value in settings.items():
        if name not in known:
            raise StartError(f"{path}: there is no setting {name!r}{_hint(name, known)}")
        if isinstance(value, dict):
            raise StartError(f"{path}: {name!r} is a table, and settings have none")
        if name in lists:
            _check_list(path, name, value)
    return settings
