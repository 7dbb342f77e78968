"""The compiled programs of the benchmarks, built on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).resolve().parent


def give_up(message: str) -> NoReturn:
    raise SystemExit(f"benchmarks: {message}")


@dataclass(frozen=True)
class Programs:
    """Where the programs are. `go` is None without a Go toolchain."""

    load: str
    epoll: str
    go: str | None
    # Whether the load can be encrypted.
    tls: bool


def build(folder: Path) -> Programs:
    """Compile the load generator and the servers into `folder`."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        give_up(
            f"the load generator is written in C, and there is no compiler {compiler!r}: "
            "install one (gcc or clang), or name it in the environment variable CC"
        )
    load, epoll = str(folder / "load"), str(folder / "epoll")
    sources = sorted(map(str, (FOLDER / "load").glob("*.c")))
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o"]
    _run([*command, epoll, str(FOLDER / "servers" / "epoll.c")])
    tls = has_openssl(compiler)
    _run([*command, load, *sources, "-lm", *(["-DTLS", "-lssl", "-lcrypto"] if tls else [])])
    go = None
    if shutil.which("go") is not None:
        go = str(folder / "echo")
        _run(["go", "build", "-o", go, str(FOLDER / "servers" / "go" / "main.go")])
    return Programs(load, epoll, go, tls)


def has_openssl(compiler: str) -> bool:
    """Whether the headers and libraries of OpenSSL are there (Debian: libssl-dev)."""
    program = b"#include <openssl/ssl.h>\nint main(void) { return TLS_client_method() == 0; }\n"
    command = [compiler, "-x", "c", "-", "-o", os.devnull, "-lssl", "-lcrypto"]
    return not subprocess.run(command, input=program, capture_output=True, check=False).returncode


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        give_up(f"{' '.join(command)} failed:\n{done.stderr}")
