"""What measuring scripts share: commit, machine, versions and date of a record; environments for peers."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

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
    command = ["git", "rev-parse", "HEAD"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def cli(*arguments: str | Path) -> None:
    """Run a command as a user would."""
    subprocess.run([sys.executable, "-m", "edge_centernet", *map(str, arguments)], check=True)


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """The Python of an environment for a peer that must not share ours; made where missing."""
    python = folder / "bin/python"
    if not python.exists():
        click.echo(f"Making {folder}", err=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
