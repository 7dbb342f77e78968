"""http.server's own HTTPS server (Python 3.14) on compat: the listening socket is a TLS one."""

import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.tls_support import Certificates

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="http.server has HTTPS from Python 3.14 on"
)


@pytest.mark.parametrize("flags", [(), ("--loop", "uvloop"), ("--greenlets",)])
def test_the_command_serves_a_file(flags: tuple[str, ...], tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    (tmp_path / "page.txt").write_text("hello")
    command = [sys.executable, "-u", "-m", "aiosocketserver.compat", *flags]
    command += ["-m", "http.server", "--bind", "127.0.0.1", "0"]
    command += ["--tls-cert", str(certificates.certfile), "--tls-key", str(certificates.keyfile)]
    context = ssl.create_default_context(cafile=str(certificates.ca_file))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Serving HTTPS"), line
            port = line.split()[5]
            for _ in range(3):
                with opener.open(f"https://127.0.0.1:{port}/page.txt", timeout=20) as answer:
                    assert answer.read() == b"hello"
            process.send_signal(signal.SIGINT)
            assert "Keyboard interrupt received" in process.stdout.read()
        finally:
            process.kill()
