from . import dataset as dataset, heatmap as heatmap
from .backup import Backup as Backup, run_folder as run_folder
from .coverage import (
    PIECES as PIECES,
    Coverage as Coverage,
    PairCoverage as PairCoverage,
    as_mapping as as_mapping,
    measure_range as measure_range,
)
from .dataset import (
    RAW_FORMATS as RAW_FORMATS,
    ROOT as ROOT,
    Progress as Progress,
    check_range as check_range,
    parse_time as parse_time,
    select_rows as select_rows,
    time_text as time_text,
)
from .export import export_range as export_range, interrupted as interrupted
from .importer import Imported as Imported, ImportedFiles as ImportedFiles, import_found as import_found
from .merging import WINDOW_NS as WINDOW_NS
from .opened import DataSet as DataSet, open_dataset as open_dataset
from .playback import dataset_snapshots as dataset_snapshots, table_snapshots as table_snapshots
from .programs import (
    export_dataset as export_dataset,
    import_files as import_files,
    measure_coverage as measure_coverage,
)
from .recordings import find_recordings as find_recordings, require_files as require_files
