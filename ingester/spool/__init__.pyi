from .disk import (
    free_reserve as free_reserve,
    reason_of as reason_of,
    replace_durably as replace_durably,
    sync_folder as sync_folder,
)
from .recovery import count_waiting as count_waiting
from .segment import LostRange as LostRange
from .spool import Spool as Spool
