"""Where a run took place: machine, system and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "aiosocketserver",
    "uvloop",
    "aiofastnet",
    "gevent",
    "trio",
    "anyio",
    "tornado",
    "curio",
    "easynetwork",
)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return done.stdout.partition("\n")[0].strip()


def describe() -> dict[str, str]:
    """What a reader has to know to compare figures with their own."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{package: _version_of(package) for package in PACKAGES},
        "Go": _first_line("go", "version"),
        "C compiler": _first_line(os.environ.get("CC", "cc"), "--version"),
    }
