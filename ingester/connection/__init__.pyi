from .connection import Connection as Connection
from .frames import DATA_FRAMES as DATA_FRAMES, FrameSplitter as FrameSplitter, ProtocolError as ProtocolError
from .pool import ConnectionPool as ConnectionPool, FeedConfig as FeedConfig, FeedContext as FeedContext
from .slot import STALE_AFTER_NS as STALE_AFTER_NS, ConnectionSlot as ConnectionSlot
from .subscriptions import SubscriptionManager as SubscriptionManager
from .websocket import (
    AttemptLimit as AttemptLimit,
    Frames as Frames,
    Lost as Lost,
    Opened as Opened,
    WebSocketThread as WebSocketThread,
)
