"""web/web_server.py, with curl and with clients that misbehave. Its page: test_web_page.py."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import h11
import pytest

from tests.deploy_support import ROOT, Command, ask, receive_all, serving_command
from tests.example_support import LOOPS, TIMEOUT, problem, running

both_loops = pytest.mark.parametrize("site", LOOPS, indirect=True)

BIND = "tcp://127.0.0.1:0"
# More than the kernel holds for a client that does not read (tcp(7)).
LARGE = os.urandom(1024) * (
    2 * int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2]) // 1024
)


@dataclass
class Site:
    """The server at work, and the folder that it serves."""

    program: Command
    folder: Path

    @property
    def port(self) -> int:
        return self.program.ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open_files(self) -> set[str]:
        """The files that the server has open."""
        folder = Path(f"/proc/{self.program.process.pid}/fd")
        # A descriptor may be closed meanwhile.
        paths = set()
        for each in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                paths.add(os.readlink(each))
        return {path for path in paths if path.startswith(str(self.folder))}


def fill(folder: Path, outside: Path) -> None:
    """Make what is to be served, and what is not."""
    (outside / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<p>hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "index.html").write_text("<p>below")
    (folder / "sub" / "script.js").write_text("0")
    (folder / "sub" / ".secret").write_text("secret")
    (folder / ".secret").write_text("secret")
    (folder / "a name.bin").write_bytes(b"\0")
    (folder / "empty.txt").touch()
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "unreadable.txt").write_text("secret")
    (folder / "within.html").symlink_to("sub/index.html")
    (folder / "without.txt").symlink_to(outside / "secret.txt")
    (folder / "without").symlink_to(outside)
    (folder / "hidden.txt").symlink_to(".secret")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One server for all tests that do not end it: on uvloop, unless a test asks for both loops."""
    loop = getattr(request, "param", "uvloop")
    folder, outside = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("outside")
    fill(folder, outside)
    arguments = ["--folder", str(folder), BIND]
    with pytest.MonkeyPatch.context() as patch:
        # HTTP has its dates in UTC, whatever the time zone.
        patch.setenv("TZ", "JST-9")
        with running("web/web_server", *arguments, loop=loop, folder=outside) as program:
            yield Site(program, folder)
    assert not [line for line in program.lines if "xception" in line]


@pytest.fixture
def curl(require_program: Callable[[str], str]) -> Callable[..., str]:
    """A function that runs curl and returns what it prints."""
    path = require_program("curl")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [path, "-sS", *arguments], capture_output=True, timeout=TIMEOUT, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    return run


class Answer:
    """An answer of the server, and what came behind it."""

    def __init__(self, data: bytes, method: str = "GET") -> None:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(data)
        self.interim: list[int] = []
        self.body = b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.InformationalResponse):
                self.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h11.Data):
                self.body += event.data
            else:
                raise AssertionError(f"{event} in {data!r}")
        self.rest = connection.trailing_data[0]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


def answer(site: Site, request: bytes, method: str = "GET") -> Answer:
    """What the server answers to one request, after which the client says no more."""
    answer = Answer(ask(site.port, request), method)
    assert answer.rest == b""
    return answer


def get(site: Site, target: str, *headers: str) -> Answer:
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *headers, "", ""])
    return answer(site, head.encode())


def is_large(body: bytes) -> bool:
    # Not in an assert, which would show megabytes when it fails.
    return body == LARGE


def connect(site: Site) -> socket.socket:
    client = socket.socket()
    client.settimeout(TIMEOUT)
    # A fixed size, with which the kernel takes no more and more for a client that does not read.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.connect(("127.0.0.1", site.port))
    return client


# What is served


