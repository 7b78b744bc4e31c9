"""Finds the process of the managed QuestDB, and checks that it is at the other end of a connection.

A port proves nothing: while the server is down or starts, any user of the machine may listen there. So each new
connection is checked before anything is sent. The socket that accepted it has to belong to the server's process. That
process has to run as this user, in the server's folder, and since the time that the state file names.
"""

import contextlib
import errno
import os
import pwd
import re
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path

import msgspec
import psutil

from ingester.errors import NoAnswer, UnknownServer, Unreachable

ACCEPT_SECONDS = 5.0
"""The server accepts a connection within this time, or it hangs."""
_POLL_SECONDS = 0.001
TABLE = Path("/proc/net/tcp")

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, LISTEN = 4, 20, 1, 10
NO_COOKIE = b"\xff" * 8
_REQUEST = struct.Struct("=IHHII BBBBI 2s2s4s12x4s12xI8s")
"""nlmsghdr and inet_diag_req_v2 of linux/netlink.h and linux/inet_diag.h."""

_NOT_OURS = (psutil.Error, FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError, ValueError)
"""These errors mean that a process is gone, or belongs to another user. Another OSError, such as a lack of descriptors,
means neither."""

Address = tuple[str, int]
_known: deque[tuple[Path, int, int]] = deque(maxlen=8)
"""Folder, process and start time of servers that were verified before."""
_recent: deque[str] = deque(maxlen=4)
"""The descriptors of sockets that were accepted last. The server reuses them, and it may have thousands."""


class ServerState(msgspec.Struct, frozen=True):
    """The state file: what is known of the running server, or of the last one."""

    pid: int
    http_port: int
    pg_port: int
    stopped: bool = False
    """Whether somebody stopped it; then it is not restarted because it is gone."""
    started: int = 0
    """The start time of the process, as `started_at` returns it; 0 in files of earlier versions."""


def read_state(path: Path) -> ServerState | None:
    """Returns the state; None if there is no file, or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ServerState)
    except (FileNotFoundError, ValueError):  # msgspec's errors are among them
        return None


def started_at(pid: int) -> int:
    """Returns when a process was started, in ticks since the boot. No other process with this pid has the same time."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return int(psutil.Process(pid).create_time())  # a system without /proc


def process_of(state: ServerState, root: Path) -> psutil.Process | None:
    """Returns the server's process, if it is still the one that the state names; else None.

    Raises OSError if that cannot be seen, for example for lack of descriptors: the server may run all the same.
    """
    try:
        process = psutil.Process(state.pid)
        same = not state.started or started_at(state.pid) == state.started
        return process if same and is_server(process, root) else None
    except _NOT_OURS:
        return None


def is_server(process: psutil.Process, root: Path) -> bool:
    """Returns whether a process is the QuestDB of a folder, and runs as this user or as the folder's owner.

    Raises psutil.Error, and OSError if that cannot be seen now.
    """
    option, folder = ["", "", *process.cmdline()][-2:]
    if option != "-d":
        return False
    owners, same = {os.geteuid()}, folder == str(root)  # it may have been moved or deleted meanwhile
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        ours = root.stat()
        owners.add(ours.st_uid)
        with contextlib.suppress(OSError):  # one folder has several names, and any process may name any folder
            same = os.path.samestat(os.stat(folder), ours)
    return (
        same
        and process.uids().real in owners
        and Path(process.exe()).name.startswith("java")
        and process.status() != psutil.STATUS_ZOMBIE
    )


def verify(connection: socket.socket, root: Path) -> None:
    """Returns if the server of a folder has accepted this connection.

    Raises UnknownServer, with the name of the other process, if another process has accepted it; NoAnswer if nobody
    accepts it; Unreachable if the system does not show now who has it.
    """
    here, there = connection.getsockname(), connection.getpeername()
    try:
        _verify(here, there, root)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "out of memory"
        raise Unreachable(
            f"It cannot be seen now which process listens at {there[0]}:{there[1]} ({reason}), so nothing was sent "
            "there. Try again."
        ) from error


def _verify(here: Address, there: Address, root: Path) -> None:
    pid = _server(root)
    deadline = time.monotonic() + ACCEPT_SECONDS
    while True:
        owner = _accepted(pid, here, there)
        if owner is True:
            return
        if owner is False:
            raise UnknownServer(
                f"Not ingester's QuestDB but {_holder(here, there)} listens at {there[0]}:{there[1]}, so nothing was "
                "sent there. End that program, or leave it: ingester server start brings QuestDB up at another port."
            )
        if time.monotonic() > deadline:
            raise NoAnswer(f"QuestDB at {there[0]}:{there[1]} accepts no connection, it seems to hang")
        time.sleep(_POLL_SECONDS)


