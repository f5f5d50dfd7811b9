"""Small detectors of others: how each wants its picture, and how its outputs are read. No weights of theirs are here.

`edge_centernet.labelling` lets them help to label photos, scripts/bench_peers.py measures them beside ours. A
new family is an adapter of a few lines and an entry in `families`.
"""
