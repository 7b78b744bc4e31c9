from .connection import Connection as Connection
from .frames import DATA_FRAMES as DATA_FRAMES, FrameSplitter as FrameSplitter, ProtocolError as ProtocolError
from .slot import STALE_AFTER_NS as STALE_AFTER_NS, ConnectionSlot as ConnectionSlot
from .subscriptions import SubscriptionManager as SubscriptionManager
from .websocket import (
    Arrival as Arrival,
    AttemptLimit as AttemptLimit,
    Frames as Frames,
    Lost as Lost,
    Opened as Opened,
    WebSocketThread as WebSocketThread,
)
