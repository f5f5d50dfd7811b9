"""Facts of this machine, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_centernet.doctor import cameras, engines, rules_cameras, rules_engines, rules_machine
from edge_centernet.doctor.facts import Camera, Facts
from edge_centernet.doctor.findings import Finding
from edge_centernet.model_zoo import DEFAULT
from edge_centernet.system.machine import read_machine

RULES = (*rules_engines.RULES, *rules_machine.RULES, *rules_cameras.RULES)
_LEVELS = ("error", "warning", "ok")


def examine(
    model: str = DEFAULT,
    quick: bool = False,
    root: Path = Path("/"),
    notify: Callable[[str], None] = lambda line: None,
) -> Facts:
    """Look at everything; takes seconds, for each engine that is installed is run.

    model: a file, or the name of a shipped model. quick: leave out the engine runs. root: where /proc, /sys,
      /dev and
    /etc are. notify: gets a line before each thing that takes time. Raises ArtifactError where there is no
    such model.
    """
    engines.model_files(model)  # a wrong name is told before the work begins
    notify("Looking at the machine ...")
    machine = read_machine(root)
    software, by_libcamera = engines.read_software()
    return Facts(
        machine=machine,
        software=software,
        engines=engines.read_engines(model, quick, machine.kind == "jetson", notify),
        cameras=_all_cameras(cameras.read_cameras(root), by_libcamera),
        model=model,
        order=engines.order(),
        quick=quick,
        argus=cameras.argus(root) if machine.kind == "jetson" else None,
    )


def _all_cameras(with_nodes: tuple[Camera, ...], by_libcamera: tuple[Camera, ...]) -> tuple[Camera, ...]:
    """Those that only libcamera sees, where no node of a ribbon-cable camera was found."""
    ribbon = any(camera.kind == "csi" for camera in with_nodes)
    return with_nodes if ribbon else (*with_nodes, *by_libcamera)


def diagnose(facts: Facts) -> list[Finding]:
    """What each rule finds, errors first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: _LEVELS.index(finding.level))
