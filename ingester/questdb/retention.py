"""What becomes of old days, decided: when each is to become Parquet, when it is to go, and what keeps it as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.errors import SettingsError
from ingester.questdb.partitions import DAY, Partition

HOUR = 3600 * SECOND
CONVERT, DROP = "convert", "drop"
SPARE_BYTES = 512 << 20
"""Has to be free beside what a conversion writes: a full disk ends QuestDB."""
WRITTEN_SHARE = 0.5
"""A day as Parquet needs less than this share of its native bytes, and they lie side by side for a moment."""


@dataclass(frozen=True)
class Policy:
    """After how many ns, counted from a day's end, it becomes Parquet, and is dropped; None: never.

    Raises SettingsError on what would drop a day too soon, or convert it in vain.
    """

    parquet_after_ns: int | None = None
    drop_after_ns: int | None = None

    def __post_init__(self) -> None:
        parquet, drop = self.parquet_after_ns, self.drop_after_ns
        if parquet is not None and parquet < HOUR:
            raise SettingsError("--parquet-after is less than 1h; rows of the day may still be on their way.")
        if drop is not None and drop < DAY:
            raise SettingsError("--drop-after is less than 1d; what is dropped does not come back. Write 1d or more.")
        if parquet is not None and drop is not None and drop <= parquet:
            raise SettingsError(
                f"--drop-after ({drop / DAY:g}d) is not later than --parquet-after ({parquet / DAY:g}d): days would be "
                "converted only to be dropped. Leave --parquet-after out, or make --drop-after longer."
            )

    @property
    def is_active(self) -> bool:
        """Whether anything is to be done at all."""
        return self.parquet_after_ns is not None or self.drop_after_ns is not None


class Step(NamedTuple):
    """What is to become of one day next."""

    partition: Partition
    action: str = ""
    """CONVERT, DROP, or nothing ever."""
    due_ns: int = 0
    """When, where there is an action."""
    hindrance: str = ""
    """Why a step that is due is not taken now."""

    def is_due(self, now_ns: int) -> bool:
        """Whether its time has come."""
        return bool(self.action) and self.due_ns <= now_ns


class RetentionState(NamedTuple):
    """What else a decision depends on."""

    now_ns: int
    rows_before: Mapping[str, int] | None = None
    """Rows of each day at an earlier look; None where there was none."""
    waits_since_ns: int | None = None
    """The receive time of the oldest row that is on its way to the table; None where there is none, or not known."""
    free_bytes: int | None = None
    """On the server's disk; None where not known."""
    suspended: str | None = None
    """QuestDB's words where it does not apply rows."""


def plan(partitions: Sequence[Partition], policy: Policy, state: RetentionState) -> list[Step]:
    """The next step of each day, in the order of days. One that is due and not hindered is to be taken now."""
    return [_hindered(_next(each, policy, state.now_ns), state) for each in partitions]


def _next(partition: Partition, policy: Policy, now_ns: int) -> Step:
    drop = convert = None
    if policy.drop_after_ns is not None:
        drop = Step(partition, DROP, partition.end_ns + policy.drop_after_ns)
    if policy.parquet_after_ns is not None and not partition.is_parquet:
        convert = Step(partition, CONVERT, partition.end_ns + policy.parquet_after_ns)
    if drop and (convert is None or drop.is_due(now_ns)):  # to convert first what is to be dropped now would be in vain
        return drop
    return convert or Step(partition)


def _hindered(step: Step, state: RetentionState) -> Step:
    return step._replace(hindrance=_hindrance(step, state)) if step.is_due(state.now_ns) else step


def _hindrance(step: Step, state: RetentionState) -> str:
    day = step.partition
    if day.is_active:
        return "it is the newest day"
    if day.is_read_only:
        return "the server holds it read-only"
    if state.suspended is not None:
        return f"QuestDB has suspended the table: {state.suspended}"
    if state.waits_since_ns is not None and state.waits_since_ns < day.end_ns:
        return "rows of it wait in the spool"
    if state.rows_before is not None and state.rows_before.get(day.day, day.rows) != day.rows:
        return "rows still come in"
    needed = round(day.bytes * WRITTEN_SHARE) + SPARE_BYTES
    if step.action == CONVERT and state.free_bytes is not None and state.free_bytes < needed:
        return f"{needed / 1e9:.1f} GB are needed on the server's disk, {state.free_bytes / 1e9:.1f} GB are free"
    return ""
