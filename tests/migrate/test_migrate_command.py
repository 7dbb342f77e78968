"""`aiosocketserver migrate`: what it shows, writes and returns."""

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aiosocketserver.migrate.running import run
from tests.deploy_support import ROOT

ECHO = textwrap.dedent("""
    import socketserver

    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)  # the same
    """).lstrip()

MIGRATED = textwrap.dedent("""
    import aiosocketserver

    class Echo(aiosocketserver.StreamRequestHandler):
        async def handle(self):
            async for line in self.rfile:
                await self.wfile.write(line)  # the same
    """).lstrip()

SLOW = textwrap.dedent("""
    import socketserver, time

    class Slow(socketserver.StreamRequestHandler):
        def handle(self):
            time.sleep(1)
    """).lstrip()


def command(*arguments: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aiosocketserver", "migrate", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_difference_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    done = command("echo.py", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith(
        "--- echo.py\n+++ echo.py\n@@ -1,6 +1,6 @@\n-import socketserver\n+import aiosocketserver\n"
    )
    assert done.stderr.splitlines() == [
        "echo.py:3:1: Echo: converted",
        (
            "echo.py:3:7: note: no server here: whatever serves it has to be compat's or "
            "aiosocketserver's - from aiosocketserver import compat as socketserver, where the "
            "server is made"
        ),
        "1 legacy handler: 1 converted, 0 declined",
    ]
    assert (tmp_path / "echo.py").read_text() == ECHO
    # What it shows is what patch takes.
    if shutil.which("patch"):
        subprocess.run(["patch", "-sp0"], input=done.stdout, text=True, cwd=tmp_path, check=True)
        assert (tmp_path / "echo.py").read_text() == MIGRATED


