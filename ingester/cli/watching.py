"""Options of `ingester start` for those who watch it: the metrics endpoint, and alarms to a webhook."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click
from click.core import ParameterSource

from ingester.cli.access import hide
from ingester.cli.options import Command
from ingester.config import seconds
from ingester.monitoring import AlertLimits, Monitor, Observer
from ingester.questdb import Policy
from ingester.record import RecorderService

if TYPE_CHECKING:
    from ingester.monitoring import MonitoringServer, Webhook

log = logging.getLogger("ingester.watching")


def _hidden(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A webhook's address is a secret: on the command line every user could read it there."""
    if value and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
        scheme, _, rest = value.partition("://")
        log.warning(
            "the address in --alarm-webhook %s: give it by INGESTER_START_ALARM_WEBHOOK or the configuration file",
            "could be read by every user for a moment, and stays in the shell's history"
            if hide(f"{scheme}://" if rest else "", rest or value, "")
            else "can be read by every user of this machine",
        )
    return value


def watching_options(command: Command) -> Command:
    """`--metrics` and `--alarm-…`."""
    for decorate in (
        click.option(
            "--alarm-wait",
            default="60s",
            show_default=True,
            metavar="DURATION",
            help="Rows that wait, and connections that are lost, for longer are wrong.",
        ),
        click.option(
            "--alarm-gap", default="30s", show_default=True, metavar="DURATION", help="A longer gap is wrong."
        ),
        click.option(
            "--alarm-webhook",
            metavar="URL",
            callback=_hidden,
            help="Post a message here when something is wrong, and when it is over. "
            "A secret: better given by variable or file.",
        ),
        click.option(
            "--metrics-host",
            metavar="NAME",
            multiple=True,
            help="Also accept requests for this host name; addresses, names without a dot and this machine's own name "
            "are always accepted. May be repeated.",
        ),
        click.option(
            "--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /healthz: 127.0.0.1:9464."
        ),
    ):
        command = decorate(command)
    return command


class Watching:
    """Everything that watches a recorder from inside its process; as context manager, it ends with it."""

    def __init__(
        self, metrics: str | None, webhook: str | None, gap: str, wait: str, hosts: Sequence[str] = ()
    ) -> None:
        """Listens at `metrics` at once. Raises SettingsError, and OperationError where the port is taken."""
        self._limits = AlertLimits(gap=seconds(gap, "--alarm-gap"), wait=seconds(wait, "--alarm-wait"))
        self._webhook = _webhook(webhook) if webhook else None
        self._door = _door(metrics, hosts) if metrics else None
        self._pulse: Monitor | None = None

    def of(self, collector: RecorderService, data_dir: Path, managed: bool, questdb: str, policy: Policy) -> None:
        """Which recorder to watch, from `start` on; `managed`: its QuestDB, at the address, is that of the folder.

        `policy`: what becomes of old days.
        """
        observer = Observer(collector, data_dir, managed, questdb, self._limits, policy)
        tell = self._webhook.tell if self._webhook else None
        self._pulse = Monitor(observer, data_dir, collector.settings.collector, tell)

    def start(self) -> None:
        """Recording has begun."""
        assert self._pulse is not None
        self._pulse.start()
        if self._door is not None:
            self._door.show(self._pulse.latest, self._pulse.age)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._pulse is not None:
            self._pulse.stop("" if error is None else str(error) or repr(error))
        if self._webhook is not None:
            self._webhook.close()
        if self._door is not None:
            self._door.close()


# Imported where they are wanted: a recorder should hold no libraries that it does not use.


def _webhook(url: str) -> "Webhook":
    from ingester.monitoring import Webhook

    return Webhook(url)


def _door(address: str, hosts: Sequence[str]) -> "MonitoringServer":
    from ingester.monitoring import MonitoringServer

    return MonitoringServer(address, hosts)
