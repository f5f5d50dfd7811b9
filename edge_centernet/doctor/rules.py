"""The rules: each a pure function of the facts that yields what it finds.

In three chapters: NumPy, OpenCV, the decoder and the engines; board, system and disks; cameras.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from edge_centernet.doctor.facts import Engine, Facts, Finding, Level
from edge_centernet.extras import pip_command
from edge_centernet.runtimes.engines import (
    requirement,
    wheels_for_glibc,
    wheels_for_machine,
    wheels_for_python,
)
from edge_centernet.system.machine import Machine

_NEW_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)'? not found")
_ALTERNATIVES = (("ai-edge-litert", "tflite"), ("openvino", "openvino"), ("onnxruntime", "onnxruntime"))
_OPENVINO_ON_ARM = (2025, 3)  # from this release on its wheels for ARM need glibc 2.35
DISK_FULL_MB = 20  # below, the next picture or log line may not fit
DISK_LOW_MB = 400  # a release with its engine, beside the old one
MEMORY_LOW_MB = 150  # network, engine and a few pictures
HOT_C = 80.0  # where a Raspberry Pi begins to slow down
JETPACK_MIN_L4T = 36  # JetPack 6

# ---- NumPy, OpenCV, the decoder and the engines ------------------------------------------------------


def pip(machine: Machine, *requirements: str) -> str:
    """The command that installs into the Python that was examined."""
    python = machine.executable or "python3"
    return pip_command(*requirements, python=python, managed=machine.externally_managed)


def best_engine(machine: Machine) -> tuple[str, ...]:
    """What to ask pip for on this machine: the first of the engines that auto prefers there with wheels."""
    if machine.wheels == "armv7l":
        preferred: tuple[str, ...] = ("tflite-runtime",)
    else:
        preferred = ("ai-edge-litert", "openvino", "onnxruntime")
        preferred = preferred if machine.arm else ("openvino", *preferred)
    for package in preferred:
        wanted = requirement(package, machine.wheels, machine.glibc)
        if wanted is not None:
            return (wanted, "numpy<2") if package == "tflite-runtime" else (wanted,)
    return ()


def numpy(facts: Facts) -> Iterator[Finding]:
    """NumPy does not load."""
    library = facts.software.numpy
    if library.error or not library.version:
        apt = facts.machine.wheels.startswith("armv")
        reinstall = pip(facts.machine, "--force-reinstall", "numpy")
        yield Finding(
            "numpy-broken",
            "error",
            "NumPy does not load" if library.error else "NumPy is not installed",
            library.error or "Nothing works without it.",
            "sudo apt install python3-numpy" if apt else reinstall,
        )


def opencv(facts: Facts) -> Iterator[Finding]:
    """OpenCV does not load."""
    library = facts.software.opencv
    if facts.software.numpy.error or (library.version and not library.error):
        return
    fix = pip(facts.machine, "--force-reinstall", "--no-deps", "opencv-python-headless")
    if re.search(r"libGL|libgthread|libSM|libXext", library.error):  # the build for desktops
        python = shlex.quote(facts.machine.executable or "python3")
        fix = f"{python} -m pip uninstall -y opencv-python && {fix}"
    if facts.machine.wheels.startswith("armv"):
        fix = "sudo apt install python3-opencv"
    yield Finding(
        "opencv-broken",
        "error",
        "OpenCV does not load" if library.error else "OpenCV is not installed",
        library.error or "Pictures and cameras are read with it.",
        fix,
    )


def decoder(facts: Facts) -> Iterator[Finding]:
    """The slower decoder."""
    if facts.software.decoder == "numpy":
        why = facts.software.decoder_error
        yield Finding(
            "decoder-numpy",
            "warning",
            "Boxes are found by NumPy, not by the compiled decoder",
            f"It is there but does not load: {why}."
            if why
            else "No C compiler was there when this was installed.",
            "sudo apt install gcc python3-dev, then install edge-centernet again "
            "(same boxes, but slower without)",
        )


def no_runtime(facts: Facts) -> Iterator[Finding]:
    """No engine at all."""
    if any(engine.installed for engine in facts.engines):
        return
    wanted = best_engine(facts.machine)
    yield Finding(
        "no-runtime",
        "error",
        "No inference engine is installed",
        "Neither OpenVINO, nor TFLite (ai-edge-litert, tflite-runtime), nor ONNX Runtime was found.",
        pip(facts.machine, *wanted)
        if wanted
        else "Use a system that has one: see the table in docs/devices.md.",
    )


def wheels(facts: Facts) -> Iterator[Finding]:
    """No engine has a wheel for this Python."""
    machine = facts.machine
    if facts.ready or wheels_for_python(machine.wheels, machine.python_minor):
        return
    there = wheels_for_machine(machine.wheels)
    spans = ", ".join(
        f"{w.package} {w.oldest_python[0]}.{w.oldest_python[1]} to {w.newest_python[0]}.{w.newest_python[1]}"
        for w in there
    )
    yield Finding(
        "python-without-wheels",
        "error",
        f"No engine has packages for Python {machine.python} on {machine.wheels}",
        f"Packages are there for: {spans}."
        if there
        else "PyPI has none for this processor, whatever the Python.",
        "Use the Python of Raspberry Pi OS Bookworm (3.11), or a 64-bit system."
        if there
        else "Use a 64-bit board.",
    )


def glibc(facts: Facts) -> Iterator[Finding]:
    """The C library is older than an engine needs."""
    machine = facts.machine
    have = machine.glibc
    if have is None:
        if not facts.ready:
            yield Finding(
                "glibc-old",
                "error",
                "The C library is not glibc",
                "The engines' packages are built for glibc (Debian, Ubuntu, Raspberry Pi OS, Fedora).",
                "Use a system with glibc; Alpine has another C library.",
            )
        return
    version = f"{have[0]}.{have[1]}"
    for engine in facts.engines:
        needs = _needs_glibc(engine, machine)
        if needs and needs > have:
            wanted = requirement(_distribution(engine), machine.wheels, have) or " ".join(
                best_engine(machine)
            )
            yield Finding(
                "glibc-old",
                _level(facts, engine),
                f"{engine.title} needs a newer C library",
                f"{_named(engine)} needs glibc {needs[0]}.{needs[1]}, this system has {version}."
                + (f" {engine.reason}" if engine.reason else ""),
                pip(machine, wanted) if wanted else "Upgrade the operating system.",
            )
            return
    there = wheels_for_machine(machine.wheels)
    newer = [wheel for wheel in there if wheel not in wheels_for_glibc(machine.wheels, have)]
    if newer and not facts.ready:
        wanted_all = best_engine(machine)
        names = ", ".join(f"{w.package} (glibc {w.glibc[0]}.{w.glibc[1]})" for w in newer)
        yield Finding(
            "glibc-old",
            "warning" if wanted_all else "error",
            "The C library is older than the newest engines need",
            f"This system has glibc {version}; {names} need a newer one.",
            pip(machine, *wanted_all) if wanted_all else "Upgrade the operating system.",
        )


def _needs_glibc(engine: Engine, machine: Machine) -> tuple[int, int] | None:
    """As the loader complained, or as is known of the release."""
    if found := _NEW_GLIBC.search(engine.reason):
        return int(found[1]), int(found[2])
    numbers = re.match(r"(\d+)\.(\d+)", engine.version)
    if engine.name == "openvino" and engine.installed and machine.wheels == "aarch64" and numbers:
        return (2, 35) if (int(numbers[1]), int(numbers[2])) >= _OPENVINO_ON_ARM else None
    return None


def numpy_2(facts: Facts) -> Iterator[Finding]:
    """tflite-runtime with NumPy 2."""
    if not _numpy_2_with_tflite_runtime(facts):
        return
    tflite = facts.engine("tflite")
    fix = pip(facts.machine, "numpy<2")
    if best_engine(facts.machine) and wheels_for_python(facts.machine.wheels, facts.machine.python_minor):
        newer = _litert_has_wheels(facts.machine)
        fix = pip(facts.machine, "ai-edge-litert") if newer else fix
    yield Finding(
        "numpy-2-tflite-runtime",
        _level(facts, tflite),
        "tflite-runtime does not work with NumPy 2",
        f"tflite-runtime {tflite.version} is built for NumPy 1, "
        f"NumPy {facts.software.numpy.version} is installed.",
        fix,
    )


def _numpy_2_with_tflite_runtime(facts: Facts) -> bool:
    return facts.engine("tflite").package == "tflite_runtime" and bool(
        re.match(r"[2-9]", facts.software.numpy.version)
    )


def damaged(facts: Facts) -> Iterator[Finding]:
    """A model file that is not what was written."""
    for engine in facts.engines:
        if engine.state == "damaged":
            yield Finding(
                "model-damaged",
                "error" if engine == facts.taken or not facts.ready else "warning",
                f"The model file for {engine.title} is damaged",
                engine.reason,
                f"Copy {shlex.quote(engine.model)} again; a shipped one comes with edge-centernet: "
                "install that again.",
            )


def not_loading(facts: Facts) -> Iterator[Finding]:
    """An engine that is installed and does not load, for a reason that no other rule knows."""
    for engine in facts.engines:
        known = engine.name == "tflite" and _numpy_2_with_tflite_runtime(facts)
        if (
            engine.state != "broken"
            or facts.software.numpy.error
            or known
            or _NEW_GLIBC.search(engine.reason)
        ):
            continue
        yield Finding(
            "engine-does-not-load",
            _level(facts, engine),
            f"{engine.title} does not load",
            engine.reason,
            pip(facts.machine, "--force-reinstall", _distribution(engine)),
        )


def crashing(facts: Facts) -> Iterator[Finding]:
    """An engine whose process died or hung."""
    at = {
        "import": "when it was imported",
        "open": "when it opened the model",
        "time": "in the second inference",
    }
    for engine in facts.engines:
        if engine.state not in ("crashed", "hung"):
            continue
        killed = " (SIGKILL is often the kernel's: out of memory)" if "SIGKILL" in engine.reason else ""
        yield Finding(
            "engine-crashes",
            _level(facts, engine),
            f"{engine.title} crashes" if engine.state == "crashed" else f"{engine.title} hangs",
            f"{_named(engine)} {engine.reason} {at.get(engine.stage, 'in its first inference')}{killed}.",
            _another(facts, engine),
        )


def wrong(facts: Facts) -> Iterator[Finding]:
    """An engine that answers wrongly."""
    for engine in facts.engines:
        if engine.state == "wrong":
            yield Finding(
                "engine-wrong",
                _level(facts, engine),
                f"{engine.title} computes wrong results here",
                f"{_named(engine)} on {engine.model}: {engine.reason}.",
                _another(facts, engine),
            )


def float_only(facts: Facts) -> Iterator[Finding]:
    """What auto takes does not compute in INT8."""
    engine = facts.taken
    if engine is not None and engine.int8 in ("no", "partly"):
        yield Finding(
            "not-int8",
            "warning",
            f"{engine.title} computes in float",
            f"{engine.int8_how}.",
            "edge-centernet convert --int8 makes an INT8 file; on ARM OpenVINO has no INT8: use TFLite.",
        )


def slow_kernels(facts: Facts) -> Iterator[Finding]:
    """TFLite without its fast kernels."""
    engine = facts.engine("tflite")
    known_slow = engine.package == "tflite_runtime" and not facts.machine.arm and facts.machine.kind == "x86"
    if engine.state in ("right", "unasked", "unchecked") and (engine.fast is False or known_slow):
        newer = _litert_has_wheels(facts.machine)
        yield Finding(
            "tflite-slow-kernels",
            "warning" if engine == facts.taken else "ok",
            "TFLite runs INT8 on slow kernels here",
            f"{_named(engine)}: "
            + (
                engine.int8_how
                or "on x86 its XNNPACK leaves INT8 networks to plain code, some 20 times slower"
            )
            + ".",
            pip(facts.machine, "ai-edge-litert") if newer else "",
        )


def openvino_on_arm(facts: Facts) -> Iterator[Finding]:
    """OpenVINO's ARM plugin."""
    engine = facts.engine("openvino")
    if facts.machine.arm and engine.installed:
        taken = engine == facts.taken
        yield Finding(
            "openvino-on-arm",
            "warning" if taken else "ok",
            "OpenVINO on ARM has no INT8",
            f"openvino {engine.version}: its ARM plugin computes in float; "
            "several releases crashed or were wrong.",
            pip(facts.machine, *best_engine(facts.machine)) if taken else "",
        )