@both_loops
def test_curl_gets_a_file_with_all_that_is_to_know_about_it(
    site: Site, curl: Callable[..., str]
) -> None:
    head, body = curl("-i", site.url).split("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert (status, body) == ("HTTP/1.1 200 OK", "<p>hello")
    # IMF-fixdate of RFC 9110, 5.6.7, is the one form that a server may send.
    date = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT"
    assert re.fullmatch(date, headers.pop("Date"))
    assert re.fullmatch(date, headers["Last-Modified"])
    modified = parsedate_to_datetime(headers.pop("Last-Modified")).timestamp()
    assert modified == int((site.folder / "index.html").stat().st_mtime)
    assert re.fullmatch(r'"[0-9a-f]+-8"', headers.pop("ETag"))
    assert "default-src 'self'" in headers.pop("Content-Security-Policy")
    assert headers == {
        "Cache-Control": "no-cache",
        "Content-Length": "8",
        "Content-Type": "text/html; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }


def test_head_is_a_get_without_the_body(site: Site, curl: Callable[..., str]) -> None:
    for path in ("/", "/hello", "/nothing"):
        whole, head = curl("-i", site.url + path), curl("-I", site.url + path)
        date = "Date: .*\r\n"
        assert re.sub(date, "", head) == re.sub(date, "", whole[: whole.index("\r\n\r\n") + 4])
    assert curl("-I", f"{site.url}/events").startswith("HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/sub/", "text/html; charset=utf-8", b"<p>below"),
        ("/sub/?a=/..", "text/html; charset=utf-8", b"<p>below"),
        ("/s%75b//index.html", "text/html; charset=utf-8", b"<p>below"),
        ("/within.html", "text/html; charset=utf-8", b"<p>below"),
        ("http://anything:80/sub/", "text/html; charset=utf-8", b"<p>below"),
        ("HTTP://anything?query", "text/html; charset=utf-8", b"<p>hello"),
        ("/a%20name.bin", "application/octet-stream", b"\0"),
        ("/empty.txt", "text/plain; charset=utf-8", b""),
        ("/hello", "text/plain; charset=utf-8", b"Hello from aiosocketserver\n"),
    ],
)
def test_what_a_url_stands_for(site: Site, path: str, kind: str, body: bytes) -> None:
    got = get(site, path)
    assert (got.status, got.headers["content-type"]) == (200, kind)
    assert got.headers["content-length"] == str(len(body))
    assert got.body == body


def test_a_large_file_comes_whole(site: Site) -> None:
    assert is_large(get(site, "/large.bin").body)


