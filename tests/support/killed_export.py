"""Exports that are killed at each of their steps, and resumed: run as a script, in processes that it forks.

A step is what Python's audit hooks tell of a change below `ROOT`: a file is opened to be written, renamed, linked or
removed.

    python tests/support/killed_export.py ROOT SLICE_ROWS EVERY -- OPTIONS OF INGESTER EXPORT

kills it at every EVERY-th step, and prints how many there are.
"""

import io
import os
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

EVENTS = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}


def export(options, kill_at=0):
    """Exports in a process of its own; whether it was killed at that step."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.waitstatus_to_exitcode(status) == 0, f"step {kill_at} of {options}: {status}"
        return False
    code = 1
    try:
        if kill_at:
            sys.addaudithook(killer(kill_at))
        from ingester.cli import cli

        with redirect_stdout(io.StringIO()):
            cli(["export", *options], standalone_mode=False)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def killer(kill_at):
    left = kill_at

    def hook(event, arguments):
        nonlocal left
        changes = event in EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and any("extracted datasets" in str(each) for each in arguments[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def content(root):
    (folder,) = (root / "extracted datasets").iterdir()
    return {str(path.relative_to(root)): path.read_bytes() for path in [*folder.iterdir()]}


def main():
    root, slice_rows, every, _, *options = sys.argv[1:]
    from ingester.questdb import reader

    reader.SLICE_ROWS = int(slice_rows)
    whole, killed = Path(root) / "whole", Path(root) / "killed"
    assert not export([*options, "--root", str(whole)])
    expected, step = content(whole), 1 - int(every)
    while True:
        step += int(every)
        if not export([*options, "--root", str(killed), "--resume"], step):
            break
        export([*options, "--root", str(killed), "--resume"])
        found = content(killed)
        assert found == expected, f"killed at step {step}: {sorted(found)}, not {sorted(expected)}, or other bytes"
        shutil.rmtree(killed)
    sys.stdout.write(f"{step - 1}\n")


if __name__ == "__main__":
    main()