def live_extra(facts: Facts) -> Iterator[Finding]:
    """The packages for MQTT, metrics and the web page."""
    if facts.software.extras.get("live") is False:
        yield Finding(
            "live-extra-missing",
            "ok",
            "MQTT, metrics and the web page are not installed",
            '--mqtt and --serve need the extra "live"; detection itself does not.',
            pip(facts.machine, "paho-mqtt>=2", "prometheus-client", "tomlkit", "tornado"),
        )


def ready(facts: Facts) -> Iterator[Finding]:
    """What auto takes works."""
    engine = facts.taken
    if engine is None or not facts.ready:
        return
    if facts.quick:
        yield Finding(
            "not-checked",
            "ok",
            "The engines were not run",
            f"--runtime auto would take {engine.title} ({_named(engine)}).",
            "edge-centernet doctor",
        )
        return
    asked = "right answers" if engine.state == "right" else "it runs; the file carries no self-test vector"
    precision = {"yes": "INT8", "no": "float", "partly": "partly INT8"}.get(
        engine.int8, "INT8: cannot be told"
    )
    yield Finding(
        "ready",
        "ok",
        f"{engine.title} is ready",
        f"--runtime auto takes {_named(engine)}: {asked}, {precision}, {engine.ms:g} ms an inference.",
    )


