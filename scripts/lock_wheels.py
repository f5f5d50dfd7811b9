#!/usr/bin/env python3
"""Write which wheels a bundle holds, with version and hash, to edge_centernet/deploy/locks.json.

    pip install uv && python scripts/lock_wheels.py [NAME...]     NAME: such as aarch64-py311-ai-edge-litert

Resolved by uv for the board's platform and Python, not for the computer this runs on; pip then names the
wheel that it would take. Run it to take over newer releases, and test what it wrote. Nothing is downloaded
but metadata.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_centernet.deploy.boards import LOCKS, PACKAGES, arm_glibc, locks, platforms
from edge_centernet.files import write_atomic

# On 32-bit ARM what the board's own packages bring is left out; Tornado has no wheel for it.
BASE_ARMV7L = ["click>=8.3.3", "paho-mqtt>=2.0", "prometheus-client>=0.20"]
BASE = [*BASE_ARMV7L, "opencv-python-headless>=4.8.1.78", "tomlkit>=0.12", "tornado>=6.5.10"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("aarch64", "x86_64")
INSTALLER = ["pip>=24"]  # a board's Python may come without pip (Debian splits it off)


def combinations() -> dict[str, tuple[str, str, str]]:
    """Name -> machine, Python, engine of every lock."""
    found = [(machine, python, engine) for machine in MACHINES for python in PYTHONS for engine in PACKAGES]
    found = [c for c in found if c[2] != "tflite-runtime" or c[1] in ("3.10", "3.11")]
    found.append(("armv7l", "3.11", "tflite-runtime"))
    return {f"{m}-py{p.replace('.', '')}-{e}": (m, p, e) for m, p, e in found}


def requirements(machine: str, python: str, engine: str) -> list[str]:
    """What must be in the bundle, unpinned; NumPy below 2 where the system's own (and picamera2) is."""
    if machine == "armv7l":
        return [*BASE_ARMV7L, *INSTALLER, engine]
    numpy = "numpy>=1.24,<2" if python in ("3.10", "3.11") else "numpy>=2"
    # uv does not read that newer releases of this one are for older Pythons only.
    litert = ["backports-strenum<1.3"] if engine == "ai-edge-litert" else []
    backport = ["tomli>=2"] if python == "3.10" else litert
    return [*BASE, *INSTALLER, numpy, engine, *backport]


def resolve(machine: str, python: str, engine: str, folder: Path) -> list[str]:
    """name==version lines, by uv; 32-bit ARM, which uv does not know, goes to pip as it is."""
    wanted = requirements(machine, python, engine)
    if machine == "armv7l":
        return wanted
    source = folder / "in.txt"
    source.write_text("\n".join(wanted) + "\n")
    glibc = arm_glibc(engine)[1]
    platform = f"{machine}-manylinux_2_{max(glibc, 28)}"
    options = ["--no-header", "--no-annotate", "--only-binary", ":all:", "--python-platform", platform]
    options += ["--no-emit-package", "openvino-telemetry"]  # OpenVINO runs without it, and reports to nobody
    command = ["uv", "pip", "compile", "-q", "--python-version", python, *options, str(source)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def wheels(machine: str, python: str, engine: str, pinned: list[str], folder: Path) -> list[str]:
    """A requirements line with its one hash for every wheel that pip would take."""
    glibc = arm_glibc(engine)
    glibc = glibc if machine == "armv7l" else max(glibc, (2, 28))
    tags = [option for tag in platforms(machine, glibc) for option in ("--platform", tag)]
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--python-version", python, *tags]
    command += ["--target", str(folder / "target")]
    subprocess.run([*command, "--report", str(report), *pinned], check=True)
    items = json.loads(report.read_text())["install"]
    lines = []
    for item in sorted(items, key=lambda item: str(item["metadata"]["name"]).lower()):
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return lines


def main(names: list[str]) -> None:
    """Write the locks with those names, or all."""
    known = combinations()
    written = locks() if names else {}
    for name in names or list(known):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            written[name] = wheels(*known[name], resolve(*known[name], folder), folder)
        print(f"{name}: {len(written[name])} wheels")
    write_atomic(LOCKS, json.dumps(dict(sorted(written.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
