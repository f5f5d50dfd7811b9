"""What long-running work shows where nobody sees a bar move."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from edge_centernet.progress import Progress, bars, byte_bars


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
