"""What the simulator really sent, for tests that compare it with what was stored."""

from pathlib import Path

from ingester.errors import SettingsError


class SentLog:
    """Update ids by symbol in the order of sending, each once however many connections got it.

    A sent frame was handed to the operating system or its buffer; a connection cut afterwards may still lose it.
    """

    def __init__(self, path: Path | None = None) -> None:
        """With `path`, lines `<symbol> <update id>` are appended there, too. Raises SettingsError."""
        self._ids: dict[str, dict[int, None]] = {}
        try:
            self._file = open(path, "a", encoding="utf-8") if path is not None else None  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise SettingsError(f"ledger {path} cannot be written ({error.strerror}); choose another place") from error

    def note(self, symbol: str, update_id: int) -> None:
        """A sound frame with this update id was sent."""
        ids = self._ids.setdefault(symbol, {})
        if update_id not in ids:
            ids[update_id] = None
            if self._file is not None:
                self._file.write(f"{symbol} {update_id}\n")

    def sent(self) -> dict[str, list[int]]:
        # Copied first: the simulator's thread goes on adding.
        return {symbol: list(ids.copy()) for symbol, ids in self._ids.copy().items()}

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
