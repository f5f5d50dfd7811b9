"""`python -m edge_centernet` is `edge-centernet`."""

from __future__ import annotations

from edge_centernet.cli import main

if __name__ == "__main__":
    main()
