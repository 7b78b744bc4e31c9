"""The write-ahead log between the feed and QuestDB: a queue of records in a folder. It knows nothing of order books.

Invariants
 1. When `append` returns True, the record is in a file that a restart finds. It survives the end of this process,
    kill -9 included. What was received up to `synced_ns` survives a power cut; that is about 50 ms behind.
 2. A record is removed only after it was acknowledged, seen in the tables (with `keep_until_verified`), and covered by
    the checkpoint on disk. So a crash at any moment sends records again and skips none; DEDUP keys absorb copies.
 3. The checkpoint on disk is never ahead of what was acknowledged.
 4. Sequence numbers rise by one from record to record. No two records in the folder have the same one.
 5. Only a checksum or a wrong sequence number tells of damage. A file that the system does not let us read now (too
    many open files, a failing disk) is kept and tried again.
 6. Damaged bytes are moved to `damaged/`, never deleted. The time that they covered is reported as a `LostRange`, which
    the recorder turns into a gap.
 7. A record that was refused for lack of room left no part of itself in the folder. `full_since` says since when.
 8. One process holds the folder, by a lock that stays held where the folder is moved or deleted meanwhile.
 9. The appending thread never waits for the disk, only for the page cache; nothing is synced or read under the lock.

The folder
  lock                      locked by flock; holds the process id
  position                  the checkpoint: `<sequence> <last receive time in ns> <CRC32, 8 hex digits>` and a newline;
                            all before that sequence is acknowledged. Replaced whole: written aside, synced, renamed.
  reserve                   64 MB given up on a full disk, so that the checkpoint can still be written
  <20 digits>.seg           a segment, named by the sequence of its first record
  damaged/                  what could not be read: `<segment>.<byte from which on>`

A segment (little endian)
  header, 24 bytes          magic `ingspool`, version uint32 = 1, first sequence uint64, CRC32 uint32 of these 20 bytes
  record, 36 bytes + body   length of the body uint32, CRC32 uint32 (of length, the fields that follow, and body),
                            sequence uint64, rows uint32, first and last receive time in ns int64
A record is good when it is whole, its checksum is right and its sequence is the next one. Reading stops at the first
record that is not; what follows in that file is damaged, for nothing tells where another record begins. Each record has
a checksum of its own, so a damaged file header costs nothing. A newer version is refused, not guessed at.

The life of a record
  append       one writev into the active segment; a segment of 64 MB is full, and the next one begins
  sync         the thread `spool-sync` makes it durable; a sync that fails is repeated, and an alert
  peek         the writer reads the oldest records and sends them
  acknowledge  QuestDB has taken them; the head moves on
  verify       the reconciler has seen them in the tables
  resend       moves the head back over acknowledged records, where QuestDB has lost them after all
  drop         15 minutes after its last record was acknowledged a segment is deleted; earlier where room is needed

After a crash (`recovery`)
  The segments from the checkpoint on are read. A damaged end is cut off and moved to `damaged/`. Without a checkpoint
  everything retained is sent again. A sequence that is missing between two segments is a `LostRange`.

Full disks
  `limit_bytes` bounds the spool, `free_bytes` stay free for others. Segments that may be dropped go first. Then
  `append` refuses until there is room for a whole segment more, or it would flap. A write that fails for lack of space
  counts for more than what the disk says is free.

Folders that are deleted or moved under a running recorder are made again; what waits in them is read through the open
descriptor where the files still exist.

Modules
  spool        append, peek, acknowledge, resend
  segment      one file: format, reading, damage
  checkpoint   which records are acknowledged, in memory and on disk
  recovery     what a folder holds after a restart
  syncer       the thread that makes appended records durable
  disk         lock, free space, reserve, files that are replaced whole
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
