"""The path of a Unix socket where others may put another file there, at every moment."""

import contextlib
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import BaseRequestHandler, UnixDatagramServer, UnixStreamServer
from aiosocketserver.deploy.binds import Bind, SocketOptions, open_sockets

SERVERS: list[Any] = [UnixStreamServer, UnixDatagramServer]
OPTIONS: dict[str, Any] = {"unix_mode": 0o666, "unix_group": os.getgid()}
# Where paths are dealt with.
FILES = tuple(
    os.path.join(os.path.dirname(aiosocketserver.__file__), "servers", name)
    for name in ("socket_paths.py", "addresses.py", "stream.py")
)


class Nothing(BaseRequestHandler):
    async def handle(self) -> None:
        pass


class Scene:
    """A folder that somebody else may write to, and what that one must not reach by it."""

    def __init__(self, tmp_path: Path, kind: str) -> None:
        self.kind = kind
        self.folder = tmp_path / "folder"
        self.folder.mkdir()
        self.path = self.folder / "s"
        self.other = tmp_path / "other"
        self.other.mkdir()
        # As `path` is called when the folder is another one.
        self.victim = self.other / "s"
        if kind == "link to a file":
            self.victim.write_text("precious")
            self.victim.chmod(0o600)
            self.sock = None
        else:
            # That of another server of the same user.
            self.sock = socket.socket(socket.AF_UNIX)
            before = os.umask(0o177)
            self.sock.bind(str(self.victim))
            os.umask(before)
            self.sock.listen()
        self.status = os.lstat(self.victim)

    def swap(self) -> None:
        """Put it where the socket is, or will be."""
        if self.kind == "folder":
            os.rename(self.folder, self.folder.with_name("away"))
            self.folder.symlink_to(self.other)
            return
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, self.folder / "away")
        if self.kind == "link to a file":
            self.path.symlink_to(self.victim)
        else:
            os.link(self.victim, self.path)

    def check(self) -> None:
        now = os.lstat(self.victim)
        for name in ("st_ino", "st_mode", "st_uid", "st_gid"):
            assert getattr(now, name) == getattr(self.status, name), name
        if self.sock is not None:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.victim))
            self.sock.close()


@contextlib.contextmanager
def before_line(number: int, function: Callable[[], object]) -> Iterator[list[int]]:
    """Call it before the line of `FILES` that is run as the n-th one from now on."""
    lines = [0]

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines[0] += 1
            if lines[0] == number:
                function()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def live(server_class: Any, path: Path) -> None:
    """The whole life of a server at the path; there may be errors that tell of the swap."""
    # FileExistsError: another file is there. EADDRINUSE: another server.
    with contextlib.suppress(OSError):
        server_class(path, Nothing, **OPTIONS).server_close()


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux can hold a file")
@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
@pytest.mark.parametrize("kind", ["link to a file", "link to a socket", "folder"])
def test_only_its_own_file_is_touched_whenever_another_is_put_there(
    server_class: Any, stale: bool, kind: str, tmp_path: Path
) -> None:
    number = 0
    done = False
    while not done:
        number += 1
        (tmp_path / str(number)).mkdir()
        scene = Scene(tmp_path / str(number), kind)
        if stale:
            with socket.socket(socket.AF_UNIX, server_class.socket_type) as sock:
                sock.bind(str(scene.path))
        with before_line(number, scene.swap) as lines:
            live(server_class, scene.path)
        done = lines[0] < number
        scene.check()
    assert number > 50, "the trace has seen nothing"


def test_without_a_swap_it_has_what_was_asked_for(tmp_path: Path) -> None:
    """Or the test above would pass for a server that changes nothing."""
    for server_class in SERVERS:
        server = server_class(tmp_path / "s", Nothing, **OPTIONS)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
        server.server_close()
        assert not (tmp_path / "s").exists()


