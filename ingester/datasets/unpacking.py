"""Opens files that came from anywhere: regular files only, and packed ones unpacked within limits."""

import bz2
import gzip
import io
import lzma
import os
import stat
from pathlib import Path
from typing import IO, Any

from ingester.errors import OperationError

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files."""
ALWAYS_BYTES = 1 << 30
"""A file may hold so much, however small it is while it is packed."""
MOST_RATIO = 100
"""Beyond that, it may be so many times as large as its packed form. Books shrink to a tenth, as a rule."""
_XZ_MEMORY = 256 << 20
"""What unpacking xz may take: a file says itself how much it needs, and `xz -9` writes files that need 65 MB."""
_XZ_READ = _ZSTD_READ = 1 << 16


class UnreadableRecording(OperationError):
    """A file is no recording of a pair's books, holds what a recording does not, or is not to be opened."""


def open_regular(path: Path) -> IO[bytes]:
    """A regular file, which no symbolic link stands for. Raises UnreadableRecording."""
    try:
        # A FIFO would wait for someone who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise UnreadableRecording(
                f"is a symbolic link, which is not followed; name the file itself: {path.readlink()}"
            ) from error
        raise UnreadableRecording(f"cannot be read: {type(error).__name__}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableRecording("is no regular file, but a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def unpacked(path: Path, always_bytes: int = 0, most_ratio: int = MOST_RATIO) -> IO[bytes]:
    """The bytes of a file, unpacked where its ending says that it is packed. Not to be trusted to be short.

    Reading raises UnreadableRecording where they are more than `always_bytes` (0: `ALWAYS_BYTES`) and than `most_ratio`
    times what is packed, EOFError where the file is cut short.
    """
    file = open_regular(path)
    ending = path.suffix.lower()
    if ending not in PACKED:
        return file
    size = os.fstat(file.fileno()).st_size
    inner: Any
    if ending == ".gz":
        inner = gzip.GzipFile(fileobj=file)
    elif ending == ".bz2":
        inner = bz2.BZ2File(file)
    elif ending == ".xz":
        inner = _Xz(file)
    else:
        inner = _zstd(file)
    return io.BufferedReader(
        _BoundedStream(inner, file, max(always_bytes or ALWAYS_BYTES, most_ratio * size), most_ratio), 1 << 20
    )


class _BoundedStream(io.RawIOBase):
    """Reads until a limit."""

    def __init__(self, inner: Any, file: IO[bytes], limit: int, ratio: int) -> None:
        self._inner = inner
        self._file = file
        self._left = limit
        self._ratio = ratio

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        data = self._inner.read1(len(room))  # what there is, before an error that follows
        self._left -= len(data)
        if self._left < 0:
            raise UnreadableRecording(
                f"unpacks to more than {self._ratio} times its size: it was made to fill memory or disk. "
                "If it is sound, unpack it and import that."
            )
        room[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Xz:
    """lzma.open knows no limit of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._begin()

    def read1(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:  # streams may follow each other
                more = self._decompressor.unused_data or self._file.read(_XZ_READ)
                more = more.lstrip(b"\0")  # what pads them
                if not more:
                    return b""
                self._decompressor = self._begin()
            else:
                more = self._file.read(_XZ_READ) if self._decompressor.needs_input else b""
                if not more and self._decompressor.needs_input:
                    raise EOFError("the packed data ends too early")
            if data := self._decompressor.decompress(more, size):
                return data

    @staticmethod
    def _begin() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return _Zstd(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


class _Zstd:
    """pyarrow's stream, with the error of the others for data that is cut."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read1(self, size: int) -> bytes:
        try:
            return self._stream.read(min(size, _ZSTD_READ))  # type: ignore[no-any-return]
        except OSError as error:
            if "runcated" in str(error):
                raise EOFError("the packed data ends too early") from error
            raise
