from .datasets import (
    DataSet as DataSet,
    ImportedFiles as ImportedFiles,
    PairCoverage as PairCoverage,
    Progress as Progress,
    export_dataset as export_dataset,
    import_files as import_files,
    measure_coverage as measure_coverage,
    open_dataset as open_dataset,
)
from .monitoring import Overview as Overview, status as status
from .questdb import Endpoint as Endpoint
from .record import Recorder as Recorder

__version__: str
