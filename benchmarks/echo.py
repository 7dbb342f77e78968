"""Measure lock-step echo here against what others do: requests/s and CPU time a request.

Two servers do the same, each in a process of its own, measured in turns so that a
machine that slows down slows both. Coroutine handlers against `asyncio.start_server`,
on the same event loop:

- lines: `async for line in rfile` and `wfile.write`; `readline`, `write`, `drain`
- blocks: `request.recv` and `request.sendall`; `read`, `write`, `drain`

Legacy handlers on compat's ThreadingTCPServer against socketserver's:

- threads: `request.recv` and `request.sendall`, connections that last
- connects: the same once, a connection for each request

The load comes from load.c, compiled on demand, which checks every byte of every answer.
With two CPUs or more, servers run on one and the load on another. Linux only.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

FOLDER = Path(__file__).resolve().parent
LOOPS = ("asyncio", "uvloop")

# Who does the same elsewhere, by way. All as echo_servers.py knows them.
HERE = "aiosocketserver"
THERE = {
    "lines": "asyncio streams",
    "blocks": "asyncio streams",
    "threads": "socketserver",
    "connects": "socketserver",
}

# Seconds of load before the first round: the interpreter specialises what runs often.
WARM_UP = 0.2


def give_up(message: str) -> NoReturn:
    sys.exit(f"benchmarks/echo.py: {message}")


def compile_load(folder: Path) -> Path:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        give_up(
            f"the load generator is written in C, and there is no compiler {compiler!r}: "
            "install one (gcc or clang), or name it in the environment variable CC"
        )
    program = folder / "load"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(FOLDER / "load.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        give_up(f"load.c could not be compiled:\n{done.stderr}")
    return program


@dataclass
class Server:
    """A server process, and what each round measured of it."""

    process: subprocess.Popen[str]
    port: str
    rates: list[float] = field(default_factory=list[float])
    cpu_times: list[float] = field(default_factory=list[float])

    def cpu_time(self) -> float:
        """Seconds, user and system, that the process has used."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def serve(self, load: list[str], seconds: float) -> tuple[int, float]:
        """Put it under load; the number of requests, and the seconds that they took."""
        program, connections, size, *more = load
        command = [program, self.port, connections, size, str(seconds), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            give_up(f"the load failed: {done.stderr.strip()}")
        requests, elapsed = done.stdout.split()
        return int(requests), float(elapsed)

    def measure(self, load: list[str], seconds: float) -> None:
        before = self.cpu_time()
        requests, elapsed = self.serve(load, seconds)
        self.rates.append(requests / elapsed)
        self.cpu_times.append((self.cpu_time() - before) / requests * 1e6)


def start_server(stack: ExitStack, which: str, how: str, loop: str, cpu: str) -> Server:
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(FOLDER / "echo_servers.py"), which, how, loop, cpu],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    # It ends with its input too, but would first wait for a client that hangs.
    stack.callback(process.kill)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        give_up(f"the server {which!r} did not start")
    return Server(process, port)


def pin() -> str:
    """Keep the load to one CPU, by way of this process, and return another for the servers."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("one CPU: servers and load share it, so only the CPU times tell anything")
        return ""
    os.sched_setaffinity(0, {cpus[-1]})
    return str(cpus[0])


def report(how: str, servers: dict[str, Server]) -> None:
    for which, server in servers.items():
        rate, cpu = statistics.median(server.rates), statistics.median(server.cpu_times)
        print(f"  {how:<10}{which:<18}{rate:>10,.0f}{cpu:>10.2f}")
    here, there = servers.values()
    # Of each round, because its two measurements were neighbours.
    rates = [a / b for a, b in zip(here.rates, there.rates, strict=True)]
    cpus = [b / a for a, b in zip(here.cpu_times, there.cpu_times, strict=True)]
    rate, cpu = statistics.median(rates), statistics.median(cpus)
    print(f"  {'':<10}{'ratio':<18}{rate:>10.2f}{cpu:>10.2f}")


def measure(program: Path, loop: str, cpu: str, arguments: argparse.Namespace) -> None:
    print(
        f"\n{loop}: {arguments.connections} connections, {arguments.size} bytes, "
        f"medians of {arguments.rounds} rounds of {arguments.seconds:g} s"
    )
    print(f"  {'':<10}{'':<18}{'requests/s':>10}{'cpu µs':>10}", flush=True)
    for how in arguments.ways:
        with ExitStack() as stack:
            servers = {
                which: start_server(stack, which, how, loop, cpu) for which in (HERE, THERE[how])
            }
            load = [str(program), str(arguments.connections), str(arguments.size)]
            if how == "connects":
                load.append("reconnect")
            turns = list(servers.values())
            for server in turns:
                server.serve(load, min(WARM_UP, arguments.seconds))
            for _ in range(arguments.rounds):
                for server in turns:
                    server.measure(load, arguments.seconds)
                turns.reverse()
            report(how, servers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round: %(default)s")
    parser.add_argument("--loops", default=",".join(LOOPS), help="%(default)s")
    parser.add_argument("--ways", default=",".join(THERE), help="%(default)s")
    parser.add_argument("--connections", type=int, default=10, help="%(default)s")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a message: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    arguments = parser.parse_args()
    loops = arguments.loops.split(",")
    if unknown := [loop for loop in loops if loop not in LOOPS]:
        parser.error(f"--loops: {unknown[0]!r} is not one of {', '.join(LOOPS)}")
    arguments.ways = arguments.ways.split(",")
    if unknown := [way for way in arguments.ways if way not in THERE]:
        parser.error(f"--ways: {unknown[0]!r} is not one of {', '.join(THERE)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, and is {arguments.rounds}")
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.1
    if sys.platform != "linux":
        give_up("the load generator uses epoll, so it needs Linux")
    with tempfile.TemporaryDirectory() as folder:
        load = compile_load(Path(folder))
        cpu = pin()
        print(f"Python {platform.python_version()}", flush=True)
        for loop in loops:
            if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
                print("\nuvloop: not installed")
                continue
            measure(load, loop, cpu, arguments)


if __name__ == "__main__":
    main()
