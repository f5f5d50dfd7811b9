"""Facts and findings as text to read, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from edge_centernet.doctor.facts import Camera, Engine, Facts, Library
from edge_centernet.doctor.findings import Finding
from edge_centernet.system.machine import Machine

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
    """Four keys: machine, with its software; engines, each with "auto" where that takes it; cameras; findings."""
    return {
        "machine": {**asdict(facts.machine), "software": asdict(facts.software), "argus": facts.argus},
        "engines": [{**asdict(engine), "auto": engine == facts.taken} for engine in facts.engines],
        "cameras": [asdict(camera) for camera in facts.cameras],
        "findings": [finding.as_json() for finding in findings],
    }


def as_text(facts: Facts, findings: Sequence[Finding]) -> str:
    """Three sections of facts, then the findings; with colours, which click.echo takes out for a file."""
    lines = [
        *_section("Machine", _machine(facts)),
        *_section(
            f"Engines, on {facts.model}", ((e.title, _engine(e, e == facts.taken)) for e in facts.engines)
        ),
        *_section("Cameras", ((camera.node or "libcamera", _camera(camera)) for camera in facts.cameras)),
        click.style("Findings", bold=True),
        *(line for finding in findings for line in _finding(finding)),
        _summary(findings),
    ]
    return "\n".join(lines)


def _section(title: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield click.style(title, bold=True)
    there = [(name, text) for name, text in rows if text] or [("none found", "")]
    width = max(len(name) for name, _ in there) + 2
    yield from (f"  {name:{width}}{text}".rstrip() for name, text in there)
    yield ""


def _machine(facts: Facts) -> Iterator[tuple[str, str]]:
    machine, software = facts.machine, facts.software
    yield "board", ", ".join(word for word in (machine.board, machine.jetpack) if word)
    libc = f"glibc {machine.glibc[0]}.{machine.glibc[1]}" if machine.glibc else "another C library"
    yield "system", f"{machine.system}, Linux {machine.kernel}, {machine.machine}, {libc}"
    yield "processor", _processor(machine)
    yield "memory", _memory(machine)
    yield "state", _state(machine)
    yield "Python", f"{machine.python}, {machine.bits}-bit, {machine.executable}"
    yield "NumPy", _library(software.numpy)
    backends = ", ".join(software.backends) or "no backends"
    yield "OpenCV", _library(software.opencv) + (f" ({backends})" if software.opencv.version else "")
    yield "picamera2", _library(software.picamera2) if machine.kind == "pi" else ""
    yield "decoder", {"c": "C", "numpy": "NumPy"}.get(software.decoder, "")
    for disk in machine.disks:
        yield (
            "disk",
            f"{disk.path} ({', '.join(disk.used_for)}): {disk.free_mb} MB free of {disk.total_mb} MB",
        )
    yield "user", f"{machine.user}, in {', '.join(machine.groups)}"


def _processor(machine: Machine) -> str:
    cores = "" if machine.cores is None else f"{machine.cores} core{'s' if machine.cores != 1 else ''}"
    parts = [machine.cpu or ("emulated" if machine.emulated else ""), cores, " ".join(machine.features)]
    return ", ".join(part for part in parts if part)


def _memory(machine: Machine) -> str:
    if machine.memory_total_mb is None:
        return ""
    return f"{machine.memory_free_mb} MB free of {machine.memory_total_mb} MB"


def _state(machine: Machine) -> str:
    heat = "" if machine.temperature_c is None else f"{machine.temperature_c:g} °C"
    brakes = "" if machine.throttled is None else ", ".join(machine.throttled) or "not held back"
    return ", ".join(part for part in (heat, brakes) if part)


def _library(library: Library) -> str:
    return f"does not load: {library.error}" if library.error else library.version or "not installed"


def _engine(engine: Engine, taken: bool) -> str:
    if not engine.installed:
        return _STATES["missing"]
    state = _STATES[engine.state] + (f" ({engine.reason})" if engine.reason else "")
    int8 = {
        "yes": "INT8",
        "no": "float",
        "partly": "partly INT8",
        "cannot be told": "INT8 or not cannot be told",
    }
    parts = [f"{engine.package} {engine.version}".strip() + ":", state]
    if engine.int8:
        parts.append(f"{int8[engine.int8]} ({engine.int8_how})")
    if engine.ms is not None:
        parts.append(f"{engine.ms:g} ms" + (f" on {engine.device}" if engine.device else ""))
    text = f"{parts[0]} {', '.join(parts[1:])}"
    return f"{text}  <- --runtime auto" if taken else text


def _camera(camera: Camera) -> str:
    kind = {"usb": "USB", "csi": "ribbon cable", "other": "built in or virtual"}[camera.kind]
    access = {"ok": "can be read", "denied": "may not be read by this user", "busy": "busy"}
    parts = [
        f"{camera.name} ({camera.driver or 'unknown driver'}, {kind})",
        access.get(camera.access, camera.access),
    ]
    if camera.in_use_by:
        parts.append(f"used by {', '.join(camera.in_use_by)}")
    return ", ".join(parts)


def _finding(finding: Finding) -> Iterator[str]:
    level = click.style(f"{finding.level:8}", fg=_COLOURS[finding.level], bold=finding.level == "error")
    yield f"  {level}{finding.title}"
    yield f"          {finding.found}"
    if finding.fix:
        yield f"          fix: {finding.fix}"
    if finding.level != "ok":
        yield f"          see: {finding.docs}"


def _summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in findings) for level in _COLOURS}
    if not counts["error"] and not counts["warning"]:
        return "\n" + click.style("Nothing is wrong.", fg="green")
    words = [
        f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}"
        for level in ("error", "warning")
        if counts[level]
    ]
    return "\n" + ", ".join(words) + "."
