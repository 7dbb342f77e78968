"""Metrics and health checks, over HTTP as Prometheus and Kubernetes ask."""

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosocketserver.deploy.snapshots import BUCKETS, Durations, Snapshot
from aiosocketserver.requests.statistics import RequestEnd
from tests.deploy_support import Command, ask, get, metrics, receive_all, serving_application

ARGUMENTS = ("--bind", "tcp://127.0.0.1:0", "--metrics", "127.0.0.1:0")


def port_of_metrics(command: Command) -> int:
    (line,) = [line for line in command.lines if "metrics and health on" in line]
    return int(line.rpartition(":")[2])


def test_they_are_what_the_clients_did(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Echo", *ARGUMENTS) as command:
        port = port_of_metrics(command)
        with socket.create_connection(("127.0.0.1", command.ports[0])) as client:
            client.sendall(b"hello\n")
            assert client.recv(6) == b"hello\n"
            samples = metrics(port)
            assert samples["requests_active"] == 1
            assert samples["requests_total"] == 1
        for _ in range(9):
            ask(command.ports[0], b"hello\n")
        samples = metrics(port)
        assert samples["requests_total"] == 10
        assert samples["requests_active"] == 0
        assert samples["received_bytes_total"] == samples["sent_bytes_total"] == 60
        assert samples["handlers_failed_total"] == 0
        assert samples["request_seconds_count"] == 10
        assert samples['request_seconds_bucket{le="+Inf"}'] == 10
        assert 0 < samples["request_seconds_sum"] < 60
        assert command.end() == 0


def test_readiness_ends_when_the_service_drains(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Waits", *ARGUMENTS) as command:
        port = port_of_metrics(command)
        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/readyz") == (200, "ready\n")
    arguments = ("application:Stuck", *ARGUMENTS, "--shutdown-timeout", "20")
    with serving_application(tmp_path, *arguments) as command:
        port = port_of_metrics(command)
        with socket.create_connection(("127.0.0.1", command.ports[0])) as client:
            assert client.recv(6) == b"begun\n"
            command.process.send_signal(signal.SIGTERM)
            command.until("SIGTERM: draining")
            while get(port, "/readyz") != (503, "not ready\n"):
                pass
            assert get(port, "/healthz") == (200, "alive\n")
            assert metrics(port)["requests_active"] == 1


def test_other_requests_are_answered_properly(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Echo", *ARGUMENTS) as command:
        port = port_of_metrics(command)
        assert get(port, "/nothing")[0] == 404
        assert get(port, "/readyz?x=1")[0] == 200

        def exchange(request: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                return receive_all(sock)

        # Two on one connection, the second without a body.
        answer = exchange(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nHEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert answer.count(b"Content-Length: 6\r\n") == 2
        assert answer.count(b"alive\n") == 1
        assert exchange(b"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n").startswith(
            b"HTTP/1.1 405 Method Not Allowed\r\n"
        )
        assert exchange(b"rubbish\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert exchange(b"") == b""
        assert get(port, "/healthz") == (200, "alive\n")
        assert command.end() == 0
        assert not [line for line in command.lines if "ERROR" in line]


def test_curl_agrees(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    curl = require_program("curl")
    with serving_application(tmp_path, "application:Echo", *ARGUMENTS) as command:
        port = port_of_metrics(command)
        url = f"http://127.0.0.1:{port}"
        done = subprocess.run(
            [curl, "-sfi", f"{url}/readyz", f"{url}/metrics"], capture_output=True, check=True
        )
        assert b"ready\n" in done.stdout
        assert b"aiosocketserver_requests_total 0.0" in done.stdout


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    from tests.deploy_support import refused

    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        (line,) = refused(
            tmp_path, "application:Echo", "--bind", "tcp://127.0.0.1:0", "--metrics", place
        )
    assert f"cannot bind to tcp://{place}: somebody else listens there" in line


# --- counting ---


def end(seconds: float) -> RequestEnd:
    return RequestEnd(("127.0.0.1", 1), 1, seconds, "finished", None, None)


def test_durations_are_in_the_bucket_whose_limit_they_reach() -> None:
    durations = Durations()
    for seconds in (0.0, 0.001, 0.0011, 60.0, 61.0):
        durations(end(seconds))
    assert durations.buckets[0] == 2
    assert durations.buckets[1] == 1
    assert durations.buckets[len(BUCKETS) - 1] == 1
    assert durations.buckets[len(BUCKETS)] == 1
    assert durations.seconds == pytest.approx(121.0021)


def test_snapshots_add_up_and_survive_the_way_between_processes() -> None:
    durations = Durations()
    durations(end(0.5))
    one = Snapshot.of([], durations)
    one.active = 2
    one.counters["accepted"] = 3
    one.refused["max_connections_per_host"] = 4
    other = Snapshot.from_json(one.to_json())
    assert other == one
    total = Snapshot.total([one, other])
    assert (total.active, total.counters["accepted"], total.seconds) == (4, 6, 1.0)
    assert total.refused == {"max_connections_per_host": 8}
    assert sum(total.buckets) == 2
