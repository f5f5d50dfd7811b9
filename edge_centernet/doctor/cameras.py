"""Cameras at this computer: which /dev/video* are cameras, how connected, who may read them, who does.

A Raspberry Pi has a dozen such nodes for its codecs, and none of them is a camera: the driver is asked
(VIDIOC_QUERYCAP).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from edge_centernet.doctor.facts import Camera, CameraKind
from edge_centernet.system.machine import group_name

QUERYCAP = 0x80685600  # _IOR('V', 0, struct v4l2_capability) of linux/videodev2.h
CAPABILITY = struct.Struct("=16s32s32sIII12x")  # driver, card, bus_info, version, capabilities, device_caps
_CAPTURE = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, _CAPTURE_MPLANE; a codec has the M2M bits instead
_DEVICE_CAPS = 0x80000000  # device_caps is about this node, capabilities about all nodes of the device
# By driver, where the driver cannot be asked: those that take no pictures (codecs, image processors), ...
_NO_CAMERAS = re.compile(r"codec|isp|pispbe|rpivid|hevc|hantro|vpu|rga|jpeg|venc|vdec|cedrus", re.IGNORECASE)
# ... and those whose pictures come from a ribbon cable and need libcamera or Argus: Pi 0 to 4, Pi 5, Jetson.
_CSI = re.compile(r"unicam|rp1-cfe|rp1_cfe|tegra-?video|tegra-?capture|vi-output", re.IGNORECASE)


class Capability(NamedTuple):
    """What a driver says of a node."""

    driver: str
    card: str
    bus: str
    captures: bool


def read_cameras(root: Path = Path("/")) -> tuple[Camera, ...]:
    """Every camera with a node. root: where /sys, /dev and /proc are."""
    found: list[Camera] = []
    ribbons: set[Path] = set()
    entries = root.glob("sys/class/video4linux/video*")
    for entry in sorted(entries, key=lambda path: int(re.sub(r"\D", "", path.name) or 0)):
        camera = _camera(root, entry)
        if camera is None:
            continue
        if camera.kind == "csi":  # one sensor has up to eight nodes, of one device
            device = (entry / "device").resolve()
            if device in ribbons:
                continue
            ribbons.add(device)
        found.append(camera)
    return tuple(found)


def _camera(root: Path, entry: Path) -> Camera | None:
    """The camera of one node; None for a node that is none."""
    node, device = root / "dev" / entry.name, (entry / "device").resolve()
    driver, name = (entry / "device/driver").resolve().name, _text(entry / "name")
    if driver == "driver":  # no link there
        driver = ""
    # 1. Whether it is a camera: by the driver's answer, or, where it cannot be asked, by the names.
    access, told = ask(node)
    if told is not None:
        if not told.captures:
            return None
        driver, name = told.driver or driver, told.card or name
    elif _NO_CAMERAS.search(driver) or _NO_CAMERAS.search(name) or _text(entry / "index") not in ("", "0"):
        return None
    # 2. How it is connected.
    kind: CameraKind = "other"
    if _CSI.search(driver) or _CSI.search(name):
        kind = "csi"
    elif driver == "uvcvideo" or (told and told.bus.startswith("usb")) or "/usb" in str(device):
        kind = "usb"
    # 3. Who may read it.
    try:
        group = group_name(node.stat().st_gid)
    except OSError:  # sysfs has the camera, /dev has not: a container
        group = ""
    return Camera(
        node=f"/dev/{entry.name}",
        name=name or entry.name,
        driver=driver,
        kind=kind,
        access=access,
        group=group,
        in_use_by=users(root, node),
        told_by="name" if told is None else "driver",
    )


def ask(node: Path) -> tuple[str, Capability | None]:
    """(access, what the driver says); access as in Camera."""
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        known = {errno.EACCES: "denied", errno.EPERM: "denied", errno.EBUSY: "busy"}
        return known.get(error.errno or 0, os.strerror(error.errno or 0)), None
    try:
        answer = fcntl.ioctl(descriptor, QUERYCAP, bytes(CAPABILITY.size))
    except OSError:  # not a video device
        return "ok", None
    finally:
        os.close(descriptor)
    return "ok", capability(answer)


def capability(answer: bytes) -> Capability:
    """The kernel's struct v4l2_capability in words."""
    driver, card, bus, _, of_device, of_node = CAPABILITY.unpack(answer)
    caps = of_node if of_device & _DEVICE_CAPS else of_device
    return Capability(_word(driver), _word(card), _word(bus), bool(caps & _CAPTURE))


def _word(padded: bytes) -> str:
    return padded.split(b"\0")[0].decode("utf-8", "replace")


def users(root: Path, node: Path) -> tuple[str, ...]:
    """The programs that have a node open, "name (process)"; those of other users are seen by root only."""
    found = []
    for process in root.glob("proc/[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            names = {os.readlink(entry) for entry in (process / "fd").iterdir()}
        except OSError:
            continue
        if str(node) in names or f"/dev/{node.name}" in names:
            found.append(f"{_text(process / 'comm') or '?'} ({process.name})")
    return tuple(sorted(found))


def argus(root: Path = Path("/")) -> bool:
    """Whether the camera daemon of a Jetson listens."""
    try:
        return stat.S_ISSOCK((root / "tmp/argus_socket").stat().st_mode)
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
