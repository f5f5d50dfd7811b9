"""Rules about board, system, disks: each a pure function of the facts."""

from __future__ import annotations

from collections.abc import Iterator

from edge_centernet.doctor.facts import Facts
from edge_centernet.doctor.findings import Finding

DISK_FULL_MB = 20  # below, the next picture or log line may not fit
DISK_LOW_MB = 400  # a release with its engine, beside the old one
MEMORY_LOW_MB = 150  # network, engine and a few pictures
HOT_C = 80.0  # where a Raspberry Pi begins to slow down
JETPACK_MIN_L4T = 36  # JetPack 6


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
            f"Python is built for {facts.machine.machine}, the processor below is another: times mean nothing, and "
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
            f"{facts.machine.jetpack}: there is no ONNX Runtime with TensorRT for it and this Python; the CPU is used.",
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
                f"du -xhd1 {disk.path} | sort -h | tail; sudo journalctl --vacuum-size=50M; sudo apt-get clean",
            )
        elif disk.free_mb < DISK_LOW_MB and {"the installation", "releases"} & set(disk.used_for):
            yield Finding(
                "disk-low",
                "warning",
                "There is little room for an update",
                f"{what}: {disk.free_mb} MB of {disk.total_mb} MB are free; a new release stands beside the old one.",
                "sudo apt-get clean; sudo journalctl --vacuum-size=50M",
            )


RULES = (word_size, emulation, jetpack, heat_and_power, memory, disks)
