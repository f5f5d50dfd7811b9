"""Log lines, on standard error and in a file."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_centernet.errors import ConfigError
from edge_centernet.system.logs import configure_logging

LOG = """
import logging, sys
from edge_centernet.system.logs import configure_logging
configure_logging()
log = logging.getLogger("edge_centernet.sources.live")
log.debug("hidden")
log.info("camera door: opened\\nsecond line")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it broke")
logging.getLogger("other.library").info("chatter")
"""


def log_lines(journal: bool, tmp_path: Path) -> list[str]:
    """What a process writes to standard error. journal: systemd has announced it as the journal's stream."""
    with (tmp_path / "stderr").open("wb") as stream:
        stat = os.fstat(stream.fileno())
        told = f"{stat.st_dev}:{stat.st_ino}" if journal else "1:2"
        environment = {**os.environ, "JOURNAL_STREAM": told}
        subprocess.run([sys.executable, "-c", LOG], stderr=stream, env=environment, check=True, timeout=60)
    return (tmp_path / "stderr").read_text(encoding="utf-8").splitlines()


def test_journal_lines_have_priorities_and_no_time(tmp_path: Path) -> None:
    """<6> for information and <3> for an error, traceback included, one line each."""
    first, second = log_lines(True, tmp_path)
    assert first == "<6>camera door: opened | second line"
    assert second.startswith("<3>it broke | Traceback (most recent call last): | ")
    assert second.endswith("| ZeroDivisionError: division by zero")


def test_other_streams_get_the_time(tmp_path: Path) -> None:
    """A line of a file begins with date, time, offset from UTC and level."""
    first, second = log_lines(False, tmp_path)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO camera door: opened \| second line", first
    )
    assert " ERROR it broke | Traceback" in second


def test_a_line_has_no_control_characters(root_logger: None, tmp_path: Path) -> None:
    """What a broker or a camera sends back is shown as letters."""
    configure_logging(log_file=tmp_path / "log")
    logging.getLogger("edge_centernet.mqtt").warning("%s", "said \x1b[2J\r\x9b\x85and more")
    assert (tmp_path / "log").read_text().endswith("said \\u001b[2J | \\u009b | and more\n")


def test_log_lines_pass_while_a_camera_is_read() -> None:
    """Reading a frame hides what C libraries write to descriptor 2, but not our log."""
    code = """
import logging
from edge_centernet.system.logs import configure_logging
from edge_centernet.system.logs import quiet_libraries
configure_logging()
with quiet_libraries():
    logging.getLogger("edge_centernet").warning("seen")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.endswith(" WARNING seen\n")


def test_progress_is_seen_while_libraries_are_hidden() -> None:
    """Also by a bar that was begun then and ends later; what C code writes is not."""
    code = """
import os, sys
from edge_centernet.progress import bars
from edge_centernet.system.logs import quiet_libraries
before = sys.stderr
with bars() as progress, quiet_libraries():
    progress("Calibrating", 1, 2)
    os.write(2, b"a library")
    inner = sys.stderr
assert sys.stderr is before
print("later", file=inner)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "Calibrating\nlater\n"


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Afterwards, logging is as it was before."""
    root, ours = logging.getLogger(), logging.getLogger("edge_centernet")
    levels = root.level, ours.level
    yield
    for handler in [h for h in root.handlers if getattr(h, "of_edge_centernet", False)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_log_file_may_be_rotated(root_logger: None, tmp_path: Path) -> None:
    """After logrotate moved the file away, the next line is in a new file of the old name."""
    file, log = tmp_path / "detect.log", logging.getLogger("edge_centernet")
    configure_logging(log_file=file)
    log.info("before")
    file.rename(tmp_path / "detect.log.1")
    log.info("after")
    assert (tmp_path / "detect.log.1").read_text().endswith(" INFO before\n")
    assert file.read_text().endswith(" INFO after\n")


def test_configured_twice_a_line_comes_once(root_logger: None, tmp_path: Path) -> None:
    """The second call replaces what the first set up."""
    configure_logging(log_file=tmp_path / "first.log")
    configure_logging(log_file=tmp_path / "second.log")
    logging.getLogger("edge_centernet").info("once")
    assert (tmp_path / "first.log").read_text() == ""
    assert (tmp_path / "second.log").read_text().count("once") == 1


def test_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    """One line names the file and the reason."""
    with pytest.raises(ConfigError, match=r"log file .*no/detect\.log: cannot write it: No such file"):
        configure_logging(log_file=tmp_path / "no" / "detect.log")


def test_a_full_disk_costs_the_log_file_lines_and_nothing_else(
    root_logger: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback a line, no error where a line is written; standard error has them all."""
    (tmp_path / "log.txt").symlink_to("/dev/full")
    configure_logging(log_file=tmp_path / "log.txt")
    for number in range(5):
        logging.getLogger("edge_centernet").info("line %d", number)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert [f"line {number}" in err for number in range(5)] == [True] * 5
