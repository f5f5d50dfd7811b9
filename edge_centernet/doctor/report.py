"""Facts and findings as text to read, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from edge_centernet.doctor.facts import Facts, Finding, Library
from edge_centernet.errors import printable

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_STATES = {
    "missing": "not installed",
    "unchecked": "not run",
    "damaged": "model file damaged",
    "broken": "does not load",
    "crashed": "crashes",
    "hung": "hangs",
    "wrong": "computes wrong results",
    "unasked": "runs",
    "right": "right",
}


def as_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Four keys: machine, with its software; engines, "auto" on the one it takes; cameras; findings."""
    return {
        "machine": {**asdict(facts.machine), "software": asdict(facts.software), "argus": facts.argus},
        "engines": [{**asdict(engine), "auto": engine == facts.taken} for engine in facts.engines],
        "cameras": [asdict(camera) for camera in facts.cameras],
        "findings": [finding.as_json() for finding in findings],
    }


def as_text(facts: Facts, findings: Sequence[Finding]) -> str:
    """Three sections of facts, then the findings; with colours, which click.echo takes out for a file."""
    # 1. The machine and its software.
    lines = [*_section("Machine", _machine(facts))]
    # 2. A line for each engine; the one that auto takes is marked.
    int8 = {
        "yes": "INT8",
        "no": "float",
        "partly": "partly INT8",
        "cannot be told": "INT8 or not cannot be told",
    }
    engines = []
    for engine in facts.engines:
        parts = [_STATES[engine.state] + (f" ({engine.reason})" if engine.reason else "")]
        if engine.int8:
            parts.append(f"{int8[engine.int8]} ({engine.int8_how})")
        if engine.ms is not None:
            parts.append(f"{engine.ms:g} ms" + (f" on {engine.device}" if engine.device else ""))
        if engine.devices:
            parts.append(f"devices: {' '.join(engine.devices)}")
        package = f"{engine.package} {engine.version}".strip()
        mark = "  <- --runtime auto" if engine == facts.taken else ""
        text = f"{package}: {', '.join(parts)}{mark}" if engine.installed else _STATES["missing"]
        engines.append((engine.title, text))
    lines += _section(f"Engines, on {facts.model}", engines)
    # 3. A line for each camera.
    cameras = []
    for camera in facts.cameras:
        kind = {"usb": "USB", "csi": "ribbon cable", "other": "built in or virtual"}[camera.kind]
        access = {"ok": "can be read", "denied": "may not be read by this user", "busy": "busy"}
        parts = [f"{camera.name} ({camera.driver or 'unknown driver'}, {kind})"]
        parts.append(access.get(camera.access, camera.access))
        if camera.in_use_by:
            parts.append(f"used by {', '.join(camera.in_use_by)}")
        cameras.append((camera.node or "libcamera", ", ".join(parts)))
    lines += _section("Cameras", cameras)
    # 4. The findings, and their number.
    lines.append(click.style("Findings", bold=True))
    for finding in findings:
        level = click.style(f"{finding.level:8}", fg=_COLOURS[finding.level], bold=finding.level == "error")
        lines += [f"  {level}{printable(finding.title)}", f"          {printable(finding.found)}"]
        if finding.fix:
            lines.append(f"          fix: {printable(finding.fix)}")
        if finding.level != "ok":
            lines.append(f"          see: {finding.docs}")
    counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    words = [f"{count} {level}{'s' if count != 1 else ''}" for level, count in counts.items() if count]
    summary = ", ".join(words) + "." if words else click.style("Nothing is wrong.", fg="green")
    return "\n".join([*lines, "", summary])


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A heading and its rows; those without a text are left out, for the machine does not tell."""
    yield click.style(printable(title), bold=True)
    # Without control characters: a USB device calls itself what it likes.
    there = [(printable(name), printable(text)) for name, text in rows if text] or [("none found", "")]
    width = max(len(name) for name, _ in there) + 2
    yield from (f"  {name:{width}}{text}".rstrip() for name, text in there)
    yield ""


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    """(name, text) of each row about the machine; an empty text where it does not tell."""
    machine, software = facts.machine, facts.software
    yield "board", ", ".join(word for word in (machine.board, machine.jetpack) if word)
    libc = f"glibc {machine.glibc[0]}.{machine.glibc[1]}" if machine.glibc else "another C library"
    yield "system", f"{machine.system}, Linux {machine.kernel}, {machine.machine}, {libc}"
    cores = "" if machine.cores is None else f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    cpu = machine.cpu or ("emulated" if machine.emulated else "")
    yield "processor", ", ".join(part for part in (cpu, cores, " ".join(machine.features)) if part)
    if machine.memory_total_mb is not None:
        yield "memory", f"{machine.memory_free_mb} MB free of {machine.memory_total_mb} MB"
    heat = "" if machine.temperature_c is None else f"{machine.temperature_c:g} °C"
    held = "" if machine.throttled is None else ", ".join(machine.throttled) or "not held back"
    yield "state", ", ".join(part for part in (heat, held) if part)
    yield "Python", f"{machine.python}, {machine.bits}-bit, {machine.executable}"
    yield "NumPy", _library(software.numpy)
    backends = ", ".join(software.backends) or "no backends"
    yield "OpenCV", _library(software.opencv) + (f" ({backends})" if software.opencv.version else "")
    yield "picamera2", _library(software.picamera2) if machine.kind == "pi" else ""
    yield "decoder", {"c": "C", "numpy": "NumPy"}.get(software.decoder, "")
    for disk in machine.disks:
        uses = ", ".join(disk.used_for)
        yield "disk", f"{disk.path} ({uses}): {disk.free_mb} MB free of {disk.total_mb} MB"
    yield "user", f"{machine.user}, in {', '.join(machine.groups)}"


def _library(library: Library) -> str:
    return f"does not load: {library.error}" if library.error else library.version or "not installed"
