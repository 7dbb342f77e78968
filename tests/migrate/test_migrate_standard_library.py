"""The standard library's own handlers are declined, and it is told what stands in the way."""

import http.server
import wsgiref.simple_server
import xmlrpc.server
from pathlib import Path
from types import ModuleType

import pytest

from tests.migrate_support import declined, migrated, told

UNSEEN = "and what is done with it there cannot be seen"
HEADERS = "which reads its headers with http.client.parse_headers(self.rfile)"
STAYS = "it may stay as it is: legacy handlers run in threads"


def source(module: ModuleType) -> bytes:
    assert module.__file__ is not None
    return Path(module.__file__).read_bytes()


def test_http_server() -> None:
    migration = migrated(source(http.server))
    assert migration.source == source(http.server)
    (report,) = migration.reports
    assert not report.converted
    assert report.handlers[:2] == ("BaseHTTPRequestHandler", "SimpleHTTPRequestHandler")
    whats = {each.what for each in report.obstacles}
    assert f"self.rfile is handed to http.client.parse_headers(), {UNSEEN}" in whats
    assert f"outputfile (self.wfile) is handed to shutil.copyfileobj(), {UNSEEN}" in whats


@pytest.mark.parametrize("module", [xmlrpc.server, wsgiref.simple_server], ids=lambda m: m.__name__)
def test_what_derives_from_it(module: ModuleType) -> None:
    migration = migrated(source(module))
    assert migration.source == source(module)
    (report,) = migration.reports
    assert {each.what for each in report.obstacles} == {
        f"http.server.BaseHTTPRequestHandler is the standard library's own, {HEADERS}"
    }


BASES = {
    "http.server.BaseHTTPRequestHandler": HEADERS,
    "http.server.SimpleHTTPRequestHandler": f"{HEADERS} and sends files with "
    "shutil.copyfileobj(source, self.wfile)",
    "xmlrpc.server.SimpleXMLRPCRequestHandler": f"{HEADERS} and its body with self.rfile.read()",
    "wsgiref.simple_server.WSGIRequestHandler": f"{HEADERS} and hands self.rfile and self.wfile "
    "to wsgiref.handlers",
}


@pytest.mark.parametrize("base", BASES)
def test_a_handler_on_it(base: str) -> None:
    module, _, name = base.rpartition(".")
    report = declined(f"""
        from {module} import {name}

        class Handler({name}):
            def do_GET(self):
                self.wfile.write(b"x")
        """)
    assert told(report.obstacles) == [
        f"4: {base} is the standard library's own, {BASES[base]} - {STAYS}"
    ]
