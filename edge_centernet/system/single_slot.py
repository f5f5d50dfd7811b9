"""A queue with a single slot between two threads, and a thread that works on what is put there.

One slot and no more: what waits in a longer queue only grows old. Two policies cover all uses. For a file,
`put` waits until the slot is free, and nothing is lost; for a live source, a new item replaces the one that
waits, so that a slow taker sees fewer items but never an old one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleSlotQueue(Generic[T]):
    """Room for one item, from one thread that feeds to one that takes.

    newest: a new item replaces one that was not taken yet; else `put` waits until it is taken.
    """

    def __init__(self, newest: bool) -> None:
        """Empty and open."""
        self._newest = newest
        self._item: T | None = None
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self.closed = False  # by the taker: nothing more is wanted
        self._finished = False  # by the feeder: nothing more comes

    @property
    def ended(self) -> bool:
        """Nothing is there and nothing more comes."""
        with self._changed:
            return self.closed or (self._finished and self._item is None)

    def put(self, item: T) -> bool:
        """Put an item into the slot; False when the taker wants no more."""
        # Between the wait and the lock no one else can fill the slot: only one thread feeds it.
        if not self._newest and not self.wait_empty():
            return False
        with self._changed:
            self._item = item
            self._changed.notify_all()
            return not self.closed

    def peek(self) -> T | None:
        """What waits in the slot, left there; None if nothing."""
        return self._item

    def swap(self, old: T, new: T) -> bool:
        """Put an item into the slot in place of another; False, and nothing is put, when that was taken."""
        with self._changed:
            if self._item is not old:
                return False
            self._item = new
            return True

    def wait_empty(self) -> bool:
        """Wait until the slot is free; False when the taker wants no more."""
        with self._changed:
            while self._item is not None and not self.closed:
                self._changed.wait()
            return not self.closed

    def take(self, timeout: float | None = None) -> T | None:
        """The item; None after `timeout` seconds, or when none will come.

        Raises the feeder's error, but only after what it had put before.
        """
        with self._changed:
            if self._item is None and not self._finished and not self.closed:
                self._changed.wait_for(
                    lambda: self._item is not None or self._finished or self.closed, timeout
                )
            item, self._item = self._item, None
            if item is None and self._error is not None:
                raise self._error
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """The taker wants no more."""
        with self._changed:
            self.closed = True
            self._item = None
            self._changed.notify_all()

    def feeding(self) -> _Feeding:
        """A `with` block around all that is put. Its end, or its error, reaches the taker."""
        return _Feeding(self)

    def finish(self, error: BaseException | None) -> None:
        """The feeder has no more."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()


class _Feeding:
    def __init__(self, queue: SingleSlotQueue[Any]) -> None:
        self._queue = queue

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._queue.finish(error)
        return True  # on a thread nobody would catch it: the taker raises it instead


class Worker(Generic[T]):
    """Calls `work` for each item on a thread of its own: drawing or encoding must not delay detection.

    newest: while it is busy, a newer item replaces the one that waits; else `add` waits and nothing is lost.
    """

    def __init__(self, name: str, work: Callable[[T], None], newest: bool) -> None:
        """Start the thread."""
        self._items: SingleSlotQueue[T] = SingleSlotQueue(newest)
        self._work = work
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, item: T) -> None:
        """Give it an item. Raises what `work` raised for an earlier one."""
        if not self._items.put(item) and self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until the last item is done. Raises what `work` raised."""
        self._items.finish(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._items.take()) is not None:
                self._work(item)
        except Exception as error:
            self._error = error
            self._items.close()  # or `add` would wait for ever
