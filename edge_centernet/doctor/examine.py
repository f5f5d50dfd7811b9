"""Facts of this machine: what the processes of `doctor.probe` say, and how they end.

What loads a library runs in a process of its own: the last stage that it announced says where a crash was.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_centernet.doctor.cameras import argus, read_cameras
from edge_centernet.doctor.facts import Camera, Engine, Facts, Library, Software, State
from edge_centernet.errors import MissingDependency
from edge_centernet.model_zoo import DEFAULT, find_model, is_name, ships
from edge_centernet.progress import Say
from edge_centernet.runtimes.choose import pick
from edge_centernet.runtimes.engines import ENGINES, is_installed
from edge_centernet.runtimes.selfcheck import BUILDING, TIMEOUT
from edge_centernet.system.child import command_of, run_child
from edge_centernet.system.machine import read_machine

_SOFTWARE_TIMEOUT = 60.0
# Extras of the package that a device may want -> modules that must be there for it.
_EXTRAS = {"live": ("paho", "prometheus_client", "tomlkit", "tornado")}
_DECODER = Path(__file__).resolve().parents[1] / "decoder"

Told = dict[str, Any]


def examine(
    model: str = DEFAULT,
    quick: bool = False,
    root: Path = Path("/"),
    notify: Say = lambda line: None,
) -> Facts:
    """Look at everything; takes seconds, for each engine that is installed is run.

    model: a file, or the name of a shipped model. quick: leave out the engine runs. root: where /proc, /sys,
    /dev and /etc are. notify: gets a line before each thing that takes time. Raises ArtifactError where there
    is no such model.
    """
    model_files(model)  # a wrong name is reported before the work begins
    notify("Looking at the machine ...")
    machine = read_machine(root)
    software, by_libcamera = read_software()
    with_nodes = read_cameras(root)
    # libcamera lists ribbon-cable cameras that have nodes too: where one was found, these are the same.
    ribbon = any(camera.kind == "csi" for camera in with_nodes)
    return Facts(
        machine=machine,
        software=software,
        engines=read_engines(model, quick, machine.kind == "jetson", notify),
        cameras=with_nodes if ribbon else (*with_nodes, *by_libcamera),
        model=model,
        order=order(),
        quick=quick,
        argus=argus(root) if machine.kind == "jetson" else None,
    )


def read_software() -> tuple[Software, tuple[Camera, ...]]:
    """The libraries, and the cameras that only libcamera knows."""
    told = listen(["software"], _SOFTWARE_TIMEOUT)
    decoder = told.get("decoder") or {}
    software = Software(
        numpy=_library(told, "numpy"),
        opencv=_library(told, "opencv"),
        backends=tuple((told.get("opencv") or {}).get("backends", ())),
        picamera2=_library(told, "picamera2"),
        decoder=decoder.get("version", ""),
        # Without a compiled decoder there is nothing that could fail to load: it was not built.
        decoder_error=decoder.get("error", "") if any(_DECODER.glob("_decoder*.so")) else "",
        extras={extra: all(map(is_installed, modules)) for extra, modules in _EXTRAS.items()},
    )
    cameras = (told.get("picamera2") or {}).get("cameras", ())
    return software, tuple(Camera("", name, "libcamera", "csi", told_by="libcamera") for name in cameras)


def _library(told: Told, name: str) -> Library:
    """Its version, or why it does not load: in its own words, or because the process died there."""
    if name in told:
        words = told[name]
        absent = words.get("missing") and not is_installed({"opencv": "cv2"}.get(name, name))
        return Library("" if absent else words.get("version", ""), "" if absent else words.get("error", ""))
    reached = told["stage"] == name or not told["stage"]
    return Library(error=told["ended"] if reached else f"not tried: {told['stage']} {told['ended']}")


def order() -> tuple[str, ...]:
    """The engines that `--runtime auto` tries here, the best first."""
    try:
        return pick()
    except MissingDependency:
        return ()


def read_engines(
    model: str, quick: bool, jetson: bool = False, notify: Say = lambda line: None
) -> tuple[Engine, ...]:
    """Every engine, those that are installed run on their file of the model unless `quick`.

    notify: gets a line before each. Raises ArtifactError where there is no such model.
    """
    files = model_files(model)
    found = []
    for name, about in ENGINES.items():
        engine = identify(name, files)
        if engine.installed and engine.model and not quick:
            notify(f"Checking {about.title} ({engine.package} {engine.version}) ...")
            extra = BUILDING if jetson and name == "onnxruntime" else 0.0
            engine = judge(engine, listen([name, engine.model], TIMEOUT + extra))
        found.append(engine)
    return tuple(found)


def model_files(model: str) -> dict[str, Path]:
    """Engine -> its file of the model. Raises ArtifactError where there is none for any."""
    if is_name(model):
        files = {
            n: find_model(model, engine.suffix)
            for n, engine in ENGINES.items()
            if ships(model, engine.suffix)
        }
        if files:
            return files
    path = find_model(model)
    return {name: path for name, engine in ENGINES.items() if engine.suffix == path.suffix.lower()}


def identify(name: str, files: dict[str, Path]) -> Engine:
    """Whether an engine is installed, which package and release; nothing is imported."""
    about = ENGINES[name]
    engine = Engine(name, about.title, model=str(files.get(name, "")))
    package = about.package
    if package is None:
        return engine
    version = ""
    # The module says which package is taken; its release is known by the name that it was installed under.
    for known in (package.name, *package.other_names):
        try:
            version = metadata.version(known)
            break
        except metadata.PackageNotFoundError:
            continue
    reason = "" if engine.model else f"there is no {about.suffix} file of this model"
    return replace(engine, package=package.module, version=version, state="unchecked", reason=reason)


def judge(engine: Engine, told: Told) -> Engine:
    """What an engine's process has said, as facts."""
    stage, verdict = told["stage"], told.get("verdict", "")
    state: State
    # Looking for INT8 comes last and reaches deep into the engine: a crash there is not the engine's state.
    if told["ended"] and stage != "int8":
        state, reason = ("hung" if told["hung"] else "crashed"), told["ended"]
    elif "failed" in told and stage != "int8":
        # Where it ran once, it did not stop for want of a library.
        state = {"file": "damaged", "import": "broken", "open": "broken"}.get(stage, "wrong")  # type: ignore[assignment]
        reason = told["failed"]
    else:
        state, reason = verdict or "broken", told.get("reason", "")
    lost = ""
    if state in ("right", "unasked"):
        stage = ""
        if "int8" not in told:
            lost = f"looking for it, the process {told['ended'] or 'failed'}"
    return replace(
        engine,
        state=state,
        stage=stage,
        reason=reason,
        int8=told.get("int8", "cannot be told" if lost else ""),
        int8_how=told.get("how", lost),
        fast=told.get("fast"),
        ms=told.get("ms"),
        device=told.get("device", ""),
        devices=tuple(told.get("devices", ())),
    )


def listen(words: list[str], timeout: float) -> Told:
    """Everything that a process of `doctor.probe` said, merged; "stage" is the last that it began.

    "ended": how it died, in words, if it did ("crashed (SIGSEGV)"); "hung": whether it had to be ended.
    """
    command = command_of("edge_centernet.doctor.probe", *words)
    told: Told = {"stage": "", "ended": "", "hung": False}
    try:
        ended = run_child(command, timeout)
    except OSError as error:
        return told | {"ended": f"{sys.executable}: {error.strerror}"}
    # Engines print lines of their own; ours are JSON objects.
    for line in ended.output.splitlines():
        if line.startswith("{"):
            try:
                told |= json.loads(line)
            except ValueError:
                continue
    if ended.status is None:
        told |= {"hung": True, "ended": f"did not end within {timeout:g} s"}
    elif ended.crash:
        told["ended"] = ended.crash
    elif ended.status and "failed" not in told:
        told["failed"] = ended.last_error
        if not told["stage"]:
            told["ended"] = ended.last_error
    return told
