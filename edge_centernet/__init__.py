"""edge-centernet: CenterNet object detection for small computers, in INT8.

    from edge_centernet import Detector, read_image, sample_photo

    for found in Detector().detect(read_image(sample_photo())):
        print(found.name, found.score, found.xyxy)

The names in `__all__` are what programs embed; each is imported when it is first used (PEP 562). Importing
this package imports no other module of it, so that `edge-centernet --help` is instant and a device never
loads what it does not use.
"""

import os

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime reports to Microsoft and writes a device id to the disk as soon as it is
# imported, unless this is set before. Set it to 0 to allow that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False  # type checkers read it as True; importing `typing` for it would take milliseconds
if TYPE_CHECKING:
    from edge_centernet.detections import Detection as Detection
    from edge_centernet.detections import Detections as Detections
    from edge_centernet.detector import Detector as Detector
    from edge_centernet.errors import EdgeCenterNetError as EdgeCenterNetError
    from edge_centernet.heads import Heads as Heads
    from edge_centernet.imageio import read_image as read_image
    from edge_centernet.imageio import sample_photo as sample_photo
    from edge_centernet.runtimes.base import Runtime as Runtime
    from edge_centernet.sources.files import open_camera as open_camera
    from edge_centernet.sources.files import open_source as open_source
    from edge_centernet.tracking.line_counter import Line as Line
    from edge_centernet.tracking.scene import Counter as Counter
    from edge_centernet.tracking.state import Tracks as Tracks
    from edge_centernet.tracking.tracker import Tracker as Tracker
    from edge_centernet.tracking.zone_counter import Zone as Zone

# name -> the module that has it
_MODULES = {
    "Counter": "tracking.scene",
    "Detection": "detections",
    "Detections": "detections",
    "Detector": "detector",
    "EdgeCenterNetError": "errors",
    "Heads": "heads",
    "Line": "tracking.line_counter",
    "Runtime": "runtimes.base",
    "Tracker": "tracking.tracker",
    "Tracks": "tracking.state",
    "Zone": "tracking.zone_counter",
    "open_camera": "sources.files",
    "open_source": "sources.files",
    "read_image": "imageio",
    "sample_photo": "imageio",
}
__all__ = ["__version__", *_MODULES]

if not TYPE_CHECKING:  # hidden from type checkers, which would accept every misspelt name

    def __getattr__(name: str) -> object:
        """Import a public name on first use and keep it."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """With the names that are not imported yet, for completion at a prompt."""
    return sorted({*globals(), *_MODULES})
