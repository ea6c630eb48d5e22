"""The nodes of a cluster as the scheduler sees them: how many ranks each has room for, and where a replica goes.

Pure. What Ray really placed where is reported later and corrects this. Finding a place takes time that does not grow
with the number of nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Node:
    slots: int
    free: int
    is_draining: bool = False
    is_reserved: bool = False

    @property
    def is_open(self) -> bool:
        """Whether any replica may be placed there."""
        return not (self.is_draining or self.is_reserved)


@dataclass(slots=True)
class Nodes:
    """Nodes by id, with the slots that replicas have taken; one slot holds one rank."""

    across_nodes: bool = False
    """Whether the ranks of one replica may be on several nodes."""
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _with_free: dict[int, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Nodes that any replica may be placed on, by their free slots, in the order in which they came to that number."""
    _on_disk: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    """Nodes by the weights on their disks."""
    largest: int = 0
    """Slots of the usable node that has most."""
    slots: int = 0
    """Of all usable nodes."""
    free: int = 0
    """Free slots of the nodes that any replica may be placed on."""

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def __iter__(self) -> Iterator[str]:
        """Usable nodes."""
        return (name for name, node in self._nodes.items() if not node.is_draining)

    def is_draining(self, node: str) -> bool:
        """Whether it will be gone soon, or is."""
        return node not in self._nodes or self._nodes[node].is_draining

    def has_slots(self, node: str, n: int) -> bool:
        """Whether so many ranks fit on an empty node."""
        return self._nodes[node].slots >= n

    def join(self, node: str, slots: int) -> None:
        """Add a node, or change its number of slots."""
        known = self._nodes.get(node)
        if known is None:
            self._nodes[node] = _Node(slots, slots)
        else:
            self._forget(node)
            known.free += slots - known.slots
            known.slots = slots
        self._remember(node)
        self._count()

    def drain(self, node: str) -> None:
        """Place nothing there any more."""
        self._forget(node)
        self._nodes[node].is_draining = True
        self._count()

    def reserve(self, node: str, *, is_reserved: bool = True) -> None:
        """Place nothing there but what is asked for by `only`; or end that."""
        if node in self._nodes:
            self._forget(node)
            self._nodes[node].is_reserved = is_reserved
            self._remember(node)

    def lose(self, node: str) -> None:
        """Remove a node, with what lies on its disk."""
        self._forget(node)
        del self._nodes[node]
        for holders in self._on_disk.values():
            holders.pop(node, None)
        self._count()

    def take(self, nodes: Collection[str]) -> None:
        """Take a slot of each of these, as often as it is named."""
        for node in nodes:
            self._change(node, -1)

    def release(self, nodes: Collection[str]) -> None:
        """Undo `take`; nodes that are gone are left out."""
        for node in nodes:
            self._change(node, +1)

    def put_on_disk(self, node: str, weights: str, *, is_there: bool = True) -> None:
        """Note that weights lie on the disk of a node, or do not any more."""
        if is_there and node in self._nodes:
            self._on_disk[weights][node] = None
        else:
            self._on_disk[weights].pop(node, None)

    def holders(self, weights: str) -> Collection[str]:
        """Nodes on whose disks the weights lie."""
        return self._on_disk[weights].keys() if weights in self._on_disk else ()

    def fits(self, n_ranks: int) -> bool:
        """Whether a replica of so many ranks would have a place on the empty cluster as it is now."""
        return n_ranks <= (self.slots if self.across_nodes else self.largest)

    def place(self, n_ranks: int, *, only: Collection[str] | None = None, avoid: Collection[str] = ()) -> list[str]:
        """Nodes for the ranks of a replica; empty where there is no room.

        The node with the fewest free slots that are enough, so that whole nodes stay free for large gangs. `only`:
        one of these. `avoid`: none of these, unless no other has room.
        """
        if only is not None:
            fitting = [node for node in only if self.free_on(node) >= n_ranks and self._nodes[node].is_open]
            return [min(fitting, key=self.free_on)] * n_ranks if fitting else []
        second = None
        for free in sorted(n for n in self._with_free if n >= n_ranks):
            for node in self._with_free[free]:
                if node not in avoid:
                    return [node] * n_ranks
                second = second or node
        if second is not None:
            return [second] * n_ranks
        return self._across(n_ranks) if self.across_nodes and n_ranks <= self.free else []

    def _across(self, n_ranks: int) -> list[str]:
        chosen: list[str] = []
        for free in sorted((n for n in self._with_free if n > 0), reverse=True):
            for node in self._with_free[free]:
                chosen += [node] * min(free, n_ranks - len(chosen))
                if len(chosen) == n_ranks:
                    return chosen
        return []

    def free_on(self, node: str) -> int:
        """Free slots of a node; 0 of one that is draining or gone."""
        found = self._nodes.get(node)
        return 0 if found is None or found.is_draining else found.free

    def _change(self, node: str, by: int) -> None:
        found = self._nodes.get(node)
        if found is None:
            return
        self._forget(node)
        found.free += by
        self._remember(node)

    def _forget(self, node: str) -> None:
        found = self._nodes[node]
        if found.is_open:
            self.free -= found.free
            same = self._with_free[found.free]
            del same[node]
            if not same:
                del self._with_free[found.free]

    def _remember(self, node: str) -> None:
        found = self._nodes[node]
        if found.is_open:
            self.free += found.free
            self._with_free[found.free][node] = None

    def _count(self) -> None:
        usable = [node.slots for node in self._nodes.values() if not node.is_draining]
        self.largest, self.slots = max(usable, default=0), sum(usable)
