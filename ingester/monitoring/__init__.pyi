from .alerts import AlertLimits as AlertLimits, connecting_text as connecting_text, way_out as way_out
from .doctor import (
    Check as Check,
    Finding as Finding,
    examine as examine,
    folder_checks as folder_checks,
    machine_checks as machine_checks,
)
from .doctor_exchange import exchange_checks as exchange_checks
from .doctor_questdb import questdb_checks as questdb_checks
from .metrics_server import MonitoringServer as MonitoringServer
from .monitor import Monitor as Monitor, Observer as Observer, connecting as connecting
from .overview import (
    DayOfGaps as DayOfGaps,
    Overview as Overview,
    RecorderOverview as RecorderOverview,
    ServerOverview as ServerOverview,
    status as status,
)
from .report import Report as Report, running_collectors as running_collectors
from .webhook import Webhook as Webhook
