"""Rules about cameras: each a pure function of the facts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from edge_centernet.doctor.facts import Facts
from edge_centernet.doctor.findings import Finding


def none_found(facts: Facts) -> Iterator[Finding]:
    """No camera at this computer."""
    if not facts.cameras:
        yield Finding(
            "no-camera",
            "ok",
            "No camera is connected",
            "Neither a USB nor a ribbon-cable camera was found. Network cameras and files need none.",
            "lsusb; on a Raspberry Pi: rpicam-hello --list-cameras",
        )


def permission(facts: Facts) -> Iterator[Finding]:
    """A camera that this user may not read."""
    denied = [camera for camera in facts.cameras if camera.access == "denied"]
    if not denied:
        return
    user, group = facts.machine.user, denied[0].group or "video"
    nodes = ", ".join(camera.node for camera in denied)
    member = group in facts.machine.groups
    yield Finding(
        "camera-permission",
        "error" if all(camera.access == "denied" for camera in facts.cameras if camera.node) else "warning",
        "The camera may not be read by this user",
        f"{nodes} can be read by the group {group}; {user} is in {', '.join(facts.machine.groups) or 'no group'}.",
        f"sudo chmod 660 {nodes.replace(',', '')}"
        if member
        else f"sudo usermod -aG {shlex.quote(group)} {shlex.quote(user)}   # then log out and in again",
    )


def in_use(facts: Facts) -> Iterator[Finding]:
    """A camera that another program has."""
    for camera in facts.cameras:
        if camera.in_use_by or camera.access == "busy":
            who = ", ".join(camera.in_use_by) or "another program"
            yield Finding(
                "camera-in-use",
                "warning",
                "The camera is used by another program",
                f"{camera.node} ({camera.name}) is open in {who}; only one program gets pictures.",
                f"fuser -v {camera.node}; for our own service: systemctl stop 'edge-centernet@*'",
            )


def ribbon_only(facts: Facts) -> Iterator[Finding]:
    """Only a camera on the ribbon cable: --camera 0 gives no picture."""
    kinds = {camera.kind for camera in facts.cameras}
    if kinds != {"csi"}:
        return
    names = ", ".join(f"{camera.node or 'libcamera'} ({camera.name})" for camera in facts.cameras)
    usable = (
        bool(facts.software.picamera2.version)
        if facts.machine.kind == "pi"
        else "GSTREAMER" in facts.software.backends
    )
    yield Finding(
        "csi-only",
        "ok" if usable else "warning",
        "The camera is on the ribbon cable",
        f"{names}: --camera 0 gives no picture or a raw one.",
        "edge-centernet detect --camera csi",
    )


def picamera2(facts: Facts) -> Iterator[Finding]:
    """A Raspberry Pi's ribbon-cable camera without the library that reads it."""
    ribbon = any(camera.kind == "csi" for camera in facts.cameras)
    library = facts.software.picamera2
    if facts.machine.kind != "pi" or not ribbon or (library.version and not library.error):
        return
    others = any(camera.kind != "csi" for camera in facts.cameras)
    yield Finding(
        "picamera2-missing",
        "warning" if others else "error",
        "The ribbon-cable camera needs picamera2",
        f"picamera2 does not load: {library.error}."
        if library.error
        else "picamera2 is not there, or this virtual environment does not see the system's packages.",
        "sudo apt install python3-picamera2 && python3 -m venv --system-site-packages .venv",
    )


def jetson_camera(facts: Facts) -> Iterator[Finding]:
    """A Jetson's ribbon-cable camera without GStreamer or its daemon."""
    if facts.machine.kind != "jetson" or not any(camera.kind == "csi" for camera in facts.cameras):
        return
    if facts.software.opencv.version and "GSTREAMER" not in facts.software.backends:
        yield Finding(
            "opencv-without-gstreamer",
            "error" if all(camera.kind == "csi" for camera in facts.cameras) else "warning",
            "OpenCV cannot read the ribbon-cable camera",
            f"OpenCV {facts.software.opencv.version} has no GStreamer; those from PyPI have none, JetPack's has.",
            f"{shlex.quote(facts.machine.executable)} -m pip uninstall -y opencv-python-headless "
            "&& sudo apt install nvidia-opencv   # in a virtual environment made with --system-site-packages",
        )
    if facts.argus is False:
        yield Finding(
            "argus-stopped",
            "warning",
            "The camera daemon does not run",
            "/tmp/argus_socket is not there: ribbon-cable cameras give no picture.",
            "sudo systemctl restart nvargus-daemon",
        )


def backends(facts: Facts) -> Iterator[Finding]:
    """An OpenCV without V4L2 or FFmpeg."""
    software = facts.software
    if not software.opencv.version or software.opencv.error:
        return
    for name, title in (("V4L2", "USB cameras"), ("FFMPEG", "network cameras and most video files")):
        if name not in software.backends:
            yield Finding(
                "opencv-backends",
                "warning",
                f"OpenCV cannot read {title}",
                f"OpenCV {software.opencv.version} was built without {name}.",
                f"{shlex.quote(facts.machine.executable)} -m pip install --force-reinstall opencv-python-headless",
            )


RULES = (none_found, permission, in_use, ribbon_only, picamera2, jetson_camera, backends)