def _server(root: Path) -> int | None:
    """Returns the pid of a folder's server; None if it does not run. Raises OSError if that cannot be seen now."""
    state = read_state(root.parent / "server.json")
    try:
        known = state and (root, state.pid, started_at(state.pid))
    except _NOT_OURS:
        return None
    if known and known in _known:
        return known[1]
    process = process_of(state, root) if state else find_server(root)
    if process and known:
        _known.append(known)
    return process.pid if process else None


def find_server(root: Path) -> psutil.Process | None:
    """Returns the server of a folder whose state file is lost. Raises OSError if that cannot be seen now."""
    for process in psutil.process_iter():
        try:
            if is_server(process, root):
                return process
        except _NOT_OURS:
            continue
    return None


def _accepted(pid: int | None, here: Address, there: Address) -> bool | None:
    """Returns whether a process has the other end of a connection; None if nobody has accepted it yet."""
    if not TABLE.exists():  # not Linux
        held = psutil.Process(pid).net_connections("tcp") if pid else []
        return any((tuple(each.laddr), tuple(each.raddr or ())) == (there, here) for each in held)
    if inode := _socket(there, here)[1]:
        return _owns(pid, inode)
    listener = _socket(there, None)[1]
    return False if listener and not _owns(pid, listener) else None


def _socket(local: Address, remote: Address | None) -> tuple[int, int]:
    """Returns user and inode of a connected socket, or without `remote` of a listening one; 0, 0 if there is none.

    A socket that was not accepted yet belongs to nobody and has the inode 0.
    """
    try:
        return _from_sock_diag(local, remote)
    except OSError:  # for example in a sandbox
        return _from_table(local, remote)


def _from_sock_diag(local: Address, remote: Address | None) -> tuple[int, int]:
    """Asks sock_diag(7), which finds one socket among many at once. Raises OSError if the kernel does not have it."""
    here, (there, port) = socket.inet_aton(local[0]), remote or ("0.0.0.0", 0)
    request = _REQUEST.pack(
        *(_REQUEST.size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0),
        *(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF),
        *(local[1].to_bytes(2), port.to_bytes(2), here, socket.inet_aton(there), 0, NO_COOKIE),
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(1.0)
        asking.send(request)
        answer = asking.recv(4096)
    kind, state = answer[4], answer[17]
    if kind != SOCK_DIAG_BY_FAMILY:
        error = -int.from_bytes(answer[16:20], sys.byteorder, signed=True)
        if error == errno.ENOENT:
            return 0, 0
        raise OSError(error, os.strerror(error))
    if (state == LISTEN) != (remote is None):  # without such a connection, it returns the listener
        return 0, 0
    user, inode = struct.unpack_from("=II", answer, 80)
    return user, inode


def _from_table(local: Address, remote: Address | None) -> tuple[int, int]:
    """Reads the table of all sockets."""
    other = _hex(remote) + rb" \w\w" if remote else rb"00000000:0000 0A"
    addresses = [local] if remote else [local, ("0.0.0.0", local[1])]
    table = TABLE.read_bytes()
    for address in addresses:
        found = re.search(rb": %b %b \S+ \S+ \S+ +(\d+) +\d+ +(\d+)" % (_hex(address), other), table)
        if found:
            return int(found[1]), int(found[2])
    return 0, 0


def _hex(address: Address) -> bytes:
    """Returns an address in the form of the kernel's table: the four bytes as a number in this machine's byte order."""
    return b"%08X:%04X" % (int.from_bytes(socket.inet_aton(address[0]), sys.byteorder), address[1])


def _owns(pid: int | None, inode: int) -> bool:
    """Returns whether a process has a socket. Raises OSError if that cannot be seen now."""
    if pid is None:
        return False
    wanted, folder = f"socket:[{inode}]", f"/proc/{pid}/fd"
    try:
        for number in (*_recent, *os.listdir(folder)):
            try:
                if os.readlink(f"{folder}/{number}") == wanted:
                    if number not in _recent:
                        _recent.append(number)
                    return True
            except FileNotFoundError:
                continue
    except _NOT_OURS:
        pass
    return False


def _holder(here: Address, there: Address) -> str:
    """Returns, in words, who has a connection or listens for it, as far as that can be read."""
    user, inode = _socket(there, here) if TABLE.exists() else (0, 0)
    if not inode:
        user, inode = _socket(there, None) if TABLE.exists() else (0, 0)
    for process in psutil.process_iter(["name", "username"]) if inode else ():
        if _owns(process.pid, inode):
            return f"{process.info['name']} (pid {process.pid}, user {process.info['username']})"
    if not inode:
        return "another program"
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return f"a program of user {name}"
