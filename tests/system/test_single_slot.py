"""What threads hand each other."""

from __future__ import annotations

import threading
import time

import pytest

from edge_centernet.system.single_slot import SingleSlotQueue, Worker


def test_the_newest_item_replaces_one_that_nobody_took() -> None:
    """After 1, 2, 3 the taker gets 3 and then nothing."""
    place: SingleSlotQueue[int] = SingleSlotQueue(newest=True)
    for item in (1, 2, 3):
        assert place.put(item)
    assert place.take() == 3
    assert place.take(timeout=0.01) is None
    assert not place.ended


def test_nothing_is_lost_where_everything_is_wanted() -> None:
    """A hundred items come in their order, and then the end."""
    place: SingleSlotQueue[int] = SingleSlotQueue(newest=False)

    def feed() -> None:
        with place.feeding():
            for item in range(100):
                place.put(item)

    thread = threading.Thread(target=feed)
    thread.start()
    taken = []
    while (item := place.take()) is not None:
        taken.append(item)
    thread.join()
    assert taken == list(range(100))
    assert place.ended


def test_the_feeders_error_comes_after_its_items() -> None:
    """The item first, then the ValueError."""
    place: SingleSlotQueue[int] = SingleSlotQueue(newest=True)
    with place.feeding():
        place.put(7)
        raise ValueError("no more")
    assert place.take() == 7
    with pytest.raises(ValueError, match="no more"):
        place.take()


def test_closing_frees_a_feeder_that_waits() -> None:
    """`put` returns False soon after `close`."""
    place: SingleSlotQueue[int] = SingleSlotQueue(newest=False)
    place.put(1)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(place.put(2)))
    thread.start()
    time.sleep(0.05)
    place.close()
    thread.join(timeout=2)
    assert answers == [False]


def test_a_worker_that_may_lose_items_holds_up_nobody() -> None:
    """Twenty items in a row take a fraction of their work, a second together; the last one is done."""
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.05)
        done.append(item)

    worker = Worker("slow", work, newest=True)
    start = time.monotonic()
    for item in range(1, 21):
        worker.add(item)
    assert time.monotonic() - start < 0.5
    worker.close()
    assert done[-1] == 20
    assert len(done) < 5


def test_a_worker_tells_its_error() -> None:
    """What the work raised is raised where the next item is handed over, or at the end."""

    def work(item: int) -> None:
        raise OSError(f"disk full at {item}")

    worker = Worker("broken", work, newest=False)
    worker.add(1)
    with pytest.raises(OSError, match="disk full at 1"):
        worker.close()
