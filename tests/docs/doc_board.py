"""A machine with a systemd of its own for the blocks that are typed there: scripts/devices/container.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doc_pages import ROOT
from doc_stand_ins import ON_BOARD

_CONTAINER = ROOT / "scripts/devices/container.sh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Board:
    """A running one. It has no network: pip takes what lies in /wheels."""

    def __init__(self, name: str, wheels: Path) -> None:
        """name: of the container. wheels: a folder, copied there."""
        self._name = name
        cache = Path(os.environ.get("EDGE_CENTERNET_DEVICES") or "~/.cache/edge-centernet/devices").expanduser()
        self._root = cache / "containers" / name / "root"
        shutil.copytree(wheels, self._root / "wheels")

    def run(self, script: str, settings: str) -> subprocess.CompletedProcess[str]:
        """By `sh -eu`, as root. settings: what the page has for a camera's .toml, for the camera that it names."""
        for name in ("door", "camera"):
            if f"edge-centernet@{name}" in script:
                folder = self._root / "etc/edge-centernet"
                folder.mkdir(exist_ok=True)
                # No board's camera is here; `wait` makes the service wait for it.
                (folder / f"{name}.toml").write_text(settings.replace('"csi"', '"/dev/video0"'))
        for pattern, instead in ON_BOARD.items():
            script = re.sub(pattern, instead, script)
        self._exec("systemctl stop 'edge-centernet@*'")  # a page's service before: both take port 8080
        done = self._exec(script)
        if done.returncode:
            done.stdout += self._exec("journalctl -n 20 -u 'edge-centernet@*'").stdout
        return done

    def _exec(self, script: str) -> subprocess.CompletedProcess[str]:
        environment = [f"PATH={_PATH}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "SYSTEMD_PAGER="]
        command = [_CONTAINER, "exec", self._name, "env", *environment, "sh", "-eu", "-c", script]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )


@contextmanager
def board(wheels: Path) -> Iterator[Board]:
    """Started, and removed at the end."""
    name = f"docs{os.getpid()}"
    subprocess.run([_CONTAINER, "up", name], check=True, capture_output=True, text=True)
    try:
        yield Board(name, wheels)
    finally:
        subprocess.run([_CONTAINER, "down", name], check=True, capture_output=True)
