from .event_counts import EventCounts as EventCounts, EventSummary as EventSummary
from .gap_detector import (
    LIMIT_INTERVALS as LIMIT_INTERVALS,
    RESOLUTION_NS as RESOLUTION_NS,
    TRADING as TRADING,
    Gap as Gap,
    GapDetector as GapDetector,
)
from .monitor import SequenceMonitor as SequenceMonitor, StatusInquiry as StatusInquiry
