"""Where the parts of a cell's picture go: a layered drawing in plain Python.

Every operation is a box of its own between its source and its target, so that two operations on one edge stay
apart and each name has room. Columns alternate between states and operations. A state read further right runs
through the columns between as a wire with a place of its own, and bends only between columns: no line can
pass through a box. Method: Sugiyama, Tagawa, Toda, IEEE Trans. SMC 11(2), 1981; the heights are a weighted
least-squares fit under minimal distances, solved column by column.
"""

import itertools
from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import Literal

from genotypes.genotype import CellGenotype

# All lengths are in inches.
STATE_HEIGHT = 0.34
OPERATION_HEIGHT = 0.25
_DISTANCE = 0.11  # between boxes above one another
_GAP = 0.26  # between columns whose links are level
_STEEPNESS = 0.22  # further gap per inch a link rises or falls
_WIDEST_GAP = 0.9
_ORDER_SWEEPS = 12
_HEIGHT_SWEEPS = 80
_STRAIGHT = 20.0  # how much more a wire resists bending than the link of a box


@dataclass(eq=False)
class Item:
    """A box of the picture, or the place where a wire crosses a column; (x, y) is its centre."""

    kind: Literal["state", "operation", "wire"]
    label: str
    layer: int
    width: float
    height: float
    operation: str = ""
    concat: bool = False  # a wire which only the cell's output still reads
    x: float = 0.0
    y: float = 0.0
    sources: list["Item"] = field(default_factory=list)
    targets: list["Item"] = field(default_factory=list)


@dataclass(frozen=True)
class Link:
    """A line between neighbouring columns. `concat`: it only carries a state to the cell's output."""

    source: Item
    target: Item
    concat: bool


@dataclass(frozen=True)
class Layout:
    """The placed picture, its corner at the origin, y upwards."""

    layers: list[list[Item]]
    links: list[Link]
    width: float
    height: float


def place(cell: CellGenotype, labels: dict[str, str], operation_width: float) -> Layout:
    """Lay a cell out from left to right; `labels` maps its operation names to what the boxes say."""
    layers, links = _graph(cell, labels, operation_width)
    _order(layers)
    _set_heights(layers)
    width, height = _set_places(layers, links)
    return Layout(layers, links, width, height)


def state_label(index: int, nodes: int) -> str:
    """Text of a state, with TeX subscripts: the two inputs, the intermediate nodes from 0, the output."""
    return {0: "$c_{k{-}2}$", 1: "$c_{k{-}1}$", nodes + 2: "$c_k$"}.get(index, str(index - 2))


def _state_width(index: int, nodes: int) -> float:
    """Intermediate nodes are circles, the inputs and the output are wider."""
    return STATE_HEIGHT if 2 <= index < nodes + 2 else 1.5 * STATE_HEIGHT


def _graph(cell: CellGenotype, labels: dict[str, str], operation_width: float) -> tuple[list[list[Item]], list[Link]]:
    count = len(cell.nodes)
    depths = [0, 0]
    for node in cell.nodes:
        depths.append(1 + max(depths[edge.source] for edge in node))
    columns = [2 * depth for depth in depths] + [2 * max(depths) + 1]
    states = [
        Item("state", state_label(i, count), column, _state_width(i, count), STATE_HEIGHT)
        for i, column in enumerate(columns)
    ]
    readers: list[list[Item]] = [[] for _ in states]
    layers: list[list[Item]] = [[] for _ in range(columns[-1] + 1)]
    links: list[Link] = []
    for state in states:
        layers[state.layer].append(state)
    for target, node in zip(states[2:], cell.nodes, strict=False):
        for edge in node:
            box = Item(
                "operation",
                labels[edge.operation],
                target.layer - 1,
                operation_width,
                OPERATION_HEIGHT,
                edge.operation,
            )
            layers[box.layer].append(box)
            readers[edge.source].append(box)
            links.append(_link(box, target, concat=False))
    for index in cell.concat:
        readers[index].append(states[-1])
    for state, boxes in zip(states, readers, strict=True):
        links += _wire(state, boxes, layers)
    return layers, links


def _wire(state: Item, readers: list[Item], layers: list[list[Item]]) -> list[Link]:
    """Carry a state to its readers along one wire, which passes every column on the way once."""
    links = []
    last_operation = max((box.layer for box in readers if box.kind == "operation"), default=0)
    here = state
    for layer in range(state.layer + 1, max((box.layer for box in readers), default=0) + 1):
        links += [_link(here, box, concat=box.kind == "state") for box in readers if box.layer == layer]
        if any(box.layer > layer for box in readers):
            wire = Item("wire", "", layer, 0.0, 0.0, concat=last_operation <= layer)
            layers[layer].append(wire)
            links.append(_link(here, wire, wire.concat))
            here = wire
    return links


