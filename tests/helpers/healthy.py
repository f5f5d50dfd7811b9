"""Facts of machines on which nothing is wrong, for rules to be tried on."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from edge_centernet.doctor.facts import Camera, Engine, Facts, Library, Software
from edge_centernet.system.machine import Disk, Machine

PC = Machine(
    kind="x86",
    board="A PC",
    system="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0",
    machine="x86_64",
    cpu="Some CPU",
    features=("avx2", "avx512_vnni"),
    cores=4,
    memory_total_mb=8000,
    memory_free_mb=4000,
    temperature_c=45.0,
    throttled=(),
    glibc=(2, 36),
    python="3.11.2",
    executable="/venv/bin/python",
    disks=(Disk("/", ("the installation", "the cache"), 9000, 30000),),
    user="pi",
    groups=("pi", "video"),
)
BOARD = replace(PC, kind="pi", board="Raspberry Pi 4 Model B Rev 1.4", machine="aarch64", features=("asimd",))
SOFTWARE = Software(
    numpy=Library("2.2.6"),
    opencv=Library("4.11.0"),
    backends=("V4L2", "FFMPEG"),
    picamera2=Library("0.3.30"),
    decoder="c",
    extras={"live": True},
)
USB = Camera("/dev/video0", "HD Webcam", "uvcvideo", "usb", "ok", "video")
RIBBON = Camera("/dev/video0", "rp1-cfe-csi2_ch0", "rp1-cfe", "csi", "ok", "video")
OPENVINO = Engine(
    *("openvino", "OpenVINO", "openvino", "2026.4.1", "m.xml", "right"), int8="yes", int8_how="all", ms=6.0
)
TFLITE = Engine(
    *("tflite", "TFLite", "ai_edge_litert", "2.3.0", "m.tflite", "right"),
    int8="yes",
    int8_how="all",
    fast=True,
    ms=9.0,
)
ORT = Engine("onnxruntime", "ONNX Runtime", model="m.onnx")

ON_PC = Facts(PC, SOFTWARE, (OPENVINO, TFLITE, ORT), (USB,), "m", ("openvino", "tflite"))
ON_PI = Facts(
    BOARD, SOFTWARE, (Engine("openvino", "OpenVINO", model="m.xml"), TFLITE, ORT), (USB,), "m", ("tflite",)
)
ON_JETSON = replace(
    ON_PI,
    machine=replace(
        BOARD, kind="jetson", board="NVIDIA Jetson Orin Nano", jetpack="JetPack 6 (L4T 36.4)", l4t=(36, 4)
    ),
    software=replace(SOFTWARE, backends=("V4L2", "FFMPEG", "GSTREAMER")),
    cameras=(replace(RIBBON, name="vi-output, imx219 9-0010", driver="tegra-video"),),
    argus=True,
)


def with_engines(facts: Facts, *engines: Engine) -> Facts:
    """The facts with these engines in place of those of the same names; auto tries the installed ones."""
    new = {engine.name: engine for engine in engines}
    all_of_them = tuple(new.get(engine.name, engine) for engine in facts.engines)
    names = (
        ("tflite", "openvino", "onnxruntime") if facts.machine.arm else ("openvino", "tflite", "onnxruntime")
    )
    there = {engine.name for engine in all_of_them if engine.installed}
    return replace(facts, engines=all_of_them, order=tuple(name for name in names if name in there))


def missing(engine: Engine) -> Engine:
    """The same engine, not installed."""
    return Engine(engine.name, engine.title, model=engine.model)


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root; a content "-> TARGET" makes a link, to a folder that is made."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            target = root / text[3:]
            target.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.symlink_to(target)
        else:
            path.write_text(text)
    return root
