from . import segment as segment
from .checkpoint import CheckpointFile as CheckpointFile
from .disk import (
    RESERVE as RESERVE,
    Disk as Disk,
    claim as claim,
    reason_of as reason_of,
    replace_durably as replace_durably,
    sync_folder as sync_folder,
)
from .segment import LostRange as LostRange
from .spool import Spool as Spool
