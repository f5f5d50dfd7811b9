"""What is to be sent, on the disk: an SQLite file that a killed process leaves whole.

Memory holds the same and is what counts: where the disk is full or read-only, messages are sent all the same,
and only a restart then loses those that were not.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_centernet.errors import ConfigError
from edge_centernet.files import Unwritten, lock_alone

APPLICATION_ID = 0x65636E77  # "ecnw"
VERSION = 1
_BUSY_S = 0.05  # longer than any statement here takes; the detection loop writes, too
_TABLE = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY, hook TEXT NOT NULL, body TEXT NOT NULL, picture TEXT NOT NULL,
    made INTEGER NOT NULL)
"""


@dataclass(eq=False)
class Message:
    """One event for one receiver.

    id: of its row, rising. hook: whose it is. body: JSON, without the picture.
    picture: path of the event's picture below the folder of events; "" for none.
    made: milliseconds since 1970. since: time.monotonic() at that moment.
    tries: failed attempts in this process.
    """

    id: int
    hook: str
    body: str
    picture: str
    made: int
    since: float = field(default_factory=time.monotonic)
    tries: int = 0


class WebhookQueue:
    """For several threads. What `add` has taken survives when the process is killed.

    A power cut may undo the last ten seconds: a message of theirs is lost, or sent twice.
    """

    def __init__(self, path: Path, now_ms: int, unwritten: Unwritten | None = None) -> None:
        """Open or make the file; `left` is what an earlier process has left there, the oldest first.

        now_ms: milliseconds since 1970. unwritten: told of what the disk does not take.
        Raises ConfigError for a file of something else, or that another process has open.
        """
        self.path = path
        self._unwritten = Unwritten() if unwritten is None else unwritten
        self._lock = threading.Lock()  # guards the following
        self._unsaved: dict[int, Message] = {}  # that the disk did not take
        self._unremoved: set[int] = set()  # and those that it did not give back
        self._fresh = False  # something is not flushed yet
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = lock_alone(path)
        except BlockingIOError:
            raise ConfigError(
                f"{path}: another process uses it; give each camera a --webhook-queue of its own"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened for writing: {error.strerror}") from None
        base = None
        try:
            # Threads take turns by the lock above. Autocommit: each statement is a transaction.
            self._base = base = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            (kind,), (tables,) = (
                base.execute(query).fetchone()
                for query in ("PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
            )
            if tables and kind != APPLICATION_ID:
                raise sqlite3.DatabaseError("it is another database")
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("PRAGMA synchronous = NORMAL")  # no statement waits for the disk; `flush` does
            base.execute("PRAGMA wal_autocheckpoint = 0")
            if not tables:
                # The mark first: a process that is killed here leaves an empty database of ours.
                base.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                base.execute(f"PRAGMA user_version = {VERSION}")
                base.execute(_TABLE)
            rows = base.execute("SELECT id, hook, body, picture, made FROM message ORDER BY id").fetchall()
        except sqlite3.Error as error:
            if base is not None:
                base.close()
            os.close(self._file)
            raise ConfigError(
                f"{path}: expected a queue of webhooks that this program wrote, or a new name: {error}"
            ) from None
        # A clock that was set back makes nothing younger than now.
        now = time.monotonic()
        self.left = [
            Message(id_, hook, body, picture, made, now - max(0, now_ms - made) / 1000)
            for id_, hook, body, picture, made in rows
        ]
        self._last = max((message.id for message in self.left), default=0)
        self._closed = False

    def add(self, bodies: Iterable[tuple[str, str, str]], now_ms: int) -> list[Message]:
        """Keep one message for each (hook, body, picture), all or none of them; now_ms: since 1970."""
        with self._lock:
            messages = []
            for hook, body, picture in bodies:
                self._last += 1
                messages.append(Message(self._last, hook, body, picture, now_ms))
            self._unsaved |= {message.id: message for message in messages}
            self._save()
            return messages

    def remove(self, ids: Sequence[int]) -> None:
        """These need not be sent any more."""
        with self._lock:
            for one in ids:
                if self._unsaved.pop(one, None) is None:
                    self._unremoved.add(one)
            self._save()

    def flush(self) -> None:
        """Bring it onto the disk, and try again what could not be written; takes as long as the disk does."""
        with self._lock:
            if self._unsaved or self._unremoved:
                self._save()
            fresh, self._fresh = self._fresh, False
        if not fresh:
            return
        # On a connection of its own, so that nobody waits for the lock meanwhile.
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path, isolation_level=None)) as base:
            base.execute("PRAGMA synchronous = FULL")
            base.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Write what is left, and close the file. It is told what cannot be kept."""
        with self._lock:
            if self._unsaved or self._unremoved:
                self._save()
            if self._unsaved:
                self._unwritten.lost(f"{self.path}: {len(self._unsaved)} messages were not sent and are lost")
            with suppress(sqlite3.Error):
                self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._closed = True
            self._base.close()
            os.close(self._file)

    def _save(self) -> None:
        """Write what is not written, in as few statements as possible."""
        if self._closed:  # a sender whose receiver answers late: the next run sends it once more
            return
        try:
            if self._unsaved:
                rows = [(one.id, one.hook, one.body, one.picture, one.made) for one in self._unsaved.values()]
                for begin in range(0, len(rows), 100):  # SQLite takes some hundred values in a statement
                    part = rows[begin : begin + 100]
                    values = ", ".join(["(?, ?, ?, ?, ?)"] * len(part))
                    self._base.execute(
                        f"INSERT OR REPLACE INTO message VALUES {values}",
                        [value for row in part for value in row],
                    )
                self._unsaved.clear()
            if self._unremoved:
                ids = ", ".join(map(str, self._unremoved))
                self._base.execute(f"DELETE FROM message WHERE id IN ({ids})")
                self._unremoved.clear()
        except sqlite3.Error as error:
            self._unwritten.failed(self.path, OSError(errno.EIO, str(error)))
        else:
            self._fresh = True
            self._unwritten.written(self.path)