def _level(facts: Facts, engine: Engine) -> Level:
    """An error where nothing else runs, or where auto would take this engine all the same."""
    return "warning" if facts.ready and engine != facts.taken else "error"


def _named(engine: Engine) -> str:
    return f"{engine.package} {engine.version}".strip()


def _litert_has_wheels(machine: Machine) -> bool:
    return any(w.package == "ai-edge-litert" for w in wheels_for_python(machine.wheels, machine.python_minor))


def _distribution(engine: Engine) -> str:
    return engine.package.replace("_", "-")


def _another(facts: Facts, engine: Engine) -> str:
    """What to do without this engine."""
    if facts.ready and facts.taken is not None and facts.taken != engine:
        return f"None needed: --runtime auto takes {facts.taken.title}. Do not force --runtime {engine.name}."
    machine = facts.machine
    for package, name in _ALTERNATIVES:
        # ai-edge-litert is imported first: installed beside tflite-runtime it takes its place, not the
        # reverse.
        replaces = name != engine.name or (package, engine.package) == ("ai-edge-litert", "tflite_runtime")
        wanted = requirement(package, machine.wheels, machine.glibc)
        if replaces and wanted and not facts.engine(name).passed_over:
            return pip(machine, wanted)
    return "Report it, with the output of `edge-centernet doctor --json`."


