"""Environment variables with our prefix: settings, misspelt ones, and those of others."""

from pathlib import Path

import pytest

from tests.deploy_support import refused, serving_application

BIND = ("--bind", "tcp://127.0.0.1:0")

# As Kubernetes has them for the services aiosocketserver and aiosocketserver-metrics.
CLUSTER = {
    "AIOSOCKETSERVER_PORT": "tcp://10.0.171.239:80",
    "AIOSOCKETSERVER_PORT_80_TCP": "tcp://10.0.171.239:80",
    "AIOSOCKETSERVER_PORT_80_TCP_PROTO": "tcp",
    "AIOSOCKETSERVER_PORT_80_TCP_PORT": "80",
    "AIOSOCKETSERVER_PORT_80_TCP_ADDR": "10.0.171.239",
    "AIOSOCKETSERVER_SERVICE_HOST": "10.0.171.239",
    "AIOSOCKETSERVER_SERVICE_PORT": "80",
    "AIOSOCKETSERVER_SERVICE_PORT_ECHO": "80",
    "AIOSOCKETSERVER_METRICS_PORT": "udp://10.0.171.240:9100",
    "AIOSOCKETSERVER_METRICS_PORT_9100_UDP_ADDR": "10.0.171.240",
    "AIOSOCKETSERVER_METRICS_SERVICE_HOST": "10.0.171.240",
    "AIOSOCKETSERVER_METRICS_SERVICE_PORT": "9100",
}


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MAX_CONECTIONS", "MAX_CONNECTIONS"),
        ("BINDS", "BIND"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("IDLE_TIME_OUT", "IDLE_TIMEOUT"),
        ("CONFIGS", "CONFIG"),
        ("MAXCONNECTIONS", "MAX_CONNECTIONS"),
    ],
)
def test_a_misspelt_variable_is_an_error(variable: str, meant: str, tmp_path: Path) -> None:
    environment = {f"AIOSOCKETSERVER_{variable}": "1"}
    (line,) = refused(tmp_path, "application:Echo", *BIND, environment=environment)
    assert line == (
        f"aiosocketserver: the variable AIOSOCKETSERVER_{variable} is no setting: did you mean "
        f"AIOSOCKETSERVER_{meant}?"
    )


def test_variables_of_others_are_none_of_ours(tmp_path: Path) -> None:
    environment = CLUSTER | {
        "AIOSOCKETSERVER_GREENLETS": "1",
        "AIOSOCKETSERVER_REQUIRE_ALL": "",
        "AIOSOCKETSERVER": "x",
        # Docker's, of a container that is linked and has settings of its own.
        "AIOSOCKETSERVER_NAME": "/web/aiosocketserver",
        "AIOSOCKETSERVER_ENV_MAX_CONNECTIONS": "3",
        "AIOSOCKETSERVER_DB_ENV_AIOSOCKETSERVER_MAX_CONECTIONS": "3",
    }
    with serving_application(
        tmp_path, "application:Echo", *BIND, environment=environment
    ) as command:
        assert command.end() == 0
        assert "ignored" not in "\n".join(command.lines)


def test_what_is_close_to_nothing_is_one_warning(tmp_path: Path) -> None:
    environment = {
        "AIOSOCKETSERVER_COLOUR": "red",
        "AIOSOCKETSERVER_PORT": "8080",
        "AIOSOCKETSERVER_PORTS": "tcp://10.0.0.1:80",
        # A guess may be wrong: it must not keep a service from its start.
        "AIOSOCKETSERVER_DRAIN_TIMEOUT": "3",
        "AIOSOCKETSERVER_REQUIRED_ALL": "1",
    }
    with serving_application(
        tmp_path, "application:Echo", *BIND, "--workers", "2", environment=environment
    ) as command:
        assert command.end() == 0
        (warning,) = [line for line in command.lines if "ignored" in line]
    assert " WARNING " in warning
    assert (
        "ignored, for they are no settings: AIOSOCKETSERVER_COLOUR, "
        "AIOSOCKETSERVER_DRAIN_TIMEOUT (like AIOSOCKETSERVER_WRITE_TIMEOUT?), "
        "AIOSOCKETSERVER_PORT, AIOSOCKETSERVER_PORTS, AIOSOCKETSERVER_REQUIRED_ALL; "
        "aiosocketserver serve --help has them all"
    ) in warning