def test_the_type_of_a_script_is_one_that_browsers_run(site: Site) -> None:
    kind = get(site, "/sub/script.js").headers["content-type"]
    assert re.fullmatch("(text|application)/javascript; charset=utf-8", kind)


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../",
        "/sub/../index.html",
        "/../{outside}/secret.txt",
        "/%2e%2e/{outside}/secret.txt",
        "/%2E%2E%2F{outside}%2Fsecret.txt",
        "/sub/..%2f..%2f{outside}/secret.txt",
        "/..%5c{outside}%5csecret.txt",
        "/%252e%252e/{outside}/secret.txt",
        "//{outside}/secret.txt",
        "/%2f{path}/secret.txt",
        "http://x/../{outside}/secret.txt",
        "../{outside}/secret.txt",
        "{path}/secret.txt",
        "/without.txt",
        "/without/secret.txt",
        "/.secret",
        "/%2esecret",
        "/sub/.secret",
        "/hidden.txt",
        "/index.html%00",
        "/%00",
        "/%ff%fe",
        "/index.html/",
        "/index.html/x",
        "/sub",
        "/without",
        "/fifo",
        "/loop",
        "/nothing",
        "/" + "x" * 5000,
        "/" + "x/" * 5000,
        "*",
    ],
)
def test_nothing_else_is_to_be_had(
    site: Site, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = Path(os.readlink(site.folder / "without"))
    assert outside.parent == site.folder.parent
    got = get(site, path.format(outside=outside.name, path=outside))
    assert got.status == 404
    assert not got.closes


def test_a_file_that_may_not_be_read_is_not_there(site: Site) -> None:
    path = site.folder / "unreadable.txt"
    path.chmod(0)
    try:
        # To root, nothing is unreadable.
        assert get(site, "/unreadable.txt").status == (404 if os.geteuid() else 200)
    finally:
        path.chmod(0o600)


# Whether a browser has it already


def test_curl_does_not_get_again_what_it_has(
    site: Site, curl: Callable[..., str], tmp_path: Path
) -> None:
    file, tag = tmp_path / "index.html", tmp_path / "tag"
    say = ["-o", str(file), "-R", "-w", "%{http_code}", site.url]
    assert curl("--etag-save", str(tag), *say) == "200"
    assert curl("--etag-compare", str(tag), *say) == "304"
    assert curl("-z", str(file), *say) == "304"
    assert file.read_text() == "<p>hello"
    tag.write_text('"another"')
    assert curl("--etag-compare", str(tag), *say) == "200"


def test_conditions_are_weighed_as_rfc_9110_says(site: Site) -> None:
    first = get(site, "/")
    tag, modified = first.headers["etag"], first.headers["last-modified"]
    old = "Sun, 06 Nov 1994 08:49:37 GMT"

    def status(*headers: str) -> int:
        return get(site, "/", *headers).status

    assert status(f"If-None-Match: {tag}") == 304
    assert status(f'If-None-Match: "a", W/{tag}') == 304
    assert status("If-None-Match: *") == 304
    assert status('If-None-Match: "a"', f"If-Modified-Since: {modified}") == 200
    assert status(f"If-None-Match: {tag}", f"If-Modified-Since: {old}") == 304
    assert status(f"If-Modified-Since: {modified}") == 304
    assert status(f"If-Modified-Since: {old}") == 200
    # The two other forms of a date, one of which has no zone.
    date = parsedate_to_datetime(modified)
    for form in ("%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
        assert status(f"If-Modified-Since: {date.strftime(form)}") == 304
    for rubbish in ("yesterday", old.replace("1994", "99999"), old.replace("GMT", f"+{10**14}")):
        assert status(f"If-Modified-Since: {rubbish}") == 200
    unchanged = get(site, "/", f"If-None-Match: {tag}")
    assert (unchanged.headers["etag"], unchanged.body) == (tag, b"")
    assert "content-length" not in unchanged.headers


def test_a_file_that_changes_is_sent_again(site: Site) -> None:
    path = site.folder / "changing.txt"
    path.write_text("one")
    os.utime(path, (1, 1))
    tag = get(site, "/changing.txt").headers["etag"]
    path.write_text("two")
    assert get(site, "/changing.txt", f"If-None-Match: {tag}").body == b"two"


# Connections


@both_loops
def test_curl_keeps_a_connection_for_the_next_request(site: Site, curl: Callable[..., str]) -> None:
    count = ["-w", "%{num_connects}\n"]
    two = [f"{site.url}/hello", f"{site.url}/nothing"]
    hello = "Hello from aiosocketserver\n"
    assert curl(*count, *two) == f"{hello}1\nthere is no /nothing\n0\n"
    # HTTP/1.0 keeps none.
    assert curl("--http1.0", *count, *two) == f"{hello}1\nthere is no /nothing\n1\n"
    assert curl("-H", "Connection: close", *count, *two) == f"{hello}1\nthere is no /nothing\n1\n"
    # An upgrade that is offered, and not taken.
    assert curl("--http2", *count, *two) == f"{hello}1\nthere is no /nothing\n0\n"


@both_loops
def test_a_request_may_come_byte_by_byte(site: Site) -> None:
    request = b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nAda"
    with connect(site) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            client.sendall(bytes([byte]))
        client.shutdown(socket.SHUT_WR)
        assert Answer(receive_all(client)).body == b"Hello Ada, from aiosocketserver\n"


@both_loops
def test_requests_that_come_together_are_answered_in_their_order(site: Site) -> None:
    requests = (
        b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
        b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nAda"
        b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    rest = ask(site.port, requests)
    bodies = []
    for method in ("GET", "HEAD", "POST", "GET", "GET"):
        got = Answer(rest, method)
        bodies.append(b"large" if is_large(got.body) else got.body)
        rest = got.rest
    hello = b"Hello from aiosocketserver\n"
    greeting = b"Hello Ada, from aiosocketserver\n"
    assert bodies == [hello, b"", greeting, b"large", b"there is no /nothing\n"]
    # Nothing follows a request that closes.
    assert rest == b""


# Bodies


@both_loops
def test_curl_posts_a_name(site: Site, curl: Callable[..., str]) -> None:
    assert curl("-d", "Ada", f"{site.url}/hello") == "Hello Ada, from aiosocketserver\n"
    assert curl("-d", "", f"{site.url}/hello") == "Hello , from aiosocketserver\n"
    assert curl("-d", "Zoë", f"{site.url}/hello") == "Hello Zoë, from aiosocketserver\n"


@both_loops
def test_curl_waits_to_be_asked_for_a_body(site: Site, curl: Callable[..., str]) -> None:
    expect_it = ["-i", "-H", "Expect: 100-continue", "--expect100-timeout", str(TIMEOUT)]
    got = curl(*expect_it, "-d", "Ada", f"{site.url}/hello")
    assert got.startswith("HTTP/1.1 100")
    assert got.endswith("\r\n\r\nHello Ada, from aiosocketserver\n")
    # It is not asked for one that would be refused.
    large = ["--data-binary", "x" * 65537]
    assert curl(*expect_it, *large, f"{site.url}/hello").startswith("HTTP/1.1 413")
    assert curl(*expect_it, "-d", "Ada", f"{site.url}/nothing").startswith("HTTP/1.1 405")


@both_loops
def test_curl_is_told_that_a_body_is_too_large(
    site: Site, curl: Callable[..., str], tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 65537)
    say = ["-H", "Expect:", "--data-binary", f"@{body}", f"{site.url}/hello"]
    assert curl(*say) == "a body has at most 65536 bytes\n"
    body.write_bytes(b"x" * 65536)
    assert len(curl(*say)) == 65536 + len("Hello , from aiosocketserver\n")


def test_a_body_without_a_length_is_refused(site: Site, curl: Callable[..., str]) -> None:
    chunked = curl("-i", "-H", "Transfer-Encoding: chunked", "-d", "Ada", f"{site.url}/hello")
    assert chunked.startswith("HTTP/1.1 411 ")
    assert "\r\nConnection: close\r\n" in chunked


# What is refused


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (head("GET /"), 400),
        (head("GET  / HTTP/1.1", "Host: x"), 400),
        (head("GET / HTTP/1.1"), 400),
        (head("GET / HTTP/1.1", "Host: x", "Host: y"), 400),
        (head("GET / HTTP/1.1", "Host: x", "A : b"), 400),
        (head("GET / HTTP/1.1", "Host: x", "A: b\0"), 400),
        # LF alone, where a proxy might see something else.
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\n\nGET /.. HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (head("POST /hello HTTP/1.1", "Host: x", "Content-Length: x"), 400),
        (head("POST /hello HTTP/1.1", "Host: x", "Content-Length: -1"), 400),
        (head("POST /hello HTTP/1.1", "Host: x", f"Content-Length: {'9' * 5000}"), 400),
        (head("POST /hello HTTP/1.1", "Host: x", "Content-Length: 1", "Content-Length: 2"), 400),
        (
            head("GET / HTTP/1.1", "Host: x", "Content-Length: 5", "Transfer-Encoding: chunked")
            + b"0\r\n\r\n",
            400,
        ),
        (head("POST /hello HTTP/1.1", "Host: x", "Transfer-Encoding: gzip"), 501),
        (head("PUT / HTTP/1.1", "Host: x", "Content-Length: 5") + b"hello", 405),
        (head("GET / HTTP/1.1", "Host: x", f"A: {'x' * 16384}"), 431),
        (b"GET /" + b"x" * 100_000, 431),
    ],
)
def test_what_is_not_http_is_refused_and_ends_the_connection(
    site: Site, request_: bytes, status: int
) -> None:
    # Nothing that follows is taken for a request.
    got = answer(site, request_ + head("GET /hello HTTP/1.1", "Host: x"))
    assert (got.status, got.closes) == (status, True)


def test_a_head_that_ends_too_early_is_refused(site: Site) -> None:
    assert answer(site, b"GET / HTTP/1.1\r\nHost: x\r\n").status == 400
    # Who says nothing gets no answer.
    assert ask(site.port, b"") == b""


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("POST", "/", 405, "GET, HEAD"),
        ("DELETE", "/nothing", 405, "GET, HEAD"),
        ("PUT", "/hello", 405, "GET, HEAD, POST"),
        ("OPTIONS", "*", 405, "GET, HEAD"),
        ("CONNECT", "x:443", 405, "GET, HEAD"),
        ("get", "/", 501, None),
        ("PURGE", "/", 501, None),
    ],
)
def test_methods_that_are_not_for_it(
    site: Site, method: str, path: str, status: int, allowed: str | None
) -> None:
    got = answer(site, head(f"{method} {path} HTTP/1.1", "Host: x"))
    assert (got.status, got.headers.get("allow")) == (status, allowed)


