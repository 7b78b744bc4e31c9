from .pairs_file import (
    PAIRS_FILE_NAME as PAIRS_FILE_NAME,
    LastRecorded as LastRecorded,
    PairsFile as PairsFile,
    PairsWatcher as PairsWatcher,
    pairs_file_name as pairs_file_name,
)
from .practice import (
    refuse_mixing as refuse_mixing,
    refuse_mixing_unasked as refuse_mixing_unasked,
    refuse_sending as refuse_sending,
)
from .recorder import Recorder as Recorder, simulated_symbols as simulated_symbols
from .recorder_service import RecorderService as RecorderService, spool_folder as spool_folder
from .unsent import (
    Leftover as Leftover,
    give_back_reserves as give_back_reserves,
    leftovers as leftovers,
    send as send,
    spools as spools,
)
