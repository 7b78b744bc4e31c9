"""QuestDB: client, tables, rows in, rows out, and the managed server.

endpoint    address, user and secrets of a QuestDB; TLS settings and errors
client      writes rows, runs statements, reads in bulk over HTTP
launch      fetches and verifies QuestDB's jar; command line, settings and log of the server
server      the managed server: starts, adopts, watches and stops it
peer        checks which process has the other end of a connection
tables      names of the tables and statements of `sql/`
schema      creates tables and views, checks existing tables
migrations  brings tables of earlier versions up to date, and finds the exchange of their rows
columns     adds columns to a table that has Parquet days
partitions  lists, converts and drops the days of a table
retention   decides what happens to old days, and does it
leases      announces who works on a range of time
damage      finds files of a table that a crash has damaged
query       asks what the tables hold; parts of SQL statements
reader      reads slices of time as arrays
encoder     encodes books and events as ILP
ilp         splits ILP into rows and reads their symbols and fields
writer      sends the rows of the spool to QuestDB; keeps refused rows as dead letters
reconciler  counts what was sent, compares it with the tables, sends missing rows again
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
