"""The recorders: they compose feed, spool, writer and live buffer.

recorder_service   the recorder of `ingester start`
recorder           `Recorder` for programs, without a database
pairs_file         the file of the recorded pairs, and the thread that follows it
instruments        what the exchange lists, by time
practice           simulated and real books never share a table
unsent             rows in spools whose recorder does not run
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