# ---- board, system and disks -------------------------------------------------------------------------


def word_size(facts: Facts) -> Iterator[Finding]:
    """32-bit Python."""
    machine = facts.machine
    if machine.bits != 32:
        return
    wide = machine.kernel_bits == 64
    where = (
        f"a 32-bit Python on a 64-bit kernel ({machine.machine})"
        if wide
        else f"a 32-bit system ({machine.machine})"
    )
    if not machine.arm:
        yield Finding(
            "system-32bit",
            "error",
            "No engine runs on 32-bit x86",
            f"{where}: no engine has packages for it.",
            "Install a 64-bit operating system.",
        )
        return
    yield Finding(
        "system-32bit",
        "warning",
        "The system is 32-bit: it runs, slowly",
        f"{where}: tflite-runtime is the only engine, with NumPy below 2, and uses no 64-bit kernels.",
        "Flash the 64-bit Raspberry Pi OS (Pi 3, 4, 5 and Zero 2 W can run it).",
    )


def emulation(facts: Facts) -> Iterator[Finding]:
    """Not a real processor."""
    if facts.machine.emulated:
        yield Finding(
            "emulated",
            "warning",
            "The processor is emulated",
            f"Python is built for {facts.machine.machine}, the processor below is another: "
            "times mean nothing, and "
            "engines that choose their kernels by /proc/cpuinfo crash or take slow ones.",
            "Judge engines and speed on the board, or in a full system emulation (docs/emulation.md).",
        )


