"""Which /dev/video* are cameras, and who may read them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from healthy import tree

from edge_centernet.doctor import cameras
from edge_centernet.doctor.cameras import CAPABILITY, QUERYCAP, argus, ask, capability, read_cameras, users

V4L = "sys/class/video4linux"
CAPTURE, META, M2M, DEVICE_CAPS = 0x04200001, 0x04A00000, 0x04204000, 0x80000000


def node(number: int, name: str, driver: str, device: str, index: int = 0) -> dict[str, str]:
    """A node as sysfs and /dev have it; the file in /dev answers no ioctl."""
    return {
        f"{V4L}/video{number}/name": f"{name}\n",
        f"{V4L}/video{number}/index": f"{index}\n",
        f"{V4L}/video{number}/device": f"-> sys/devices/{device}",
        f"sys/devices/{device}/driver": f"-> sys/bus/drivers/{driver}",
        f"dev/video{number}": "",
    }


def test_a_raspberry_pi_5_with_a_ribbon_cable_camera_has_one(tmp_path: Path) -> None:
    """Of its twenty nodes most are of the codec and the image processor, and eight are one camera's."""
    files: dict[str, str] = {}
    for i in range(8):
        files |= node(i, f"rp1-cfe-csi2_ch{i}", "rp1-cfe", "platform/axi/1f00110000.csi", i)
    files |= node(19, "rpi-hevc-dec", "rpi-hevc-dec", "platform/hevc")
    for i in range(20, 28):
        files |= node(i, f"pispbe-{i}", "pispbe", "platform/axi/pisp")

    (camera,) = read_cameras(tree(tmp_path, files))
    assert (camera.node, camera.driver, camera.kind) == ("/dev/video0", "rp1-cfe", "csi")
    assert camera.told_by == "name"


def test_a_raspberry_pi_4_with_a_usb_camera_has_one(tmp_path: Path) -> None:
    """Its second node is for metadata; bcm2835-codec's and bcm2835-isp's take no pictures."""
    usb = "platform/scb/fd500000.pcie/usb1/1-1/1-1.2/1-1.2:1.0"
    files = {
        **node(0, "HD Pro Webcam C920", "uvcvideo", usb),
        **node(1, "HD Pro Webcam C920", "uvcvideo", usb, 1),
        **node(10, "bcm2835-codec-decode", "bcm2835-codec", "platform/codec"),
        **node(13, "bcm2835-isp-output0", "bcm2835-isp", "platform/isp"),
    }
    (camera,) = read_cameras(tree(tmp_path, files))
    assert (camera.node, camera.name, camera.kind) == ("/dev/video0", "HD Pro Webcam C920", "usb")


def test_no_cameras_is_an_empty_list(tmp_path: Path) -> None:
    """Nor is a machine without V4L2 an error."""
    assert read_cameras(tmp_path) == ()


@pytest.mark.parametrize(
    ("of_device", "of_node", "captures"),
    [
        (CAPTURE | DEVICE_CAPS, CAPTURE, True),
        (
            CAPTURE | META | DEVICE_CAPS,
            META,
            False,
        ),  # the camera's second node: the device captures, this node does not
        (M2M | DEVICE_CAPS, M2M, False),
        (0x1000 | DEVICE_CAPS, 0x1000, True),  # several planes
        (CAPTURE, 0, True),  # drivers before Linux 3.4 tell of the device only
    ],
)
def test_what_a_driver_says(of_device: int, of_node: int, captures: bool) -> None:
    """Of this node, not of all nodes of its device."""
    answer = CAPABILITY.pack(b"uvcvideo", b"Webcam", b"usb-0000:01:00.0-1.2", 0x060100, of_device, of_node)

    assert capability(answer) == ("uvcvideo", "Webcam", "usb-0000:01:00.0-1.2", captures)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_question_is_the_kernel_s(tmp_path: Path) -> None:
    """Its number, the size of the answer and the bits are those of linux/videodev2.h."""
    source = tmp_path / "v.c"
    source.write_text(
        "#include <stdio.h>\n#include <linux/videodev2.h>\n"
        'int main(void) { printf("%lu %zu %u %u", (unsigned long)VIDIOC_QUERYCAP, '
        "sizeof(struct v4l2_capability), "
        "(unsigned)(V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_VIDEO_CAPTURE_MPLANE), "
        "(unsigned)V4L2_CAP_DEVICE_CAPS); }\n"
    )
    subprocess.run(["gcc", source, "-o", tmp_path / "v"], check=True)
    expected = [QUERYCAP, CAPABILITY.size, cameras._CAPTURE, cameras._DEVICE_CAPS]

    assert subprocess.check_output([tmp_path / "v"], text=True).split() == [
        str(number) for number in expected
    ]


def test_a_device_that_is_no_camera_is_asked_in_vain() -> None:
    """The real kernel refuses the question; it is no crash."""
    assert ask(Path("/dev/null")) == ("ok", None)
    assert ask(Path("/dev/no-such-device")) == ("No such file or directory", None)


def test_who_has_a_node_open_is_named(tmp_path: Path) -> None:
    """By program and process."""
    camera = tmp_path / "video0"
    camera.touch()
    program = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, camera], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        comm = Path(f"/proc/{other.pid}/comm").read_text().strip()
        assert users(Path("/"), camera) == (f"{comm} ({other.pid})",)
        other.communicate()
    assert users(Path("/"), camera) == ()


def test_the_camera_daemon_of_a_jetson_is_its_socket(tmp_path: Path) -> None:
    """A file of that name is none."""
    (tmp_path / "tmp").mkdir()
    assert not argus(tmp_path)
    (tmp_path / "tmp/argus_socket").touch()
    assert not argus(tmp_path)
    (tmp_path / "tmp/argus_socket").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path / "tmp", os.O_PATH)  # a socket's name is short
        server.bind(f"/proc/self/fd/{here}/argus_socket")
        os.close(here)
        assert argus(tmp_path)
