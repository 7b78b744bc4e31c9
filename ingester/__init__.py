"""Records Binance order books for months and turns any range of them into training sets.

Recorder           reads live books in this process
export_dataset     cuts a range of time out of the table: files, gaps and manifest
open_dataset       opens a data set for training
import_files       brings earlier recordings into the table
measure_coverage   shows what was recorded, and what is missing and why
status             says how everything is: recorders, QuestDB, disk, and what is wrong
DataSet, PairCoverage, ImportedFiles, Overview, Progress, Endpoint   what these take and return

Each is imported at its first use, so that nothing waits for what it does not need.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("ingester")
