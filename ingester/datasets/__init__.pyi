from . import dataset as dataset, heatmap as heatmap, request as request, spans as spans
from .backup import Backup as Backup, run_folder as run_folder
from .coverage import (
    PIECES as PIECES,
    Coverage as Coverage,
    PairCoverage as PairCoverage,
    as_mapping as as_mapping,
    pair_coverages as pair_coverages,
    recorded_range as recorded_range,
)
from .dataset import RAW_FORMATS as RAW_FORMATS, ROOT as ROOT, parse_time as parse_time, time_text as time_text
from .dropped import dropped_ranges as dropped_ranges, explained as explained
from .export import PairFile as PairFile, export_pairs as export_pairs, interrupted as interrupted
from .gaps import MissingTime as MissingTime, pair_gaps as pair_gaps, percent_covered as percent_covered
from .importer import Imported as Imported, Importer as Importer
from .manifest import build_manifest as build_manifest, is_whole as is_whole, write_manifest as write_manifest
from .opened import open_dataset as open_dataset
from .origins import ENDINGS as ENDINGS
from .playback import dataset_snapshots as dataset_snapshots, table_snapshots as table_snapshots
from .recordings import find as find
from .selection import check_range as check_range, choose_symbols as choose_symbols
from .spans import SHORTEST_LIMIT_NS as SHORTEST_LIMIT_NS, Recorded as Recorded, shortest_limits as shortest_limits
