"""edge-centernet: CenterNet object detection for small computers, in INT8.

Import what you need from its module; this file imports none of ours, so that
`edge-centernet --help` is instant and a device never loads what it does not use.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime, from 1.29 on, reports to Microsoft and writes a device id to the disk as soon as it is imported, unless
# this is set before. Set it to 0 to let it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
