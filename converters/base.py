"""What all converters share: names, the artifact record, the manifest of a written file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_centernet import __version__
from edge_centernet.manifest import Manifest

if TYPE_CHECKING:
    from edge_centernet.qdq.reference import Report


class Save(Protocol):
    """What a converter returns: write the file and return the manifest inside it, with these two fields."""

    def __call__(self, out: Path, verified: bool, content_sha256: str = "") -> Manifest:
        """Write `out`, whole files each time."""


@dataclass(frozen=True)
class Artifact:
    """One file that was written and verified.

    path: the file to open (.onnx, .xml, .tflite; a .xml has its .bin beside it). seconds: writing plus
      verifying.
    """

    target: str
    path: Path
    manifest: Manifest
    report: Report
    seconds: float


def written_manifest(
    manifest: Manifest, changes: dict[str, Any], tool: str, version: str, verified: bool, content_sha256: str
) -> Manifest:
    """The manifest of a file written by `tool`: made_by grows, `changes` and the last two replace other fields."""
    made_by = {**manifest.made_by, "edge-centernet": __version__, tool: version}
    return replace(manifest, **changes, made_by=made_by, verified=verified, content_sha256=content_sha256)