def test_written_it_is_migrated_and_once_more_there_is_nothing_to_do(tmp_path: Path) -> None:
    path = tmp_path / "echo.py"
    path.write_text(ECHO)
    path.chmod(0o750)
    done = command("--write", "echo.py", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert path.read_text() == MIGRATED
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert list(tmp_path.iterdir()) == [path]
    done = command("--write", "echo.py", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no legacy handlers\n")


@pytest.mark.parametrize("name", ["click", "libcst"])
def test_the_command_without_a_library(name: str, tmp_path: Path) -> None:
    """`serve` does without LibCST; neither is needed to be told what is needed."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules['{name}'] = None\n")
    (tmp_path / "echo.py").write_text(ECHO)

    def said(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "aiosocketserver", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, text = said("migrate", "echo.py")
    assert code != 0
    assert text.endswith(" needs more: pip install 'aiosocketserver[migrate]'\n")
    assert text.count("\n") == 1
    if name == "libcst":
        assert said("serve", "--help")[0] == 0


def test_the_core_does_not_import_it() -> None:
    code = (
        "import sys, aiosocketserver, aiosocketserver.deploy.command_line; "
        "print('libcst' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_help_tells_the_exit_codes(tmp_path: Path) -> None:
    done = command("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "Exit code: 0 when no legacy handler is left" in " ".join(done.stdout.split())


def test_wrong_usage(tmp_path: Path) -> None:
    done = command("nowhere.py", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "aiosocketserver: Invalid value for 'PATH...': Path 'nowhere.py' does not exist.\n"
    )


# From here on without a process.


def report(capsysbinary: pytest.CaptureFixture[bytes]) -> list[str]:
    """What has been told since the last call."""
    return capsysbinary.readouterr().err.decode().splitlines()


@pytest.mark.parametrize(
    ("source", "write", "force", "code"),
    [
        ("import socketserver", False, False, 0),
        (ECHO, False, False, 1),
        (ECHO, True, False, 0),
        (SLOW, False, False, 1),
        (SLOW, True, False, 1),
        (SLOW, False, True, 1),
        (SLOW, True, True, 0),
        ("import socketserver = 1", True, False, 2),
    ],
)
def test_exit_code(source: str, write: bool, force: bool, code: int, tmp_path: Path) -> None:
    path = tmp_path / "source.py"
    path.write_text(source)
    assert run([path], write=write, force=force) == code


def test_a_declined_handler_is_told_with_each_reason(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    run([path], write=True, force=False)
    assert path.read_text() == SLOW
    assert report(capsysbinary) == [
        f"{path}:3:1: Slow: declined without --force, because of:",
        f"{path}:5:9: time.sleep() stops the loop - await asyncio.sleep(...)",
        "1 legacy handler: 0 converted, 1 declined",
    ]
    path.write_text(SLOW + "        dump(self.wfile)\n")
    run([path], write=True, force=True)
    assert report(capsysbinary) == [
        f"{path}:3:1: Slow: declined, because of:",
        (
            f"{path}:6:14: self.wfile is handed to dump(), and what is done with it there "
            "cannot be seen"
        ),
        f"{path}:5:9: time.sleep() stops the loop - await asyncio.sleep(...)",
        "1 legacy handler: 0 converted, 1 declined",
    ]


def test_folders(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for name in ("a.py", "sub/b.py", ".hidden/c.py", "venv/lib/d.py", "sub/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ECHO)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "sub" / "link.py").symlink_to(tmp_path / "a.py")
    (tmp_path / "sub" / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "sub" / "other.py").write_text("this is no Python, and mentions no handler")
    assert run([tmp_path], write=True, force=False) == 0
    assert report(capsysbinary)[-1] == "2 legacy handlers: 2 converted, 0 declined"
    for name, expected in (
        ("a.py", MIGRATED),
        ("sub/b.py", MIGRATED),
        (".hidden/c.py", ECHO),
        ("venv/lib/d.py", ECHO),
        ("sub/notes.txt", ECHO),
    ):
        assert (tmp_path / name).read_text() == expected
    assert (tmp_path / "sub" / "link.py").is_symlink()


def test_a_broken_file_does_not_keep_the_others(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "a.py").write_text("import socketserver\nprint 'Python 2'\n")
    (tmp_path / "b.py").write_bytes(b"# -*- coding: nothing -*-\nimport socketserver\n")
    (tmp_path / "c.py").write_bytes(b"import socketserver\nx = '\xff'\n")
    (tmp_path / "d.py").write_text(f"import socketserver\nx = {'(' * 5000}\n")
    (tmp_path / "f.py").write_text(f"import socketserver\nx = {'1+' * 3000}1\n")
    chain = "".join(f"        a{n + 1} = a{n}\n" for n in range(500))
    (tmp_path / "g.py").write_text(f"{ECHO}        a0 = self.wfile\n{chain}        a500.flush()\n")
    # LibCST is stricter than Python.
    (tmp_path / "e.py").write_text("import socketserver\nif 1:\n        if 2:\n\tpass\n")
    (tmp_path / "z.py").write_text(ECHO)
    assert run([tmp_path], write=True, force=False) == 2
    assert (tmp_path / "z.py").read_text() == MIGRATED
    lines = report(capsysbinary)
    assert lines[0].startswith(f"{tmp_path}/a.py:2: not read: Missing parentheses in call to")
    assert [line.partition(": ")[2].split(":")[0] for line in lines[:7]] == ["not read"] * 7
    assert lines[1].startswith(f"{tmp_path}/b.py:")


def test_a_file_that_cannot_be_read_or_written(
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.py").write_text(ECHO)
    # Not even root can.
    (tmp_path / "b.py").mkdir()
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run([tmp_path / "a.py", tmp_path / "gone.py"], write=True, force=False) == 2
    assert report(capsysbinary)[:2] == [
        f"{tmp_path}/gone.py: not read: No such file or directory",
        f"{tmp_path}/a.py: not written: No space left on device",
    ]
    assert (tmp_path / "a.py").read_text() == ECHO
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.py", "b.py", "gone.py"]


def test_a_link_that_is_named_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text(ECHO)
    (tmp_path / "link.py").symlink_to("real.py")
    assert run([tmp_path / "link.py"], write=True, force=False) == 0
    assert (tmp_path / "link.py").is_symlink()
    assert (tmp_path / "real.py").read_text() == MIGRATED


@pytest.mark.parametrize(
    ("encoding", "declared", "mark"),
    [("utf-8", "", b""), ("utf-8", "", b"\xef\xbb\xbf"), ("latin-1", "# coding: latin-1\n", b"")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encoding_and_ends_of_lines_stay(
    encoding: str, declared: str, mark: bytes, end: str, tmp_path: Path
) -> None:
    def encoded(text: str) -> bytes:
        text = declared + text.replace("the same", "das Gleiche, nämlich")
        return mark + text.replace("\n", end).encode(encoding)

    path = tmp_path / "echo.py"
    path.write_bytes(encoded(ECHO))
    assert run([path], write=True, force=False) == 0
    assert path.read_bytes() == encoded(MIGRATED)


def test_a_last_line_without_an_end(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "echo.py"
    path.write_text(ECHO.rstrip("\n"))
    run([path], write=False, force=False)
    end = b"self.wfile.write(line)  # the same\n\\ No newline at end of file\n"
    difference = capsysbinary.readouterr().out
    assert b"-            " + end + b"+class Echo" in difference
    assert difference.endswith(b"+            await " + end)
    run([path], write=True, force=False)
    assert path.read_text() == MIGRATED.rstrip("\n")


def test_a_file_that_is_named_is_always_read(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("this is no Python, and mentions no handler")
    assert run([tmp_path], write=False, force=False) == 0
    assert run([tmp_path / "a.py"], write=False, force=False) == 2


def test_a_class_with_the_name_of_one_that_others_derive_from(tmp_path: Path) -> None:
    own = ECHO.replace("Echo", "BaseHTTPRequestHandler")
    (tmp_path / "own.py").write_text(own)
    (tmp_path / "web.py").write_text(
        "from http.server import BaseHTTPRequestHandler\n\n"
        "class Web(BaseHTTPRequestHandler):\n    pass\n"
    )
    # Or in the same file, from another module.
    (tmp_path / "echo.py").write_text(
        f"import other\n{ECHO}\nclass Other(other.Echo):\n"
        "    def handle(self):\n        self.wfile.write(b'x')\n"
    )
    run([tmp_path], write=True, force=False)
    assert "async def handle" in (tmp_path / "own.py").read_text()
    assert (tmp_path / "echo.py").read_text().count("async def handle") == 1


def test_a_class_that_others_derive_from_in_other_files(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "loud.py").write_text(
        "from echo import Echo  # on socketserver\n\n"
        "class Loud(Echo):\n"
        "    def handle(self):\n"
        "        self.wfile.write(b'LOUD')\n"
    )
    assert run([tmp_path], write=True, force=False) == 1
    assert (tmp_path / "echo.py").read_text() == ECHO
    assert report(capsysbinary)[:4] == [
        f"{tmp_path}/echo.py:3:1: Echo: declined, because of:",
        f"{tmp_path}/echo.py:3:7: {tmp_path}/loud.py:3 derives from Echo, and would have to follow",
        f"{tmp_path}/loud.py:3:1: Loud: declined, because of:",
        (
            f"{tmp_path}/loud.py:3:12: the base class echo.Echo comes from elsewhere, and what it "
            "does cannot be seen - migrate it first, by hand if it has to be"
        ),
    ]
