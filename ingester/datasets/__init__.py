"""Data sets: cut out of the table, brought into it, opened for training.

dataset, request     names, columns, times; what is asked for
slices, merging      slices of all pairs, split by pair; copies of several recorders merged
spill, inplace       where rows wait on disk
formats, export, manifest  the files of a data set and its manifest
backup               raw files while recording
recordings, unpacking, columns, lines  earlier files: found, opened within limits, understood
pickles, pickle_machine, pickle_arrays  the frame in a pickle, of which nothing is executed
origins, content, known, importer  what a file is, what it holds, what the table has already, how the rest is stored
spans, span_counter, gaps, dropped, unwatched, coverage, heatmap  what was recorded, what is missing and why
selection            which range and pairs are meant
opened, episodes, folder, reading  a data set for training
playback             table or data set as one stream of books
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
