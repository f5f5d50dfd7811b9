"""What was seen on a machine, and what a rule makes of it.

Facts are frozen, so that each rule is a pure function of them and can be tried on a machine that is not
there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_centernet.runtimes.executed_precision import Int8
from edge_centernet.system.machine import Machine

# missing: not installed. unchecked: installed, not run. damaged: the model file is. broken: does not load, or
# refuses. unasked: runs, but the file carries no self-test vector. hung: no end within the time allowed.
State = Literal["missing", "unchecked", "damaged", "broken", "crashed", "hung", "wrong", "unasked", "right"]
Stage = Literal["", "file", "import", "open", "answer", "time", "int8"]
CameraKind = Literal["usb", "csi", "other"]
Level = Literal["ok", "warning", "error"]
PAGE = "docs/doctor.md"


@dataclass(frozen=True)
class Library:
    """A Python package that must load. version: empty if not installed or not known; error: why not."""

    version: str = ""
    error: str = ""


@dataclass(frozen=True)
class Software:
    """What the package needs beside an engine.

    backends: of OpenCV, those of V4L2, FFMPEG and GSTREAMER that it has. decoder: "c" or "numpy".
    decoder_error: why a compiled one that is there does not load. extras: pip extras -> whether all of their
    packages are there.
    """

    numpy: Library = Library()
    opencv: Library = Library()
    backends: tuple[str, ...] = ()
    picamera2: Library = Library()
    decoder: str = ""
    decoder_error: str = ""
    extras: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """One inference engine on one model file.

    package: the module that is taken ("ai_edge_litert"), empty where none is installed. stage: where it
    ended, if not at the end; reason: in words. int8_how: how that is known; fast: whether by fast kernels,
    None where that is not known. ms: milliseconds of the median inference. device: "CUDA" and the like.
    devices: what `--device` may name, for an engine that has several.
    """

    name: str
    title: str
    package: str = ""
    version: str = ""
    model: str = ""
    state: State = "missing"
    stage: Stage = ""
    reason: str = ""
    int8: Int8 = ""
    int8_how: str = ""
    fast: bool | None = None
    ms: float | None = None
    device: str = ""
    devices: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return self.state != "missing"

    @property
    def passed_over(self) -> bool:
        """Whether `--runtime auto` takes the next one: it failed its self-check."""
        return self.state in ("crashed", "hung", "wrong")


@dataclass(frozen=True)
class Camera:
    """A camera at this computer.

    node: /dev/video0; empty for one that only libcamera knows. kind: how it is connected. access: "ok",
    "denied", "busy" or what the driver says. told_by: whether the driver was asked what the node is, or its
    name had to tell.
    """

    node: str
    name: str
    driver: str = ""
    kind: CameraKind = "other"
    access: str = "ok"
    group: str = ""
    in_use_by: tuple[str, ...] = ()
    told_by: Literal["driver", "name", "libcamera"] = "driver"


@dataclass(frozen=True)
class Facts:
    """All of it. model: name or path. order: the engines that auto tries, the best first.

    quick: no engine was run. argus: whether a Jetson's camera daemon answers; None elsewhere.
    """

    machine: Machine
    software: Software
    engines: tuple[Engine, ...] = ()
    cameras: tuple[Camera, ...] = ()
    model: str = ""
    order: tuple[str, ...] = ()
    quick: bool = False
    argus: bool | None = None

    def engine(self, name: str) -> Engine:
        """The engine of that name."""
        return next(engine for engine in self.engines if engine.name == name)

    @property
    def taken(self) -> Engine | None:
        """What `--runtime auto` takes: the first that is not passed over.

        This may be one that will then fail to load, which is a finding of its own.
        """
        tried = (self.engine(name) for name in self.order)
        return next((e for e in tried if not e.passed_over and e.model), None)

    @property
    def ready(self) -> bool:
        """Whether what auto takes has run, or would be taken where nothing was run."""
        fine = ("right", "unasked", "unchecked") if self.quick else ("right", "unasked")
        return self.taken is not None and self.taken.state in fine


@dataclass(frozen=True)
class Finding:
    """One thing that a machine has right or wrong, and what to do about it.

    id: the heading in docs/doctor.md. level: ok needs nothing, a warning works but not well, an error does
    not work. found: what was seen. fix: a command to copy, or what to do in words; empty where there is
    nothing to do.
    """

    id: str
    level: Level
    title: str
    found: str
    fix: str = ""

    @property
    def docs(self) -> str:
        """Where it is explained."""
        return f"{PAGE}#{self.id}"

    def as_json(self) -> dict[str, str]:
        """Its fields and where it is explained."""
        return {
            "id": self.id,
            "level": self.level,
            "title": self.title,
            "found": self.found,
            "fix": self.fix,
            "docs": self.docs,
        }