def _link(source: Item, target: Item, concat: bool) -> Link:
    source.targets.append(target)
    target.sources.append(source)
    return Link(source, target, concat)


def _order(layers: list[list[Item]]) -> None:
    """Order every column so that few links cross; the inputs keep theirs, so that pictures compare."""
    best = [list(layer) for layer in layers]
    fewest = _crossings(layers)
    for sweep in range(_ORDER_SWEEPS):
        forward = sweep % 2 == 0
        for layer in layers[1:] if forward else layers[-2:0:-1]:
            _sort_by_neighbours(layers, layer, forward)
        _swap_neighbours(layers)
        crossings = _crossings(layers)
        if crossings < fewest:
            fewest, best = crossings, [list(layer) for layer in layers]
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _sort_by_neighbours(layers: list[list[Item]], layer: list[Item], forward: bool) -> None:
    beside = layers[layer[0].layer + (-1 if forward else 1)]
    position = {item: i for i, item in enumerate(beside)}
    own = {item: i for i, item in enumerate(layer)}

    def key(item: Item) -> float:
        near = item.sources if forward else item.targets
        return sum(position[n] for n in near) / len(near) if near else own[item]

    layer.sort(key=key)


def _swap_neighbours(layers: list[list[Item]]) -> None:
    for layer in layers[1:]:
        sides = [
            {item: i for i, item in enumerate(layers[number])}
            for number in (layer[0].layer - 1, layer[0].layer + 1)
            if number < len(layers)
        ]
        for i in range(len(layer) - 1):
            upper, lower = layer[i], layer[i + 1]
            if _pair_crossings(upper, lower, sides) > _pair_crossings(lower, upper, sides):
                layer[i], layer[i + 1] = lower, upper


def _pair_crossings(upper: Item, lower: Item, sides: list[dict[Item, int]]) -> int:
    pairs = [(upper.sources, lower.sources), (upper.targets, lower.targets)]
    return sum(
        side[a] > side[b] for side, (above, below) in zip(sides, pairs, strict=False) for a in above for b in below
    )


def _crossings(layers: list[list[Item]]) -> int:
    """Number of pairs of links that cross."""
    total = 0
    for left, right in itertools.pairwise(layers):
        position = {item: i for i, item in enumerate(right)}
        seen: list[int] = []
        for item in left:
            ends = sorted(position[target] for target in item.targets)
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _set_heights(layers: list[list[Item]]) -> None:
    """Draw every item towards its neighbours' heights, keeping order and distances in its column."""
    for layer in layers:
        y = 0.0
        for above, item in zip([None, *layer], layer, strict=False):
            y -= _separation(above, item) if above else 0.0
            item.y = y
    for sweep in range(_HEIGHT_SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            _fit(layer)


def _fit(layer: list[Item]) -> None:
    """Least squares under order and distances: pool adjacent violators."""
    offset = 0.0
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of items
    offsets = []
    for above, item in zip([None, *layer], layer, strict=False):
        offset += _separation(above, item) if above else 0.0
        offsets.append(offset)
        mean, weight = _wish(item)
        mean, number = mean + offset, 1
        while blocks and blocks[-1][0] < mean:
            other, other_weight, other_number = blocks.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, number = weight + other_weight, number + other_number
        blocks.append((mean, weight, number))
    heights = [mean for mean, _, number in blocks for _ in range(number)]
    for item, height, shift in zip(layer, heights, offsets, strict=True):
        item.y = height - shift


def _wish(item: Item) -> tuple[float, float]:
    """The height at which the item's links would be level on average, and how much that counts."""
    near = item.sources + item.targets
    weights = [_STRAIGHT if item.kind == other.kind == "wire" else 1.0 for other in near]
    if not near:
        return item.y, 1.0
    total = sum(weights)
    return sum(w * other.y for w, other in zip(weights, near, strict=True)) / total, total


def _separation(above: Item, below: Item) -> float:
    return (above.height + below.height) / 2 + _DISTANCE


def _set_places(layers: list[list[Item]], links: list[Link]) -> tuple[float, float]:
    """Set x, move y to start at zero, give wires their column's width; returns the picture's size."""
    lowest = min(item.y - item.height / 2 for layer in layers for item in layer)
    highest = max(item.y + item.height / 2 for layer in layers for item in layer)
    rise = [0.0] * len(layers)
    for link in links:
        rise[link.source.layer] = max(rise[link.source.layer], abs(link.source.y - link.target.y))
    x = 0.0
    for number, layer in enumerate(layers):
        width = max(item.width for item in layer)
        for item in layer:
            item.x, item.y = x + width / 2, item.y - lowest
            if item.kind == "wire":
                item.width = width
        gap = min(_GAP + _STEEPNESS * rise[number], _WIDEST_GAP)
        x += width + (gap if number + 1 < len(layers) else 0.0)
    return x, highest - lowest
