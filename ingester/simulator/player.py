"""How far a tape was played, and its next books, read ahead in a thread: what they come from may be slow."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from ingester.simulator.tape import Tape, TapeBook

BOOKS_AT_ONCE = 256
"""Read while as many are played."""


class Player:
    """A tape that starts when one of its symbols is first subscribed to; with `loop`, again at its end for ever."""

    def __init__(self, tape: Tape, loop: bool = False) -> None:
        self.tape = tape
        self.loop = loop
        self.started = asyncio.Event()
        self.finished = threading.Event()
        self.latest: dict[str, TapeBook] = {}
        """Last book played of each symbol."""
        self.played = 0
        """Books so far, in all rounds."""
        self.position_ns = 0
        """When the last one was received."""
        self.rounds = 0
        """How often the end was reached."""
        self._shifts: dict[str, int] = {}  # what update ids have risen by in all rounds before
        self._ids: dict[str, tuple[int, int]] = {}  # least and greatest of the tape

    async def round(self) -> AsyncGenerator[list[TapeBook], None]:
        """The books from the beginning to the end, some at a time.

        Update ids go on where those of the last round ended, so that nobody takes a book for a copy of an earlier one.
        """
        loop, books = asyncio.get_running_loop(), self.tape.books()
        reader = ThreadPoolExecutor(1, "playback")

        def take() -> list[TapeBook]:
            return list(islice(books, BOOKS_AT_ONCE))

        ahead = loop.run_in_executor(reader, take)
        try:
            while batch := await ahead:
                ahead = loop.run_in_executor(reader, take)
                yield [self._numbered(book) for book in batch] if self.loop else batch
        finally:
            ahead.cancel()
            reader.submit(books.close)  # not here: it waits for what is being read
            reader.shutdown(wait=False)
        self.rounds += 1
        for symbol, (least, greatest) in self._ids.items():
            self._shifts[symbol] = self._shifts.get(symbol, 0) + greatest - least + 1

    def note(self, book: TapeBook) -> None:
        """A book was played."""
        self.played += 1
        self.position_ns = book.receive_ns
        self.latest[book.symbol] = book

    def _numbered(self, book: TapeBook) -> TapeBook:
        least, greatest = self._ids.get(book.symbol, (book.update_id, book.update_id))
        self._ids[book.symbol] = min(least, book.update_id), max(greatest, book.update_id)
        shift = self._shifts.get(book.symbol, 0)
        return book.numbered(book.update_id + shift) if shift else book
