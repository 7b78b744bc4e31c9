from .books import synthetic_pair as synthetic_pair
from .broadcast import SentLog as SentLog
from .faults import parse_fault as parse_fault
from .markets import ExchangeLimits as ExchangeLimits
from .recording import Tape as Tape, tape_of_file as tape_of_file, tape_of_snapshots as tape_of_snapshots
from .simulator import Simulator as Simulator
