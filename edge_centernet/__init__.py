"""edge-centernet: CenterNet object detection for small computers, in INT8.

Import what you need from its module; this file stays empty of imports so that
`edge-centernet --help` is instant and a device never loads what it does not use.
"""

__version__ = "0.1.0"
