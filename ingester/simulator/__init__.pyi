from .faults import parse_fault as parse_fault
from .simulator import Simulator as Simulator
from .tape import Tape as Tape, tape_of_snapshots as tape_of_snapshots
