"""Every rule, both ways: what it finds on a machine with the fault, and that it is silent on one without."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healthy import (
    BOARD,
    ON_JETSON,
    ON_PC,
    ON_PI,
    OPENVINO,
    ORT,
    PC,
    RIBBON,
    SOFTWARE,
    TFLITE,
    USB,
    missing,
    with_engines,
)

import edge_centernet.doctor
from edge_centernet.doctor.facts import Camera, Facts, Finding, Library
from edge_centernet.doctor.rules import diagnose
from edge_centernet.system.machine import Disk

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_214 = replace(TFLITE, package="tflite_runtime", version="2.14.0")
CRASHED = replace(OPENVINO, state="crashed", stage="answer", reason="crashed (SIGSEGV)", int8="", ms=None)
ABSENT = (missing(OPENVINO), missing(TFLITE), ORT)
LOADER = "/lib/aarch64-linux-gnu/libc.so.6: version `GLIBC_2.35' not found (required by libopenvino.so)"


def machine(facts: Facts, **changes: Any) -> Facts:
    """The facts with another machine."""
    return replace(facts, machine=replace(facts.machine, **changes))


def software(facts: Facts, **changes: Any) -> Facts:
    """The facts with other libraries."""
    return replace(facts, software=replace(facts.software, **changes))


def disk(free_mb: int, files_left: bool = True, used_for: str = "the installation") -> Facts:
    """A PC with one disk."""
    return machine(ON_PC, disks=(Disk("/", (used_for,), free_mb, 30000, files_left),))


def broken(reason: str) -> Facts:
    """A board whose OpenVINO, of a release that needs a new glibc, does not load; TFLite works."""
    engine = replace(OPENVINO, state="broken", stage="import", reason=reason, int8="", ms=None)
    return with_engines(machine(ON_PI, glibc=(2, 31)), engine)


# (id, level, facts with the fault, what the finding says, what its fix says)
CASES = [
    (
        "numpy-broken",
        "error",
        software(ON_PC, numpy=Library(error="crashed (SIGILL)")),
        "SIGILL",
        "--force-reinstall numpy",
    ),
    (
        "numpy-broken",
        "error",
        software(machine(ON_PI, bits=32), numpy=Library()),
        "Nothing works",
        "apt install python3-numpy",
    ),
    (
        "opencv-broken",
        "error",
        software(ON_PC, opencv=Library(error="libGL.so.1: cannot open")),
        "libGL",
        "uninstall -y opencv-python &&",
    ),
    ("opencv-broken", "error", software(ON_PC, opencv=Library()), "", "opencv-python-headless"),
    ("decoder-numpy", "warning", software(ON_PC, decoder="numpy"), "No C compiler", "gcc"),
    (
        "decoder-numpy",
        "warning",
        software(ON_PC, decoder="numpy", decoder_error="wrong ELF class"),
        "wrong ELF class",
        "gcc",
    ),
    (
        "no-runtime",
        "error",
        with_engines(ON_PC, *ABSENT),
        "Neither OpenVINO",
        "/venv/bin/python -m pip install openvino",
    ),
    (
        "no-runtime",
        "error",
        with_engines(ON_PI, *ABSENT),
        "Neither OpenVINO",
        "/venv/bin/python -m pip install ai-edge-litert",
    ),
    (
        "no-runtime",
        "error",
        with_engines(machine(ON_PI, machine="armv7l", bits=32), *ABSENT),
        "",
        "install tflite-runtime 'numpy<2'",
    ),
    (
        "no-runtime",
        "error",
        with_engines(machine(ON_PI, externally_managed=True), *ABSENT),
        "",
        "venv --system-site-packages .venv && .venv/bin/python -m pip install ai",
    ),
    (
        "python-without-wheels",
        "error",
        with_engines(machine(ON_PI, machine="armv7l", bits=32, python="3.13.5"), *ABSENT),
        "tflite-runtime 3.10 to 3.11",
        "3.11",
    ),
    (
        "python-without-wheels",
        "error",
        with_engines(machine(ON_PI, machine="armv6l", bits=32), *ABSENT),
        "PyPI has none",
        "64-bit board",
    ),
    ("glibc-old", "warning", broken(LOADER), "needs glibc 2.35, this system has 2.31", "openvino<2025.3"),
    (
        "glibc-old",
        "error",
        with_engines(broken(LOADER), missing(TFLITE)),
        "libopenvino.so",
        "openvino<2025.3",
    ),
    (
        "glibc-old",
        "warning",
        with_engines(machine(ON_PI, glibc=(2, 31)), replace(OPENVINO, state="unchecked")),
        "needs glibc 2.35",
        "openvino<2025.3",
    ),
    (
        "glibc-old",
        "warning",
        with_engines(machine(ON_PI, glibc=(2, 31)), *ABSENT),
        "tflite-runtime (glibc 2.34)",
        "install ai-edge-litert",
    ),
    ("glibc-old", "error", with_engines(machine(ON_PI, glibc=(2, 12)), *ABSENT), "glibc 2.12", "Upgrade"),
    ("glibc-old", "error", with_engines(machine(ON_PC, glibc=None), *ABSENT), "built for glibc", "Alpine"),
    (
        "numpy-2-tflite-runtime",
        "error",
        with_engines(ON_PI, replace(RUNTIME_214, state="broken")),
        "NumPy 2.2.6 is installed",
        "install ai-edge-litert",
    ),
    (
        "numpy-2-tflite-runtime",
        "error",
        with_engines(machine(ON_PI, machine="armv7l", bits=32), replace(RUNTIME_214, state="broken")),
        "",
        "install 'numpy<2'",
    ),
    (
        "numpy-2-tflite-runtime",
        "warning",
        with_engines(ON_PC, replace(RUNTIME_214, state="broken")),
        "2.14.0",
        "ai-edge-litert",
    ),
    (
        "model-damaged",
        "error",
        with_engines(ON_PI, replace(TFLITE, state="damaged", reason="m.tflite: cut off")),
        "cut off",
        "m.tflite",
    ),
    (
        "engine-does-not-load",
        "error",
        with_engines(ON_PC, replace(OPENVINO, state="broken", reason="no module x")),
        "no module x",
        "--force-reinstall openvino",
    ),
    (
        "engine-does-not-load",
        "warning",
        with_engines(ON_PC, replace(TFLITE, state="broken", reason="undefined symbol")),
        "undefined symbol",
        "--force-reinstall ai-edge-litert",
    ),
    (
        "engine-crashes",
        "warning",
        with_engines(ON_PC, CRASHED),
        "crashed (SIGSEGV) in its first inference",
        "takes TFLite",
    ),
    (
        "engine-crashes",
        "error",
        with_engines(ON_PC, CRASHED, missing(TFLITE)),
        "SIGSEGV",
        "pip install ai-edge-litert",
    ),
    (
        "engine-crashes",
        "error",
        with_engines(ON_PI, replace(TFLITE, state="hung", stage="open", reason="did not end within 120 s")),
        "120 s when it opened",
        "pip install",
    ),
    (
        "engine-wrong",
        "warning",
        with_engines(ON_PC, replace(OPENVINO, state="wrong", reason="heat differs by 9 output steps")),
        "heat differs",
        "takes TFLite",
    ),
    (
        "engine-wrong",
        "error",
        with_engines(ON_PI, replace(TFLITE, state="wrong", reason="heat is off")),
        "heat is off",
        "pip install openvino",
    ),
    (
        "not-int8",
        "warning",
        with_engines(ON_PC, replace(OPENVINO, int8="no", int8_how="0 of 9 convolutions")),
        "0 of 9",
        "convert --int8",
    ),
    (
        "tflite-slow-kernels",
        "warning",
        with_engines(ON_PI, replace(TFLITE, fast=False)),
        "all",
        "ai-edge-litert",
    ),
    (
        "tflite-slow-kernels",
        "warning",
        with_engines(
            software(ON_PC, numpy=Library("1.26.4")),
            replace(RUNTIME_214, fast=None, state="unchecked", int8_how=""),
            missing(OPENVINO),
        ),
        "20 times slower",
        "ai-edge-litert",
    ),
    (
        "openvino-on-arm",
        "warning",
        with_engines(ON_PI, OPENVINO, missing(TFLITE)),
        "computes in float",
        "ai-edge-litert",
    ),
    ("openvino-on-arm", "ok", with_engines(ON_PI, OPENVINO), "computes in float", ""),
    ("live-extra-missing", "ok", software(ON_PC, extras={"live": False}), "--mqtt", "paho-mqtt"),
    ("ready", "ok", ON_PC, "takes openvino 2026.4.1: right answers, INT8, 6 ms", ""),
    (
        "not-checked",
        "ok",
        replace(with_engines(ON_PC, replace(OPENVINO, state="unchecked")), quick=True),
        "OpenVINO",
        "doctor",
    ),
    (
        "system-32bit",
        "warning",
        machine(ON_PI, machine="armv7l", bits=32, kernel_bits=32),
        "a 32-bit system (armv7l)",
        "64-bit",
    ),
    (
        "system-32bit",
        "warning",
        machine(ON_PI, bits=32),
        "a 32-bit Python on a 64-bit kernel (aarch64)",
        "64-bit",
    ),
    ("system-32bit", "error", machine(ON_PC, machine="i686", bits=32, kernel_bits=32), "no engine", "64-bit"),
    ("emulated", "warning", machine(ON_PI, emulated=True), "built for aarch64", "board"),
    (
        "jetpack-old",
        "warning",
        machine(ON_JETSON, l4t=(35, 4), jetpack="JetPack 5 (L4T 35.4)"),
        "JetPack 5",
        "JetPack 6",
    ),
    (
        "throttled",
        "warning",
        machine(ON_PI, throttled=("under-voltage",)),
        "under-voltage: now",
        "power supply",
    ),
    (
        "throttled",
        "warning",
        machine(ON_PI, throttled_before=("throttled",)),
        "throttled: at times",
        "heat sink",
    ),
    ("hot", "warning", machine(ON_PI, temperature_c=80.0), "80 °C", "fan"),
    (
        "memory-low",
        "warning",
        machine(ON_PI, memory_free_mb=149, memory_total_mb=430),
        "149 MB of 430 MB",
        "ps aux",
    ),
    ("disk-full", "error", disk(19), "19 MB of 30000 MB", "du -xhd1 /"),
    ("disk-full", "error", disk(5000, files_left=False), "no inode", "du --inodes"),
    ("disk-full", "error", disk(0, used_for="temporary files"), "temporary files", "du"),
    ("disk-low", "warning", disk(399), "399 MB", "apt-get clean"),
    ("no-camera", "ok", replace(ON_PC, cameras=()), "Neither", "lsusb"),
    (
        "camera-permission",
        "error",
        replace(machine(ON_PI, groups=("pi",)), cameras=(replace(USB, access="denied"),)),
        "/dev/video0 can be read by the group video; pi is in pi",
        "sudo usermod -aG video pi",
    ),
    (
        "camera-permission",
        "warning",
        replace(ON_PI, cameras=(USB, replace(USB, node="/dev/video2", access="denied"))),
        "/dev/video2",
        "chmod 660 /dev/video2",
    ),
    (
        "camera-in-use",
        "warning",
        replace(ON_PI, cameras=(replace(USB, in_use_by=("motion (812)",)),)),
        "motion (812)",
        "fuser -v /dev/video0",
    ),
    (
        "camera-in-use",
        "warning",
        replace(ON_PI, cameras=(replace(USB, access="busy"),)),
        "another program",
        "fuser",
    ),
    (
        "csi-only",
        "ok",
        replace(ON_PI, cameras=(RIBBON,)),
        "/dev/video0 (rp1-cfe-csi2_ch0): --camera 0 gives no picture",
        "--camera csi",
    ),
    (
        "csi-only",
        "warning",
        software(replace(ON_PI, cameras=(RIBBON,)), picamera2=Library()),
        "--camera 0",
        "--camera csi",
    ),
    ("csi-only", "ok", ON_JETSON, "imx219", "--camera csi"),
    (
        "picamera2-missing",
        "error",
        software(replace(ON_PI, cameras=(RIBBON,)), picamera2=Library()),
        "virtual environment",
        "apt install python3-picamera2",
    ),
    (
        "picamera2-missing",
        "warning",
        software(
            replace(ON_PI, cameras=(RIBBON, replace(USB, node="/dev/video8"))),
            picamera2=Library(error="no libcamera"),
        ),
        "no libcamera",
        "apt",
    ),
    (
        "opencv-without-gstreamer",
        "error",
        software(ON_JETSON, backends=("V4L2", "FFMPEG")),
        "no GStreamer",
        "nvidia-opencv",
    ),
    (
        "argus-stopped",
        "warning",
        replace(ON_JETSON, argus=False),
        "argus_socket",
        "systemctl restart nvargus-daemon",
    ),
    (
        "opencv-backends",
        "warning",
        software(ON_PC, backends=("FFMPEG",)),
        "without V4L2",
        "opencv-python-headless",
    ),
    (
        "opencv-backends",
        "warning",
        software(ON_PC, backends=("V4L2",)),
        "without FFMPEG",
        "opencv-python-headless",
    ),
]

# (id, facts that are close to the fault and have it not)
SILENT = [
    ("numpy-broken", ON_PC),
    ("opencv-broken", ON_PC),
    (
        "opencv-broken",
        software(ON_PC, numpy=Library(error="x"), opencv=Library(error="numpy")),
    ),  # one cause, one finding
    ("decoder-numpy", ON_PC),
    ("decoder-numpy", software(ON_PC, decoder="")),
    ("no-runtime", with_engines(ON_PI, OPENVINO, missing(TFLITE))),
    ("python-without-wheels", machine(ON_PI, python="3.15.0")),  # an engine runs: whatever is on PyPI
    ("python-without-wheels", with_engines(machine(ON_PI, machine="armv7l", bits=32), *ABSENT)),
    ("glibc-old", machine(ON_PI, glibc=(2, 31))),
    ("glibc-old", with_engines(machine(ON_PI, glibc=(2, 35)), OPENVINO)),
    ("glibc-old", with_engines(machine(ON_PI, glibc=(2, 31)), replace(OPENVINO, version="2025.2.0"))),
    ("glibc-old", with_engines(machine(ON_PC, glibc=(2, 31)), OPENVINO)),  # its wheels for x86 need 2.28
    ("glibc-old", with_engines(ON_PC, *ABSENT)),
    ("numpy-2-tflite-runtime", ON_PI),
    ("numpy-2-tflite-runtime", with_engines(software(ON_PI, numpy=Library("1.26.4")), RUNTIME_214)),
    ("model-damaged", ON_PC),
    ("engine-does-not-load", ON_PC),
    (
        "engine-does-not-load",
        with_engines(ON_PI, replace(RUNTIME_214, state="broken", reason="NumPy 1 only")),
    ),
    ("engine-does-not-load", broken(LOADER)),
    ("engine-crashes", ON_PC),
    ("engine-wrong", ON_PC),
    ("not-int8", with_engines(ON_PC, replace(TFLITE, int8="no"))),  # not the one that is taken
    ("not-int8", with_engines(ON_PC, replace(OPENVINO, int8="cannot be told"))),
    ("tflite-slow-kernels", ON_PC),
    ("tflite-slow-kernels", with_engines(ON_PI, replace(TFLITE, fast=None))),
    ("openvino-on-arm", ON_PC),
    ("openvino-on-arm", ON_PI),
    ("live-extra-missing", ON_PC),
    ("ready", with_engines(ON_PC, *ABSENT)),
    ("ready", with_engines(ON_PC, replace(OPENVINO, state="broken"))),  # auto takes it, and fails
    ("not-checked", ON_PC),
    ("system-32bit", ON_PI),
    ("emulated", ON_PI),
    ("jetpack-old", ON_JETSON),
    ("jetpack-old", ON_PI),
    ("throttled", ON_PI),
    ("throttled", machine(ON_PI, throttled=None)),
    ("hot", machine(ON_PI, temperature_c=79.9)),
    ("hot", machine(ON_PI, temperature_c=None)),
    ("memory-low", machine(ON_PI, memory_free_mb=150)),
    ("memory-low", machine(ON_PI, memory_free_mb=None)),
    ("disk-full", disk(20)),
    ("disk-low", disk(400)),
    ("disk-low", disk(100, used_for="temporary files")),
    ("no-camera", ON_PC),
    ("camera-permission", ON_PI),
    ("camera-in-use", ON_PI),
    ("csi-only", replace(ON_PI, cameras=(RIBBON, replace(USB, node="/dev/video8")))),
    ("csi-only", replace(ON_PI, cameras=())),
    ("picamera2-missing", replace(ON_PI, cameras=(RIBBON,))),
    ("picamera2-missing", software(ON_PI, picamera2=Library())),  # a USB camera needs none
    ("opencv-without-gstreamer", ON_JETSON),
    ("opencv-without-gstreamer", ON_PI),
    ("argus-stopped", ON_JETSON),
    ("opencv-backends", ON_PC),
    ("opencv-backends", software(ON_PC, opencv=Library(error="x"), backends=())),
]


def found(facts: Facts, name: str) -> list[Finding]:
    """The findings of one id."""
    return [finding for finding in diagnose(facts) if finding.id == name]


@pytest.mark.parametrize(("name", "level", "facts", "says", "fix"), CASES)
def test_a_fault_is_found(name: str, level: str, facts: Facts, says: str, fix: str) -> None:
    """Once, with its level, what was seen, and what to do."""
    (finding,) = found(facts, name)

    assert (finding.level, finding.docs) == (level, f"docs/doctor.md#{name}")
    assert says in finding.found
    assert fix in finding.fix
    assert bool(finding.fix) or level == "ok"


@pytest.mark.parametrize(("name", "facts"), SILENT)
def test_what_is_no_fault_is_not_found(name: str, facts: Facts) -> None:
    """No false alarm close beside it."""
    assert found(facts, name) == []


@pytest.mark.parametrize("facts", [ON_PC, ON_PI, replace(ON_PI, cameras=(RIBBON,)), ON_JETSON])
def test_nothing_is_wrong_on_a_healthy_machine(facts: Facts) -> None:
    """A PC, a Raspberry Pi with a USB or a ribbon-cable camera, a Jetson: no error and no warning."""
    assert [finding for finding in diagnose(facts) if finding.level != "ok"] == []


def test_errors_come_first() -> None:
    """Then warnings, then what is fine."""
    levels = [
        finding.level for finding in diagnose(software(disk(3), decoder="numpy", extras={"live": False}))
    ]

    assert levels == ["error", "warning", "ok", "ok"]


def ids_in_the_source() -> Iterator[str]:
    """The first argument of each Finding(...)."""
    for path in Path(edge_centernet.doctor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding" and node.args:
                assert isinstance(node.args[0], ast.Constant)
                yield str(node.args[0].value)


def test_every_rule_is_tried_both_ways() -> None:
    """The tables above hold every id that there is."""
    assert {case[0] for case in CASES} == {case[0] for case in SILENT} == set(ids_in_the_source())


def test_every_finding_is_explained() -> None:
    """docs/doctor.md has a heading for each id, and no other at that level."""
    page = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")

    assert sorted(re.findall(r"^### (\S+)$", page, re.M)) == sorted(set(ids_in_the_source()))


def test_a_32_bit_python_takes_32_bit_wheels() -> None:
    """Whatever the kernel calls itself: Raspberry Pi OS 32-bit boots a 64-bit one."""
    assert replace(BOARD, bits=32).wheels == "armv7l"
    assert replace(PC, bits=32).wheels == "i686"
    assert BOARD.wheels == "aarch64"


def test_libcamera_s_cameras_count() -> None:
    """One that has no node is a ribbon-cable camera all the same."""
    camera = Camera("", "imx708", "libcamera", "csi", told_by="libcamera")

    (finding,) = found(replace(ON_PI, cameras=(camera,), software=SOFTWARE), "csi-only")
    assert finding.found.startswith("libcamera (imx708)")
