"""Which tensors of the interchange network must share one scale."""

from __future__ import annotations

from edge_centernet import qdq
from edge_centernet.qdq.insert import real_name


def shared_scales(network: qdq.Network) -> list[list[list[str]]]:
    """Groups of tensors that must share a scale; each is a list of sets that share their zero point too.

    Names are real ones, in the order of the network. Tensors of one set hold integers that are moved from one
    to the other (Concat, Resize); the sets of one group meet in an addition.
    """
    stored, scaled = _Union(), _Union()
    for op in network.ops:
        if isinstance(op, qdq.Concat):
            stored.join(*(part.name for part in op.parts), op.y.name)
        elif not isinstance(op, qdq.Conv | qdq.Add):
            stored.join(op.x.name, op.y.name)
    for op in network.ops:
        if isinstance(op, qdq.Add):
            scaled.join(*(stored.root(t.name) for t in (op.a, op.b, op.y)))
    groups: dict[str, dict[str, list[str]]] = {}
    for op in network.ops:
        own = stored.root(op.y.name)
        groups.setdefault(scaled.root(own), {}).setdefault(own, []).append(real_name(op.y))
    return [list(sets.values()) for sets in groups.values()]


class _Union:
    """Names that belong together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The one name that stands for all that were joined with `name`."""
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def join(self, *names: str) -> None:
        """Make one of these names' groups; the first one's root stands for it."""
        for name in names[1:]:
            self._parent[self.root(name)] = self.root(names[0])
