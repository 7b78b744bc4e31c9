"""Data sets: cut out of the table, brought into it, opened for training.

programs           what programs call: export, import, coverage
dataset            names, columns, times; which range and pairs are asked for
slices, merging    slices of all pairs, split by pair; copies of several recorders merged
formats            the files of a data set, written and read
export, manifest   a data set as a whole, and the file that describes it
opened             a data set for training
backup             raw files while recording
recordings, lines, columns   earlier files: found, opened within limits, understood
pickles, pickle_machine   the frame in a pickle, of which nothing is executed
importer, known    recordings stored in the table; what the table has of them already
spans, gaps, coverage, heatmap   what was recorded, what is missing and why
playback           table or data set as one stream of books
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
