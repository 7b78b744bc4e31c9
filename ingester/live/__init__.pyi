from .buffer import LiveBuffer as LiveBuffer
from .ring import RingRows as RingRows, Row as Row
from .subscribers import (
    Consumer as Consumer,
    OnEvent as OnEvent,
    OnSnapshot as OnSnapshot,
    Subscribers as Subscribers,
)
from .synchronous import SynchronousRows as SynchronousRows
