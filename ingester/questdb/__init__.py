"""QuestDB: client, tables, rows in, rows out, and the managed server.

endpoint           where a QuestDB is, and as whom it is asked
client             rows in, statements and their answers, bulk reads over HTTP
secrets, tls       passwords and tokens in files; which certificates are trusted
jar, launch, server  the managed server: fetched, verified, started, adopted, watched
peer               which process has the other end of a connection
tables, schema     names and statements of `sql/`; applies them, checks existing tables
migrations, exchange_history  bring tables of earlier versions up to date; of which exchange their rows are
columns            adds columns to a table that has Parquet days
damage             files of a table that a crash has cut
query, reader      what the table holds; time slices as arrays
encoder, ilp       books and events as ILP; ILP split into rows
writer             the thread that brings the spool's rows to QuestDB
dead_letters       rows that QuestDB refuses for good
sent_counts, reconciler  what was sent against what the tables show
retention, retention_worker, partitions  what happens to old days: decided, carried out, and the days themselves
leases             who works on a range of time
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