def jetpack(facts: Facts) -> Iterator[Finding]:
    """An old JetPack."""
    l4t = facts.machine.l4t
    if l4t is not None and l4t[0] < JETPACK_MIN_L4T:
        yield Finding(
            "jetpack-old",
            "warning",
            "TensorRT needs JetPack 6",
            f"{facts.machine.jetpack}: there is no ONNX Runtime with TensorRT for it and this Python; "
            "the CPU is used.",
            "Move an Orin to JetPack 6 (docs/jetson.md); older boards use TFLite on the CPU.",
        )


def heat_and_power(facts: Facts) -> Iterator[Finding]:
    """Slowed down, now or before; hot."""
    machine = facts.machine
    reasons = tuple(dict.fromkeys([*(machine.throttled or ()), *(machine.throttled_before or ())]))
    if reasons:
        when = "now" if machine.throttled else "at times since it was started"
        power = "under-voltage" in reasons
        yield Finding(
            "throttled",
            "warning",
            "The processor is held back",
            f"{', '.join(reasons)}: {when}.",
            "Use the board's own power supply and a short cable." if power else "Fit a heat sink or a fan.",
        )
    elif machine.temperature_c is not None and machine.temperature_c >= HOT_C:
        yield Finding(
            "hot",
            "warning",
            "The processor is hot",
            f"{machine.temperature_c:g} °C; at {HOT_C:g} a Raspberry Pi begins to slow down.",
            "Fit a heat sink or a fan.",
        )


def memory(facts: Facts) -> Iterator[Finding]:
    """Little memory left."""
    free, total = facts.machine.memory_free_mb, facts.machine.memory_total_mb
    if free is not None and free < MEMORY_LOW_MB:
        yield Finding(
            "memory-low",
            "warning",
            "Little memory is free",
            f"{free} MB of {total or '?'} MB; detection takes about {MEMORY_LOW_MB} MB.",
            "See what uses it: ps aux --sort=-rss | head; on a board without a screen use a Lite system.",
        )


def disks(facts: Facts) -> Iterator[Finding]:
    """Full, or soon."""
    for disk in facts.machine.disks:
        what = f"{disk.path} ({', '.join(disk.used_for)})"
        if not disk.files_left:
            yield Finding(
                "disk-full",
                "error",
                "The disk is full",
                f"{what}: no inode is left for another file, though {disk.free_mb} MB are free.",
                f"Find the folder with too many small files: du --inodes -xd1 {disk.path} | sort -n | tail",
            )
        elif disk.free_mb < DISK_FULL_MB:
            yield Finding(
                "disk-full",
                "error",
                "The disk is full",
                f"{what}: {disk.free_mb} MB of {disk.total_mb} MB are free.",
                f"du -xhd1 {disk.path} | sort -h | tail; sudo journalctl --vacuum-size=50M; "
                "sudo apt-get clean",
            )
        elif disk.free_mb < DISK_LOW_MB and {"the installation", "releases"} & set(disk.used_for):
            yield Finding(
                "disk-low",
                "warning",
                "There is little room for an update",
                f"{what}: {disk.free_mb} MB of {disk.total_mb} MB are free; "
                "a new release stands beside the old one.",
                "sudo apt-get clean; sudo journalctl --vacuum-size=50M",
            )


# ---- cameras ---------------------------------------------------------------------------------------


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
        f"{nodes} can be read by the group {group}; "
        f"{user} is in {', '.join(facts.machine.groups) or 'no group'}.",
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
            f"OpenCV {facts.software.opencv.version} has no GStreamer; "
            "those from PyPI have none, JetPack's has.",
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
                pip(facts.machine, "--force-reinstall", "opencv-python-headless"),
            )


# Findings of the same level are shown in this order.
RULES = (
    *(numpy, opencv, decoder, no_runtime, wheels, glibc, numpy_2, damaged, not_loading, crashing, wrong),
    *(float_only, slow_kernels, openvino_on_arm, live_extra, ready),
    *(word_size, emulation, jetpack, heat_and_power, memory, disks),
    *(none_found, permission, in_use, ribbon_only, picamera2, jetson_camera, backends),
)


def diagnose(facts: Facts) -> list[Finding]:
    """What each rule finds, errors first."""
    levels = ("error", "warning", "ok")
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: levels.index(finding.level))
