from . import alerts as alerts
from .alerts import AlertLimits as AlertLimits, connecting_text as connecting_text, way_out as way_out
from .http import MonitoringServer as MonitoringServer
from .monitor import Monitor as Monitor
from .observer import Observer as Observer, connecting as connecting
from .overview import (
    DayOfGaps as DayOfGaps,
    Overview as Overview,
    RecorderOverview as RecorderOverview,
    Server as Server,
)
from .report import Report as Report
from .state_file import read_all as read_all, running_collectors as running_collectors
from .survey import TIMEOUT as TIMEOUT, survey_recorders as survey_recorders
from .webhook import Webhook as Webhook
