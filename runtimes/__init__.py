"""Inference engines behind one protocol. Importing this imports none of them."""

from edge_centernet.runtimes.choose import candidates, first_candidate, pick, select_engine
from edge_centernet.runtimes.engines import ENGINES, NAMES, Engine, installed, open_runtime

__all__ = [
    "ENGINES",
    "NAMES",
    "Engine",
    "candidates",
    "first_candidate",
    "installed",
    "open_runtime",
    "pick",
    "select_engine",
]
