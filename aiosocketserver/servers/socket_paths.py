"""The files of Unix sockets: how a path becomes free, whose file is there, and its removal.

Who may write to a folder may put another file in a socket's place between any two system
calls that go by its path. So a file is opened once (O_PATH), looked at, and changed by
that descriptor, and it is removed from the very folder in which it was looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Generator
from typing import NamedTuple

from ..sockets.unix import inode_at_path

# The descriptors of this process, by which a file that is open can be changed.
_DESCRIPTORS = "/proc/self/fd"


class _File(NamedTuple):
    """A file, whatever lies at its path by now."""

    # Leads to this very file where the system allows it, and else is its path.
    place: str | bytes
    status: os.stat_result


def can_hold_files() -> bool:
    """Whether a file can be looked at and changed while others swap what is at its path."""
    return hasattr(os, "O_PATH") and os.path.exists(_DESCRIPTORS)


@contextlib.contextmanager
def _hold(path: str | bytes, folder: int | None = None) -> Generator[_File]:
    if not can_hold_files():
        yield _File(path, os.lstat(path))
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield _File(f"{_DESCRIPTORS}/{descriptor}", os.fstat(descriptor))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _folder_of(path: str | bytes) -> Generator[tuple[int | None, str | bytes]]:
    """The folder of a path, and the name there; without O_PATH, None and the path."""
    if not can_hold_files():
        yield None, path
        return
    folder, name = os.path.split(os.fsencode(path))
    descriptor = os.open(folder or os.curdir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def claim(path: str | bytes) -> None:
    """Make `path` free for a new socket if only a stale socket is there.

    Raises FileExistsError for what is no socket, OSError (EADDRINUSE) for the socket of
    a live server, and PermissionError where the system does not tell which it is.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder, name = stack.enter_context(_folder_of(path))
            found = stack.enter_context(_hold(name, folder))
        except OSError:
            # Nothing is in the way; what is wrong with the folder, bind(2) tells.
            return
        _check_stale(found, path)
        _remove(name, folder, found.status)


def _check_stale(found: _File, path: str | bytes) -> None:
    if not stat.S_ISSOCK(found.status.st_mode):
        raise FileExistsError(
            errno.EEXIST, "there is a file that is not a socket, and it is left alone", path
        )
    try:
        alive = _is_alive(found.place)
    except PermissionError:
        raise PermissionError(
            errno.EACCES,
            "there is a socket that this process may not connect to, so that it cannot tell "
            "whether a server has it, and it is left alone",
            path,
        ) from None
    if alive:
        raise OSError(errno.EADDRINUSE, "another server is listening on this socket", path)


def _is_alive(place: str | bytes) -> bool:
    """Whether a process has the socket at `place` open. Raises PermissionError when it may not ask.

    Its server is not disturbed.
    """
    # A datagram socket may ask any: of the same type, connect(2) only looks who is there;
    # of another one it fails with EPROTOTYPE, whether that listens already or not.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(place)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except PermissionError as error:
            # EPERM: it has a peer already, which alone may send to it (unix(7)).
            if error.errno == errno.EACCES:
                raise
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        return True


@contextlib.contextmanager
def made_for_owner(sock: socket.socket, mode: int | None) -> Generator[None]:
    """Have bind(2), called meanwhile, make a file that has no more than its owner's bits of `mode`.

    None: as the umask says.
    """
    if mode is None:
        yield
    elif can_hold_files():
        # bind(2) takes over the mode of the socket itself. The umask would do too, but
        # belongs to the whole process, other threads included.
        os.fchmod(sock.fileno(), mode & 0o700)
        yield
    else:
        # A socket has no mode before it is bound elsewhere than on Linux. What other
        # threads make meanwhile is closed to others, too.
        umask = os.umask(0o777 & ~(mode & 0o700))
        try:
            yield
        finally:
            os.umask(umask)


