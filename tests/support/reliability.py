"""The report on all faults, as Markdown for people."""

import os
import platform
from pathlib import Path
from typing import NamedTuple

import psutil

from ingester import __version__
from ingester.questdb import launch

COLUMNS = ("fault", "what was done", "sent", "stored", "lost", "twice", "in gaps", "recovery", "remark")
EXPLANATION = """\
What happens to a recording when something breaks. Each fault was produced for real, between a simulated exchange, the
command `ingester start` and a QuestDB. Then the update ids of all books were compared: those that the exchange sent,
those in the spool's files, those that `SELECT` returns.

* **sent**, **stored**: books that the exchange sent until recording was ended, and rows in the table. More are sent
  than stored where a connection was cut in between; more are stored than sent where a book was already on its way.
* **lost**: books that were sent, or taken by the spool, are not in the table, and lie in no recorded gap.
* **twice**: books that are in the table more than once.
* **in gaps**: books missing (sent or not) within gaps on record, in `collector_events`, for that pair.
* **recovery**: seconds from the fault (or from its end, where the remark says so) until new rows were visible.
"""


class Line(NamedTuple):
    """One fault and what became of the recording."""

    number: int
    fault: str
    done: str
    sent: int
    stored: int
    lost: int
    twice: int
    in_gaps: int
    seconds: float | None
    remark: str

    def cells(self):
        numbers = [f"{each:,}" for each in (self.sent, self.stored, self.lost, self.twice, self.in_gaps)]
        return [self.fault, self.done, *numbers, "" if self.seconds is None else f"{self.seconds:.1f} s", self.remark]


def machine():
    """CPU, cores, memory, system and versions, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GB, {platform.system()} {platform.release()}; "
        f"ingester {__version__}, Python {platform.python_version()}, QuestDB {launch.VERSION}"
    )


def markdown(lines, date, command, failed):
    """The whole document; `failed`: how many tests did, so that their faults are not in the table."""
    rows = [
        COLUMNS,
        ["---", "---", *["---:"] * 6, "---"],
        *(line.cells() for line in sorted(lines, key=lambda line: line.number)),
    ]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    made = f"Made on {date} by `{command}` on {machine()}."
    if failed:
        made += f"\n\n**{failed} of its tests failed: what they show is not in this table.**"
    return f"# Reliability\n\n{EXPLANATION}\n{made}\n\n{table}\n"