def test_what_was_put_there_is_told_and_left_alone(tmp_path: Path) -> None:
    class Swapping(socket.socket):
        def bind(self, address: Any, /) -> None:
            super().bind(address)
            os.rename(address, tmp_path / "away")
            (tmp_path / "s").symlink_to(tmp_path / "precious")

    class Server(UnixStreamServer):
        def server_bind(self) -> None:
            self.socket.close()
            self.socket = Swapping(socket.AF_UNIX)
            super().server_bind()

    (tmp_path / "precious").touch(0o600)
    with pytest.raises(FileExistsError, match="has put another file in the place") as raised:
        Server(tmp_path / "s", Nothing, unix_mode=0o666)
    assert raised.value.filename == os.fsencode(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
    assert stat.S_IMODE((tmp_path / "precious").stat().st_mode) == 0o600
    # What was made for everybody was never open to them.
    assert stat.S_IMODE((tmp_path / "away").stat().st_mode) & 0o077 == 0


def attack(path: Path, victim: Path) -> None:
    """What the owner of the folder does, in a process of its own, until it is killed."""
    while True:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
                os.symlink(victim, path)
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.lstat(path).st_mode):
                os.unlink(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_the_folders_owner_cannot_have_roots_files_changed(tmp_path: Path) -> None:
    somebody = 65534
    for folder in tmp_path.parents[: len(tmp_path.parents) - 1]:
        if not stat.S_IMODE(folder.stat().st_mode) & 0o001 and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    (tmp_path / "precious").touch(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.chown(folder, somebody, somebody)
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(somebody)
            os.setuid(somebody)
            attack(folder / "s", tmp_path / "precious")
        finally:
            os._exit(1)
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                UnixStreamServer(
                    folder / "s", Nothing, unix_mode=0o666, unix_owner=1
                ).server_close()
            found = (tmp_path / "precious").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


# --- where files cannot be held ---


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without O_PATH."""
    monkeypatch.delattr(os, "O_PATH", raising=False)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_elsewhere_it_has_what_was_asked_for_in_a_safe_folder(mode: int, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        server = UnixStreamServer(tmp_path / "s", Nothing, unix_mode=mode, unix_group=os.getgid())
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    finally:
        assert os.umask(before) == 0o027
    server.server_close()
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("option", OPTIONS)
def test_elsewhere_a_folder_of_others_is_refused_with_mode_or_owner(
    option: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    (shared / "below").mkdir(parents=True)
    shared.chmod(0o777)
    for path in (shared / "s", shared / "below" / "s"):
        with pytest.raises(PermissionError, match=r"others may write to '.*shared'") as raised:
            UnixStreamServer(path, Nothing, **{option: OPTIONS[option]})
        assert raised.value.filename == str(path)
        assert not path.exists()
    UnixStreamServer(shared / "s", Nothing).server_close()
    # There only its owner can remove a file, as in /tmp.
    shared.chmod(0o1777)
    UnixStreamServer(shared / "s", Nothing, **{option: OPTIONS[option]}).server_close()
    assert not (shared / "s").exists()


# --- on the way out of an error ---


@pytest.mark.parametrize("kind", ["unix", "unix-dgram"])
def test_nothing_is_left_behind_when_a_service_cannot_start(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second bind fails, and the first one's path goes with it.
    (tmp_path / "file").touch()
    binds = [Bind.parse(f"{kind}://{tmp_path}/s"), Bind.parse(f"{kind}://{tmp_path}/file")]
    with pytest.raises(ValueError, match="not a socket"):
        open_sockets(binds, SocketOptions())
    assert os.listdir(tmp_path) == ["file"]
    if kind == "unix":

        def refuse(self: socket.socket, *backlog: int) -> None:
            raise OSError("no")

        monkeypatch.setattr(socket.socket, "listen", refuse)
        with pytest.raises(ValueError, match="no"):
            open_sockets(binds[:1], SocketOptions())
        assert os.listdir(tmp_path) == ["file"]
