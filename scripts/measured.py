"""What every measuring script writes beside their figures: commit, machine, versions, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def circumstances(packages: list[str]) -> dict[str, Any]:
    """`versions` of these packages, `machine`, `commit` and `date` of a measurement."""
    return {
        "versions": {package: _installed(package) for package in packages},
        "machine": {"arch": platform.machine(), "cpu": cpu_name(), "python": platform.python_version()},
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_name() -> str:
    """The processor and whether it has VNNI, which decides how fast INT8 is on x86."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    return f"{next(names, 'unknown')} ({'VNNI' if 'vnni' in text else 'no VNNI'})"


def commit() -> str:
    """The commit that was measured."""
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
