from .feed import LONGEST_DETAIL as LONGEST_DETAIL
from .loop import FeedLoop as FeedLoop