# Downloads


@both_loops
def test_a_client_that_leaves_within_a_download_leaves_nothing_behind(site: Site) -> None:
    with connect(site) as client:
        client.sendall(head("GET /large.bin HTTP/1.1", "Host: x"))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert site.open_files() == {str(site.folder / "large.bin")}
        name = str(client.getsockname())
    site.program.until(re.escape(f"the client {name} was lost"))
    assert site.open_files() == set()
    assert get(site, "/hello").status == 200


@pytest.mark.parametrize("loop", LOOPS)
def test_a_file_that_becomes_shorter_ends_the_connection(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    with running(
        "web/web_server", "--folder", str(tmp_path), BIND, loop=loop, folder=tmp_path
    ) as web:
        with connect(Site(web, tmp_path)) as client:
            client.sendall(head("GET /large.bin HTTP/1.1", "Host: x"))
            received = client.recv(1000)
            os.truncate(path, 1_000_000)
            received += receive_all(client)
        assert len(received) < len(LARGE)
        web.until("a file became shorter while it was sent")


# Events


class Events:
    """The numbers that the server sends, as they come."""

    def __init__(self, client: socket.socket) -> None:
        client.sendall(head("GET /events HTTP/1.0"))
        self._file = client.makefile("rb")

    def __enter__(self) -> "Events":
        self.head = list(iter(self._file.readline, b"\r\n"))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __next__(self) -> dict[str, Any]:
        assert self._file.readline() == b"retry: 1000\n"
        data = self._file.readline()
        assert data.startswith(b"data: ")
        assert self._file.readline() == b"\n"
        numbers: dict[str, Any] = json.loads(data[6:])
        return numbers

    def until(self, **numbers: int) -> None:
        """Wait until the numbers are these."""
        while numbers.items() - next(self).items():
            pass


@both_loops
def test_curl_gets_the_numbers_again_and_again(
    site: Site, require_program: Callable[[str], str]
) -> None:
    command = [require_program("curl"), "-sSN", "-i", f"{site.url}/events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        headers = list(iter(lines.__next__, "\n"))
        data = [next(line for line in lines if line.startswith("data: ")) for _ in range(2)]
        process.terminate()
    assert headers[0] == "HTTP/1.1 200 OK\n"
    assert "Content-Type: text/event-stream\n" in headers
    assert "Cache-Control: no-store\n" in headers
    assert "Transfer-Encoding: chunked\n" in headers
    first, second = [json.loads(line.removeprefix("data: ")) for line in data]
    counters = {"accepted", "active", "peak", "bytes_received", "bytes_sent"}
    assert first.keys() == second.keys() == counters | {"requests", "time"}
    assert second["time"] > first["time"]
    assert second["bytes_sent"] > first["bytes_sent"]


def test_the_numbers_count(site: Site) -> None:
    with connect(site) as client, Events(client) as events:
        first = next(events)
        assert Answer(ask(site.port, 2 * head("GET /hello HTTP/1.1", "Host: x"))).rest
        events.until(requests=first["requests"] + 2, accepted=first["accepted"] + 1, active=1)


@both_loops
def test_a_page_that_is_closed_frees_its_connection(site: Site) -> None:
    with connect(site) as client, Events(client) as events:
        events.until(active=1)
        with connect(site) as other, Events(other):
            events.until(active=2)
        events.until(active=1)


@both_loops
def test_who_says_more_ends_the_events(site: Site) -> None:
    request = head("GET /events HTTP/1.1", "Host: x")
    with connect(site) as client:
        client.sendall(request + request)
        got = Answer(receive_all(client))
    assert got.body.count(b"data: ") == 1


# The end


@pytest.mark.parametrize("loop", LOOPS)
def test_sigterm_ends_what_is_idle_at_once_and_lets_a_download_finish(
    loop: str, tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_bytes(LARGE)
    with (
        running(
            "web/web_server", "--folder", str(tmp_path), BIND, loop=loop, folder=tmp_path
        ) as web,
        connect(Site(web, tmp_path)) as idle,
        connect(Site(web, tmp_path)) as page,
        connect(Site(web, tmp_path)) as download,
        connect(Site(web, tmp_path)) as upload,
    ):
        idle.sendall(head("HEAD /hello HTTP/1.1", "Host: x"))
        assert idle.recv(1000).endswith(b"\r\n\r\n")
        page.sendall(head("GET /events HTTP/1.1", "Host: x"))
        events = page.recv(1000)
        upload.sendall(
            head("POST /hello HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 3")
        )
        assert upload.recv(1000).startswith(b"HTTP/1.1 100")
        download.sendall(head("GET /large.bin HTTP/1.1", "Host: x"))
        received = download.recv(1000)

        web.process.send_signal(signal.SIGTERM)
        with idle:
            assert idle.recv(1000) == b""
        # The events end as HTTP ends them, and what begins within a request goes on.
        with page:
            assert b"data: " in Answer(events + receive_all(page)).body
        with upload:
            upload.sendall(b"Ada")
            got = Answer(receive_all(upload))
        assert (got.body, got.closes) == (b"Hello Ada, from aiosocketserver\n", True)
        with download:
            assert is_large(Answer(received + receive_all(download)).body)
        assert web.wait() == 0


# Clients that are slow


HANDLER = """
import functools
from pathlib import Path
import web_server
handler = functools.partial(web_server.Web, site=web_server.Site(Path({folder!r})))
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_slow_clients_are_ended_by_the_options_of_the_server(loop: str, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(LARGE)
    (tmp_path / "slow_web.py").write_text(HANDLER.format(folder=str(tmp_path)))
    times = ["--read-timeout", "0.3", "--idle-timeout", "1", "--write-timeout", "0.5"]
    with (
        serving_command(
            tmp_path,
            "slow_web:handler",
            *["--bind", BIND, "--loop", loop, *times],
            environment={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples/web")])},
        ) as web,
        contextlib.ExitStack() as stack,
    ):
        web.until(r"\] serving ")
        slow = Site(web, tmp_path)
        slow_head, slow_body, silent, deaf = (stack.enter_context(connect(slow)) for _ in range(4))
        slow_head.sendall(b"GET / HTTP/1.1\r\n")
        slow_body.sendall(head("POST /hello HTTP/1.1", "Host: x", "Content-Length: 3") + b"A")
        silent.sendall(head("HEAD /hello HTTP/1.1", "Host: x"))
        deaf.sendall(head("GET /large.bin HTTP/1.1", "Host: x"))
        for client in (slow_head, slow_body):
            with client:
                got = Answer(receive_all(client))
            assert (got.status, got.closes) == (408, True)
        with silent:
            assert receive_all(silent).endswith(b"\r\n\r\n")
        cut = {web.until("was cut: its (.*) has passed")[1] for _ in range(4)}
        assert cut == {"read_timeout", "idle_timeout", "write_timeout"}
        assert slow.open_files() == set()
        assert web.end() == 0


# How it is started


def test_it_says_in_one_line_why_it_cannot_serve() -> None:
    assert problem("web/web_server", "tcp://127.0.0.1:x").startswith("cannot bind to 'tcp://")


def test_a_folder_has_to_be_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/web/web_server.py", "--folder", str(tmp_path / "nothing")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("/nothing is not a folder\n")
