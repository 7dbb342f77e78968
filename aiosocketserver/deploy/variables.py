"""The environment variables that settings come from, and others with the same prefix."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Mapping

from .errors import StartError

logger = logging.getLogger("aiosocketserver.deploy")

PREFIX = "AIOSOCKETSERVER_"

# Those of compat, of the compiled core and of this project's tests.
_OTHERS = frozenset({"BUILD", "GREENLETS", "NATIVE", "REQUIRE_ALL"})

# What Kubernetes, and Docker's links, set in a container for a service that is called
# aiosocketserver, or aiosocketserver-something.
_OF_A_CLUSTER = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?|ENV_\w+)"
)
_LINK = ("tcp://", "udp://", "sctp://")

# How much of a name has to be right for it to be a misspelt setting, and for a guess.
_MISSPELT = 0.88
_GUESS = 0.7


def variable_of(setting: str) -> str:
    """The variable that a setting is read from."""
    return PREFIX + setting.upper()


def check_variables(environment: Mapping[str, str], settings: Collection[str]) -> None:
    """Raise StartError for a misspelt setting; log a warning of others that are ignored."""
    known = {name.upper() for name in settings}
    ours = {v.removeprefix(PREFIX): t for v, t in environment.items() if v.startswith(PREFIX)}
    ignored: list[str] = []
    for name in sorted(ours.keys() - known - _OTHERS):
        if _is_of_a_cluster(name, ours[name]):
            continue
        likeness, meant = max((_likeness(name, each), each) for each in known)
        if likeness >= _MISSPELT:
            raise StartError(
                f"the variable {PREFIX}{name} is no setting: did you mean {PREFIX}{meant}?"
            )
        hint = f" (like {PREFIX}{meant}?)" if likeness >= _GUESS else ""
        ignored.append(f"{PREFIX}{name}{hint}")
    if ignored:
        logger.warning(
            "ignored, for they are no settings: %s; aiosocketserver serve --help has them all",
            ", ".join(ignored),
        )


def _likeness(one: str, other: str) -> float:
    """From 0 to 1; underscores do not count."""
    return difflib.SequenceMatcher(None, one.replace("_", ""), other.replace("_", "")).ratio()


def _is_of_a_cluster(name: str, value: str) -> bool:
    if _OF_A_CLUSTER.fullmatch(name):
        return True
    kind = name.rpartition("_")[2]
    # Docker's name of a link is a path.
    return (kind == "PORT" and value.startswith(_LINK)) or (kind == "NAME" and value[:1] == "/")
