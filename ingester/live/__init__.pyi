from .buffer import LiveBuffer as LiveBuffer
from .callbacks import OnEvent as OnEvent, OnSnapshot as OnSnapshot
from .consumer import Consumer as Consumer
from .ring import RingRows as RingRows, Row as Row
from .subscribers import Subscribers as Subscribers
from .synchronous import SynchronousRows as SynchronousRows
