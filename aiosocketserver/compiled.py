"""Which core runs: the compiled one (`native/`), or the same in Python. Chosen once, here.

All or nothing, for the whole process: AIOSOCKETSERVER_NATIVE=0 takes Python's, =1 raises
ImportError where there is no compiled one, and without it the compiled one runs where there is.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

VARIABLE = "AIOSOCKETSERVER_NATIVE"

# In a checkout: they may be newer than what was built of them.
_SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "native")


def _load() -> ModuleType | None:
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", "0", "1"):
        raise ImportError(
            f"{VARIABLE} must be 1 for the compiled core, or 0 for the one in Python, "
            f"and is {chosen!r}"
        )
    if chosen == "0":
        return None
    try:
        module = importlib.import_module("._native", __package__)
    except ModuleNotFoundError:
        if chosen == "1":
            raise ImportError(
                f"{VARIABLE}=1, and the compiled core is not installed: "
                "AIOSOCKETSERVER_BUILD=native makes the installation say why"
            ) from None
        return None
    if os.path.isdir(_SOURCES):
        _check(module)
    return module


def _check(module: ModuleType) -> None:
    from .compiled_sources import checksum

    if checksum(_SOURCES) != module.CHECKSUM:
        raise ImportError(
            f"the compiled core was built of other sources than those in {_SOURCES}: "
            f"run `make native` there, or set {VARIABLE}=0"
        )


native = _load()

# What `--version` and the first line of a service say.
CORE = "core in Python" if native is None else "compiled core"
