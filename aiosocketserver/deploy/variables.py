"""The environment variables that settings come from, and those that only look like one."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Mapping

from .errors import StartError

logger = logging.getLogger("aiosocketserver.deploy")

PREFIX = "AIOSOCKETSERVER_"

# Of compat, and of this project's tests.
_OTHERS = frozenset({"GREENLETS", "LOOP", "REQUIRE_ALL"})

# What Kubernetes and Docker's links set in a container for a service that is called
# aiosocketserver, or aiosocketserver-something.
_OF_A_CLUSTER = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_LINK = re.compile(r"(?:tcp|udp|sctp)://")

# How much of a name has to be right for it to be a misspelt one.
_CLOSE = 0.8


def variable_of(setting: str) -> str:
    """The variable that a setting is read from."""
    return PREFIX + setting.upper()


def check_variables(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Raise StartError for a misspelt variable; log a warning for others with our prefix."""
    known = {variable_of(name) for name in settings} | {PREFIX + name for name in _OTHERS}
    unknown: list[str] = []
    for variable, value in sorted(environment.items()):
        if (
            not variable.startswith(PREFIX)
            or variable in known
            or _is_of_a_cluster(variable, value)
        ):
            continue
        close = difflib.get_close_matches(variable.removeprefix(PREFIX), _short(known), 1, _CLOSE)
        if close:
            raise StartError(
                f"the variable {variable} is no setting: did you mean {PREFIX}{close[0]}?"
            )
        unknown.append(variable)
    if unknown:
        logger.warning(
            "variables that are no settings, and change nothing: %s "
            "(aiosocketserver serve --help has all settings)",
            ", ".join(unknown),
        )


def _short(variables: Collection[str]) -> list[str]:
    return sorted(variable.removeprefix(PREFIX) for variable in variables)


def _is_of_a_cluster(variable: str, value: str) -> bool:
    name = variable.removeprefix(PREFIX)
    if _OF_A_CLUSTER.fullmatch(name):
        return True
    return (name == "PORT" or name.endswith("_PORT")) and _LINK.match(value) is not None