def check_nobody_can_swap(path: str | bytes) -> None:
    """Raise PermissionError if others could put another file in the place of the one at `path`.

    For systems that cannot hold a file.
    """
    if can_hold_files():
        return
    folder = os.path.realpath(os.path.dirname(os.fsdecode(path)))
    while True:
        status = os.stat(folder)
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = status.st_mode & stat.S_ISVTX
        if status.st_uid not in (0, os.geteuid()) or (writable and not sticky):
            raise PermissionError(
                errno.EPERM,
                "unix_mode, unix_owner and unix_group need a path where nobody else can put "
                f"another file, and others may write to {folder!r}",
                path,
            )
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)


class SocketPath:
    """The file of a Unix socket that was just bound: where it is, and which one it is.

    - sock: the socket
    - path: as it was given to bind(2). It is made absolute here, because a relative one
      names another file after `os.chdir`; a folder that is renamed is not followed

    A file that somebody has put there since is never touched.
    """

    def __init__(self, sock: socket.socket, path: str | bytes) -> None:
        self._path = _absolute(path)
        self._bound_by = os.getpid()
        # None when it is gone already.
        self._status: os.stat_result | None = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _hold(path) as found:
            if _is_file_of(sock, found.status):
                self._status = found.status

    def give_away(self, uid: int, gid: int, mode: int | None) -> None:
        """Change owner, group (-1: not) and mode (None: not) of this very file.

        Removes it when it cannot have them, and raises what tells why.
        """
        try:
            with _hold(self._path) as found:
                if not self._is_same(found.status):
                    raise FileNotFoundError
                if (uid, gid) != (-1, -1):
                    os.chown(found.place, uid, gid)
                if mode is not None:
                    os.chmod(found.place, mode)
        except (FileNotFoundError, NotADirectoryError):
            raise FileExistsError(
                errno.EEXIST,
                "who may write to the folder has put another file in the place of the socket "
                "that was bound there just now, so that it has no owner, group and mode",
                self._path,
            ) from None
        except BaseException:
            # Nobody shall find it with another owner or mode than was asked for.
            self.remove()
            raise

    def close(self, sock: socket.socket) -> None:
        """Close the socket, and remove the file if it is still this socket's.

        In a process that was forked after bind(2), a prefork worker or a daemon, the file
        is removed when nobody else has the socket open any more. It stays, as a stale one
        that the next server replaces, when it cannot be removed (after privileges were
        dropped, for example), or when that cannot be asked.
        """
        if os.getpid() == self._bound_by:
            self.remove()
            sock.close()
            return
        sock.close()
        with contextlib.suppress(OSError), _hold(self._path) as found:
            if not _is_alive(found.place):
                self.remove()

    def remove(self) -> None:
        """Remove the file if it is still this socket's."""
        if self._status is not None:
            with contextlib.suppress(OSError), _folder_of(self._path) as (folder, name):
                _remove(name, folder, self._status)

    def _is_same(self, status: os.stat_result) -> bool:
        return self._status is not None and _are_same(self._status, status)


def _is_file_of(sock: socket.socket, status: os.stat_result) -> bool:
    """Whether a file that was found at the path of `sock`, just bound, is its own."""
    if not stat.S_ISSOCK(status.st_mode):
        return False
    inode = inode_at_path(sock)
    if inode is None:
        # Nobody else can make one that is ours, and put at most another of our own there.
        return status.st_uid == os.geteuid()
    return inode == status.st_ino & 0xFFFFFFFF


def _are_same(one: os.stat_result, other: os.stat_result) -> bool:
    # The time as well: after close(2), the next server's file may have the number of this
    # one's inode. Neither chmod nor clients change it.
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns


def _remove(name: str | bytes, folder: int | None, status: os.stat_result) -> None:
    """Remove the file of that name if it is the one that `status` is of."""
    with contextlib.suppress(FileNotFoundError):
        if _are_same(os.stat(name, dir_fd=folder, follow_symlinks=False), status):
            os.unlink(name, dir_fd=folder)


def _absolute(path: str | bytes) -> str | bytes:
    # Not abspath(): with a link among the folders, ".." is not what the text says.
    path = os.fsencode(path)
    try:
        return os.path.join(os.getcwdb(), path)
    except FileNotFoundError:
        # The working directory is outside of a chroot(2), so no absolute path leads there.
        return path
