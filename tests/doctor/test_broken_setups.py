"""Set-ups that are really broken, as far as that can be done here, and what doctor says of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from healthy import tree
from test_cameras import node

import edge_centernet
from edge_centernet.artifact import read_manifest
from edge_centernet.doctor.examine import examine
from edge_centernet.doctor.rules import diagnose
from edge_centernet.manifest import Manifest
from edge_centernet.model_zoo import DEFAULT, find_model

PACKAGE = Path(edge_centernet.__file__).parent
SITE = Path(click.__file__).parents[1]  # where click is, and all else that was installed with it
CACHE = Path(os.environ.get("EDGE_CENTERNET_DEVICES") or "~/.cache/edge-centernet/devices").expanduser()
NOBODY = 65534
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Said(NamedTuple):
    """What doctor said: exit status, its object, and what went to standard error."""

    code: int
    report: dict[str, Any]
    progress: str

    def levels(self) -> dict[str, str]:
        """Finding -> level, those that are not fine."""
        return {f["id"]: f["level"] for f in self.report["findings"] if f["level"] != "ok"}

    def finding(self, name: str) -> dict[str, str]:
        """The one finding of that id."""
        (found,) = [f for f in self.report["findings"] if f["id"] == name]
        return dict(found)

    def engine(self, name: str) -> dict[str, Any]:
        """The engine of that name."""
        return next(e for e in self.report["engines"] if e["name"] == name)


def doctor(*options: str, python: list[str] | None = None, **how: Any) -> Said:
    """Run the command for JSON; it ends with 0 or 1, whatever is broken."""
    command = [*(python or [sys.executable]), "-m", "edge_centernet", "doctor", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **how)
    assert done.returncode in (0, 1), done.stderr
    return Said(done.returncode, json.loads(done.stdout), done.stderr)


def environment(**changes: str | Path) -> dict[str, str]:
    """This process's, changed."""
    return {**os.environ, **{name: str(value) for name, value in changes.items()}}


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system on a folder, for as long as it is needed; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def make_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A new virtual environment with packages from PyPI and a copy of this one; the path of its Python."""

    def make(*packages: str) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin/python"
        command = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "click",
            *packages,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot install {' '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")
        shutil.copytree(PACKAGE, folder / f"lib/python{MINOR}/site-packages/edge_centernet")
        return python

    return make


# --- a machine on which all is well ---


def test_a_development_machine_has_no_error() -> None:
    """Here, where the tests run: every engine is right, the progress goes to standard error."""
    pytest.importorskip("openvino")
    said = doctor()

    assert said.code == 0
    assert "error" not in said.levels().values()
    assert [e["state"] for e in said.report["engines"] if e["package"]] == ["right"] * 3
    assert [e["name"] for e in said.report["engines"] if e["auto"]] == [
        "tflite" if said.report["machine"]["machine"] == "aarch64" else "openvino"
    ]
    assert [line for line in said.progress.splitlines() if line.startswith("Checking ")] != []


# --- 1: NumPy 2 with tflite-runtime ---


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] > (3, 11), reason="tflite-runtime has no wheels for this Python")
def test_numpy_2_with_tflite_runtime(make_python: Callable[..., Path], tmp_path: Path) -> None:
    """tflite-runtime 2.14 and NumPy 2.2 from PyPI: one error, whose fix makes it go away."""
    python = make_python("tflite-runtime==2.14.0", "numpy==2.2.6", "opencv-python-headless")
    said = doctor(python=[str(python)], cwd=tmp_path)

    assert said.code == 1
    assert said.levels() == {"numpy-2-tflite-runtime": "error"} | _slow_decoder(said)
    finding = said.finding("numpy-2-tflite-runtime")
    assert finding["found"] == "tflite-runtime 2.14.0 is built for NumPy 1, NumPy 2.2.6 is installed."
    assert finding["fix"] == f"{python} -m pip install ai-edge-litert"

    subprocess.run([*finding["fix"].split(), "-q"], check=True, capture_output=True)
    said = doctor(python=[str(python)], cwd=tmp_path)
    assert (said.code, said.engine("tflite")["package"]) == (0, "ai_edge_litert")
    assert said.levels() == _slow_decoder(said)


def _slow_decoder(said: Said) -> dict[str, str]:
    """The package under test may be one without the compiled decoder."""
    return {} if said.report["machine"]["software"]["decoder"] == "c" else {"decoder-numpy": "warning"}


# --- 2: no runtime ---


@pytest.mark.slow
def test_no_runtime(make_python: Callable[..., Path], tmp_path: Path) -> None:
    """NumPy and OpenCV alone."""
    python = make_python("numpy", "opencv-python-headless")
    said = doctor(python=[str(python)], cwd=tmp_path)

    assert (said.code, said.levels()) == (1, {"no-runtime": "error"} | _slow_decoder(said))
    wanted = "ai-edge-litert" if said.report["machine"]["machine"] == "aarch64" else "openvino"
    assert said.finding("no-runtime")["fix"] == f"{python} -m pip install {wanted}"
    assert {e["state"] for e in said.report["engines"]} == {"missing"}


@pytest.mark.slow
def test_nothing_but_click(make_python: Callable[..., Path], tmp_path: Path) -> None:
    """No NumPy, no OpenCV, no engine: doctor runs all the same, and names all three."""
    said = doctor(python=[str(make_python())], cwd=tmp_path)

    assert said.code == 1
    assert said.levels() == {"numpy-broken": "error", "opencv-broken": "error", "no-runtime": "error"}


# --- 3: no video group ---


@root_only
def test_a_user_without_the_group_video() -> None:
    """A real device node of the group video, and a real user who is not in it; as root nothing is wrong."""
    python = _python_for_nobody()
    root = Path("/tmp") / f"doctor-{os.getpid()}"  # pytest's own folders are closed to others
    try:
        tree(root, node(0, "HD Webcam", "uvcvideo", "usb1/1-1/1-1:1.0"))
        camera = root / "dev/video0"
        camera.unlink()
        try:
            os.mknod(camera, 0o20660, os.makedev(81, 0))
        except PermissionError:
            pytest.skip("no device nodes may be made here")
        shutil.chown(camera, group="video")
        os.chmod(camera, 0o660)
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        program = (
            "import json, sys; from pathlib import Path; from dataclasses import asdict\n"
            "from edge_centernet.doctor.examine import examine\n"
            "from edge_centernet.doctor.rules import diagnose\n"
            "facts = examine(quick=True, root=Path(sys.argv[1]))\n"
            "print(json.dumps([asdict(finding) for finding in diagnose(facts)]))"
        )
        paths = f"{PACKAGE.parent}:{SITE}"
        command = [python, "-c", program, str(root)]
        options: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        told = [
            json.loads(
                subprocess.check_output(command, env=environment(PYTHONPATH=paths, HOME="/"), cwd="/", **who)
            )
            for who in (options, {})
        ]
        denied, allowed = ([f for f in findings if f["id"] == "camera-permission"] for findings in told)
        assert [(f["level"], f["found"]) for f in denied] == [
            ("error", "/dev/video0 can be read by the group video; nobody is in nogroup.")
        ]
        assert denied[0]["fix"].startswith("sudo usermod -aG video nobody ")
        assert allowed == []
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _python_for_nobody() -> str:
    """A Python of this version that every user may start."""
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    for python in (sys.executable, f"/usr/bin/python{MINOR}"):
        command = [python, "-c", "import click"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                command, env=environment(PYTHONPATH=SITE), cwd="/", capture_output=True, check=True, **who
            )
            return python
    pytest.skip("no Python that another user may start")


# --- 4: CSI only ---


def test_a_raspberry_pi_with_a_ribbon_cable_camera_only(tmp_path: Path) -> None:
    """The nodes of a Pi 5 with a camera: `--camera csi` is named, and that picamera2 is missing here."""
    files = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        **node(0, "rp1-cfe-csi2_ch0", "rp1-cfe", "platform/axi/1f00110000.csi"),
        **node(1, "rp1-cfe-embedded", "rp1-cfe", "platform/axi/1f00110000.csi", 1),
        **node(19, "rpi-hevc-dec", "rpi-hevc-dec", "platform/hevc"),
        **node(20, "pispbe-input", "pispbe", "platform/axi/pisp"),
    }
    findings = {f.id: f for f in diagnose(examine(quick=True, root=tree(tmp_path, files)))}

    assert (
        findings["csi-only"].found
        == "/dev/video0 (rp1-cfe-csi2_ch0): --camera 0 gives no picture or a raw one."
    )
    assert (findings["csi-only"].level, findings["csi-only"].fix) == (
        "warning",
        "edge-centernet detect --camera csi",
    )
    assert findings["picamera2-missing"].level == "error"
    assert "camera-permission" not in findings

    usb = node(8, "HD Webcam", "uvcvideo", "platform/usb1/1-1/1-1:1.0")
    with_usb = {f.id: f.level for f in diagnose(examine(quick=True, root=tree(tmp_path, usb)))}
    assert "csi-only" not in with_usb
    assert with_usb["picamera2-missing"] == "warning"


# --- 5: OpenVINO failing the check ---


def other_answer(xml: Path) -> None:
    """Change the answer that a file carries, and take off the seal that would tell before any engine runs."""
    manifest = read_manifest(xml)
    golden: Any = json.loads(json.dumps(manifest.golden))
    golden["heat"]["steps"] = [step + 9 for step in golden["heat"]["steps"]]
    changed: Manifest = dataclasses.replace(manifest, golden=golden, content_sha256="")
    text = xml.read_text(encoding="utf-8")
    old = re.search(r'<edge_centernet value="([^"]*)"', text)
    assert old
    new = changed.to_json().replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    xml.write_text(text.replace(old[1], new), encoding="utf-8")


def test_openvino_failing_the_check(tmp_path: Path) -> None:
    """A file for OpenVINO alone: an error. Its answer is nine steps off."""
    pytest.importorskip("openvino")
    for part in (find_model(DEFAULT, ".xml"), find_model(DEFAULT, ".xml").with_suffix(".bin")):
        shutil.copy(part, tmp_path)
    xml = tmp_path / f"{DEFAULT}.xml"
    said = doctor("--model", str(xml))
    assert (said.code, said.engine("openvino")["state"]) == (0, "right")

    other_answer(xml)
    said = doctor("--model", str(xml))
    assert said.code == 1
    assert said.finding("engine-wrong")["level"] == "error"
    assert (
        "heat differs by 9.0 output steps on average (at most 1.5)" in said.finding("engine-wrong")["found"]
    )
    assert said.engine("openvino")["stage"] == ""


def test_openvino_failing_the_check_beside_tflite(tmp_path: Path) -> None:
    """The shipped model of a copy of the package: auto passes OpenVINO over, so it is a warning."""
    pytest.importorskip("openvino")
    pytest.importorskip("ai_edge_litert")
    shutil.copytree(PACKAGE, tmp_path / "edge_centernet")
    other_answer(tmp_path / "edge_centernet/model_zoo" / f"{DEFAULT}.xml")
    said = doctor(cwd=tmp_path)

    assert said.code == 0
    assert said.finding("engine-wrong")["level"] == "warning"
    assert said.finding("engine-wrong")["fix"].startswith("None needed: --runtime auto takes TFLite.")
    assert [e["name"] for e in said.report["engines"] if e["auto"]] == ["tflite"]


def test_a_model_file_that_was_cut_off(tmp_path: Path) -> None:
    """Found by its own hash: the file is at fault, not the engine."""
    path = Path(shutil.copy(find_model(DEFAULT, ".onnx"), tmp_path))
    path.write_bytes(path.read_bytes()[:-5000])
    said = doctor("--model", str(path))

    assert (said.code, said.finding("model-damaged")["level"]) == (1, "error")
    assert said.engine("onnxruntime")["state"] == "damaged"


# --- 6: 32-bit ---


@pytest.mark.slow
@root_only
def test_32_bit(tmp_path: Path) -> None:
    """Debian for 32-bit ARM, emulated, with its own NumPy and OpenCV and no engine."""
    base = CACHE / "rootfs-armhf"
    if not (base / "usr/bin/python3").exists():
        pytest.skip(f"no root file system for armhf: scripts/devices/rootfs.sh armhf makes {base}")
    folders = [tmp_path / name for name in ("upper", "work")]
    for folder in folders:
        folder.mkdir()
    overlay = f"lowerdir={base},upperdir={folders[0]},workdir={folders[1]}"
    with mounted(tmp_path / "root", "-t", "overlay", "-o", overlay, "overlay") as root:
        for package in (PACKAGE, SITE / "click"):
            shutil.copytree(package, root / "site" / package.name)
        started = subprocess.run(["chroot", root, "python3", "-V"], capture_output=True, check=False)
        if started.returncode:
            pytest.skip("programs for 32-bit ARM do not run here: apt-get install qemu-user-static")
        said = doctor(python=["chroot", str(root), "env", "-C", "/", "PYTHONPATH=/site", "python3"])

    machine = said.report["machine"]
    assert (said.code, machine["bits"], machine["machine"]) == (1, 32, "armv7l")
    levels = said.levels()
    assert (levels["system-32bit"], levels["no-runtime"]) == ("warning", "error")
    assert said.finding("no-runtime")["fix"].endswith("-m pip install tflite-runtime 'numpy<2'")
    assert {"numpy-broken", "opencv-broken", "python-without-wheels"} & set(levels) == set()


# --- 7: old glibc ---


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_that_needs_a_newer_glibc(tmp_path: Path) -> None:
    """An engine linked with a C library that does not exist yet: the real loader refuses it."""
    (tmp_path / "libc.c").write_text("void from_the_future(void) {}\n")
    (tmp_path / "libc.map").write_text("GLIBC_2.99 { from_the_future; };\n")
    (tmp_path / "engine.c").write_text(
        "void from_the_future(void);\nvoid PyInit_core(void) { from_the_future(); }\n"
    )
    package = tmp_path / "site/openvino"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from openvino import core\n")
    newer = ["-Wl,--version-script=libc.map", "-Wl,-soname,libc.so.6", "libc.c", "-o", "libfuture.so"]
    uses = ["engine.c", "-L.", "-lfuture", "-o", str(package / "core.so")]
    for arguments in (newer, uses):
        subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", *arguments], cwd=tmp_path, check=True)
    said = doctor("--model", str(find_model(DEFAULT, ".xml")), env=environment(PYTHONPATH=tmp_path / "site"))

    finding = said.finding("glibc-old")
    assert (said.code, finding["level"]) == (1, "error")
    have = ".".join(map(str, said.report["machine"]["glibc"]))
    assert re.search(
        rf"needs glibc 2\.99, this system has {re.escape(have)}\..*`GLIBC_2\.99' not found", finding["found"]
    )
    assert "engine-does-not-load" not in said.levels()


# --- 8: full disk ---


@root_only
def test_a_full_disk(tmp_path: Path) -> None:
    """A real file system of 1 MB, full: doctor runs, and names it."""
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as full:
        with (full / "log").open("wb", buffering=0) as log:
            while log.write(bytes(1 << 16)) == 1 << 16:  # a file system that is nearly full takes less
                if os.statvfs(full).f_bavail == 0:
                    break
        said = doctor("--quick", env=environment(XDG_CACHE_HOME=full))

    assert (said.code, said.finding("disk-full")["level"]) == (1, "error")
    assert said.finding("disk-full")["found"] == f"{full} (the cache): 0 MB of 1 MB are free."
    assert str(full) in said.finding("disk-full")["fix"]


@root_only
def test_a_disk_without_inodes(tmp_path: Path) -> None:
    """There is room, but not for another file."""
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=100M,nr_inodes=2", "tmpfs") as full:
        (full / "last").touch()
        said = doctor("--quick", env=environment(TMPDIR=full))

    assert said.finding("disk-full")["found"].startswith(f"{full} (temporary files): no inode is left")
    assert said.code == 1


# --- what crashes goes on ---


def test_an_engine_that_crashes_is_reported_and_the_others_run(tmp_path: Path) -> None:
    """A real segmentation fault in place of OpenVINO."""
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "openvino.py").write_text("import ctypes; ctypes.string_at(0)\n")
    said = doctor(env=environment(PYTHONPATH=tmp_path))

    assert said.code == 0
    assert said.finding("engine-crashes")["level"] == "warning"
    assert "crashed (SIGSEGV) when it was imported" in said.finding("engine-crashes")["found"]
    assert said.engine("tflite")["state"] == "right"
    assert said.engine("tflite")["auto"] is True
