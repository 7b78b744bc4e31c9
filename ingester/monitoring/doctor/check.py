"""Checks: what each finds, and all of them at the same time, none longer than it may take."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

State = Literal["ok", "warning", "fail", "skipped"]

PATIENCE_SECONDS = 30.0


class Finding(msgspec.Struct, frozen=True):
    """One line of the result."""

    subject: str
    state: State
    text: str
    mend: str = ""
    """What to do, where it is not ok: a command, where there is one."""


class Check(NamedTuple):
    """Something to look at. It yields what it finds as it goes, and raises nothing that was to be expected."""

    subject: str
    look: Callable[[], Iterator[Finding]]


def examine(checks: Sequence[Check], patience: float = PATIENCE_SECONDS) -> list[Finding]:
    """Carries out all checks, each in a thread, and gives their findings in the order of the checks.

    One that is not done after `patience` seconds, as where a file system hangs, is left behind and told so.
    """
    found: list[list[Finding]] = [[] for _ in checks]

    def run(check: Check, findings: list[Finding]) -> None:
        try:
            for finding in check.look():
                findings.append(finding)  # one by one: what was found before a check hangs is told
        except Exception as error:  # a bug in one check must not hide what the others find
            findings.append(
                Finding(check.subject, "fail", f"{type(error).__name__}: {error}", "this is a bug; tell it")
            )

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(checks, found, strict=True)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + patience
    for thread, check, findings in zip(threads, checks, found, strict=True):
        thread.join(max(0.0, ends - time.monotonic()))
        if thread.is_alive():
            late = Finding(check.subject, "fail", f"did not come to an end within {patience:.0f} s", "try again")
            findings.append(late)
    return [finding for findings in found for finding in list(findings)]
