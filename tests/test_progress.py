"""What long-running work shows where nobody sees a bar move."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from edge_centernet.progress import Progress, bars, byte_bars, if_slow, with_progress


@pytest.mark.parametrize("kind", [bars, byte_bars])
def test_a_pipe_gets_each_title_once(
    kind: Callable[[], AbstractContextManager[Progress]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the same work is done again and again, as for each file of a conversion."""
    with kind() as progress:
        for _ in range(14):
            for title in ("Calibrating", "Checking"):
                progress(title, 1, 2)
                progress(title, 2, 2)
    shown = capsys.readouterr()
    assert shown.err == "Calibrating\nChecking\n"
    assert shown.out == ""


def test_slow_work_is_shown_to_its_end_and_quick_work_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand items in a moment are silent; three that take longer are shown."""
    monkeypatch.setattr("edge_centernet.progress._MOMENT", 0.5)
    shown: list[tuple[str, int, int]] = []
    progress = if_slow(lambda *step: shown.append(step))
    assert len(list(with_progress(range(10_000), "quick", progress))) == 10_000
    assert shown == []
    for _ in with_progress(range(3), "slow", progress):
        time.sleep(0.3)
    assert shown[-1] == ("slow", 3, 3)
