from .event_counts import EventCounts as EventCounts, EventSummary as EventSummary
from .gap_detector import (
    RESOLUTION_NS as RESOLUTION_NS,
    TRADING as TRADING,
    Gap as Gap,
    GapDetector as GapDetector,
)
from .gap_rule import (
    GAP_INTERVALS as GAP_INTERVALS,
    LONGEST_INTERVAL_NS as LONGEST_INTERVAL_NS,
    RHYTHM_INTERVALS as RHYTHM_INTERVALS,
    SHORTEST_GAP_NS as SHORTEST_GAP_NS,
    UNKNOWN_LIMIT_NS as UNKNOWN_LIMIT_NS,
    gap_limit_ns as gap_limit_ns,
)
from .monitor import SequenceMonitor as SequenceMonitor, StatusInquiry as StatusInquiry
