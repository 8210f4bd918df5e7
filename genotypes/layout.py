"""The layout of a cell's picture: a layered drawing in plain Python.

Every operation is a box of its own between its source and its target, so that two operations on one edge stay
apart and each name has room. Columns alternate between states and operations. A state read further right runs
through the columns between as a wire with a place of its own, and bends only between columns: no line can
pass through a box. Method: Sugiyama, Tagawa, Toda, IEEE Trans. SMC 11(2), 1981; the heights are a weighted
least-squares fit under minimal distances, solved column by column.

A picture whose width is given may run downwards instead, so that its columns are rows, and may spread the operations
of nodes that would stand side by side over several rows. All is computed for columns from left to right and turned at
the end.
"""

import itertools
import math
from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from genotypes.genotype import CellGenotype

# All lengths are in inches, but for the sizes of letters, which are in points.


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of letters and boxes, and the space between them."""

    label: float
    state: float
    title: float
    operation_height: float
    state_height: float
    padding: float  # of an operation's label, on both sides together
    margin: float
    line: float  # points
    arrow: float
    distance: float  # between boxes above one another
    gap: float  # between columns whose links are level
    steepness: float  # further gap per inch a link rises or falls
    widest_gap: float


#: Sizes for a picture without a given width.
GENEROUS = Sizes(
    label=8.5,
    state=10.0,
    title=11.0,
    operation_height=0.25,
    state_height=0.34,
    padding=0.16,
    margin=0.12,
    line=1.1,
    arrow=0.09,
    distance=0.11,
    gap=0.26,
    steepness=0.22,
    widest_gap=0.9,
)
#: The smallest letters that are easily read in print, in points.
LEAST_LABEL = 6.0
_LABELS = (LEAST_LABEL, 6.5, 7.0, 7.5, 8.0)


def compact(label: float) -> Sizes:
    """Sizes for a picture of a given width; `label` is the size of the operations' letters in points."""
    return Sizes(
        label=label,
        state=9.0,  # subscripts are 0.7 of that
        title=label + 1,
        operation_height=1.8 * label / 72,
        state_height=0.26,
        padding=0.09,
        margin=0.03,
        line=0.85,
        arrow=0.07,
        distance=0.08,
        gap=0.17,
        steepness=0.09,
        widest_gap=0.36,
    )


#: How many operations may be side by side in a picture that runs downwards; the first allows all.
_ABREAST = (math.inf, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1)
_ORDER_SWEEPS = 12
_HEIGHT_SWEEPS = 80
_STRAIGHT = 20.0  # how much more a wire resists bending than the link of a box
_WAVE = 0.2  # a wire that leaves its height by less than this is made straight


@dataclass(eq=False)
class Item:
    """A box of the picture, or the place where a wire crosses a column; (x, y) is its centre."""

    kind: Literal["state", "operation", "wire"]
    label: str
    layer: int
    width: float
    height: float
    operation: str = ""  # of a wire: the one whose result it carries
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
    """The placed picture, its corner at the origin, y upwards; its layers are columns or, if `downwards`, rows."""

    layers: list[list[Item]]
    links: list[Link]
    width: float
    height: float
    sizes: Sizes
    downwards: bool


def place(cell: CellGenotype, labels: dict[str, str], operation_width: float) -> Layout:
    """Lay a cell out from left to right; `labels` maps its operation names to what the boxes say."""
    return _place(_plan(cell, labels, operation_width, GENEROUS, _layers(cell, math.inf)))


def fit(
    cell: CellGenotype, labels: dict[str, str], label_width: Callable[[float], float], width: float
) -> Layout | None:
    """Lay a cell out in at most `width`, with letters of at least `LEAST_LABEL`; None if that is impossible.

    `label_width` maps the size of letters to the width of the widest label. Of the layouts that fit, the one with the
    least height relative to its letters is chosen.
    """
    # Many are the same: once all operations have room, a larger number changes nothing.
    spread = list({str(layers): layers for layers in (_layers(cell, abreast) for abreast in _ABREAST)}.values())
    ways = [(spread[0], None), *((layers, width) for layers in spread)]
    plans = []
    for layers, breadth in ways:
        for sizes in (*map(compact, _LABELS), GENEROUS):
            plan = _plan(cell, labels, label_width(sizes.label) + sizes.padding, sizes, layers, breadth)
            if plan.least_size[0] > width:
                break  # larger letters would not fit either
            plans.append(plan)
    for plan in sorted(plans, key=lambda plan: plan.least_size[1] / plan.sizes.label):
        layout = _place(plan)
        if layout.width <= width + 1e-9:
            return layout
    return None


@dataclass(frozen=True)
class _Plan:
    """Which item is in which layer. A picture that runs downwards has a `breadth`, and is turned once placed."""

    layers: list[list[Item]]
    links: list[Link]
    sizes: Sizes
    breadth: float | None

    @property
    def least_size(self) -> tuple[float, float]:
        """A lower bound of the width and the height of the picture."""
        sizes = self.sizes
        breadth = max(sum(item.height + sizes.distance for item in layer) for layer in self.layers) - sizes.distance
        length = sum(max(item.width for item in layer) + sizes.gap for layer in self.layers) - sizes.gap
        return (length, breadth) if self.breadth is None else (breadth, length)


def _place(plan: _Plan) -> Layout:
    layers, links, sizes = plan.layers, plan.links, plan.sizes
    _order(layers)
    _set_heights(layers, sizes, plan.breadth)
    _straighten(layers, sizes, plan.breadth)
    width, height = _set_places(layers, links, sizes)
    if plan.breadth is None:
        return Layout(layers, links, width, height, sizes, downwards=False)
    for item in itertools.chain(*layers):
        item.x, item.y = height - item.y, width - item.x
        item.width, item.height = item.height, item.width
    return Layout(layers, links, height, width, sizes, downwards=True)


def state_label(index: int, nodes: int) -> str:
    """Text of a state, with TeX subscripts: the two inputs, the intermediate nodes from 0, the output."""
    return {0: "$c_{k{-}2}$", 1: "$c_{k{-}1}$", nodes + 2: "$c_k$"}.get(index, str(index - 2))


def _plan(
    cell: CellGenotype,
    labels: dict[str, str],
    operation_width: float,
    sizes: Sizes,
    numbers: tuple[list[list[int]], list[int]],
    breadth: float | None = None,
) -> _Plan:
    """The cell in layers of the numbers that `_layers` gives; with a breadth it runs downwards."""

    def item(kind: Literal["state", "operation"], label: str, layer: int, width: float, operation: str = "") -> Item:
        height = sizes.state_height if kind == "state" else sizes.operation_height
        box = Item(kind, label, layer, *((width, height) if breadth is None else (height, width)), operation)
        layers[layer].append(box)
        return box

    count = len(cell.nodes)
    operation_layers, state_layers = numbers
    layers: list[list[Item]] = [[] for _ in range(state_layers[-1] + 1)]
    # Intermediate nodes are circles, the inputs and the output are wider.
    states = [
        item("state", state_label(i, count), layer, sizes.state_height * (1 if 2 <= i < count + 2 else 1.5))
        for i, layer in enumerate(state_layers)
    ]
    readers: list[list[Item]] = [[] for _ in states]
    links: list[Link] = []
    for target, node, chosen in zip(states[2:], cell.nodes, operation_layers, strict=False):
        for edge, layer in zip(node, chosen, strict=True):
            box = item("operation", labels[edge.operation], layer, operation_width, edge.operation)
            readers[edge.source].append(box)
            links += _wire(box, [target], layers)
    for index in cell.concat:
        readers[index].append(states[-1])
    for state, boxes in zip(states, readers, strict=True):
        links += _wire(state, boxes, layers)
    return _Plan(layers, links, sizes, breadth)


def _layers(cell: CellGenotype, abreast: float) -> tuple[list[list[int]], list[int]]:
    """The layers of each node's operations, and those of the states.

    Nodes at the same distance from the inputs share layers as long as they have at most `abreast` operations together;
    the operations of a node that has more are spread evenly over several layers.
    """
    depths = [0, 0]
    for node in cell.nodes:
        depths.append(1 + max(depths[edge.source] for edge in node))
    operations: list[list[int]] = [[] for _ in cell.nodes]
    states = [0] * len(depths)
    last, depth, room = 0, 0, 0.0
    for index in sorted(range(2, len(depths)), key=depths.__getitem__):
        number = len(cell.nodes[index - 2])
        if depths[index] != depth or number > room:
            rows = max(1, math.ceil(number / abreast))
            first, last = last + 1, last + rows + 1
            depth, room = depths[index], abreast
        room -= number
        operations[index - 2] = [first + i * rows // number for i in range(number)]
        states[index] = last
    return operations, [*states, last + 1]


def _wire(start: Item, readers: list[Item], layers: list[list[Item]]) -> list[Link]:
    """Carry a state, or an operation's result, to its readers along one wire that passes each layer between once."""
    links = []
    is_state = start.kind == "state"
    last_operation = max((box.layer for box in readers if box.kind == "operation"), default=0)
    here = start
    for layer in range(start.layer + 1, max((box.layer for box in readers), default=0) + 1):
        links += [_link(here, box, concat=is_state and box.kind == "state") for box in readers if box.layer == layer]
        if any(box.layer > layer for box in readers):
            concat = is_state and last_operation <= layer
            wire = Item("wire", "", layer, 0.0, 0.0, start.operation, concat)
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


def _set_heights(layers: list[list[Item]], sizes: Sizes, breadth: float | None) -> None:
    """Pull every item towards its neighbours' heights, keeping order and distances in its column, and the breadth."""
    for layer in layers:
        y = 0.0
        for above, item in zip([None, *layer], layer, strict=False):
            y -= _separation(above, item, sizes) if above else 0.0
            item.y = y
    for sweep in range(_HEIGHT_SWEEPS):
        for layer in layers if sweep % 2 else reversed(layers):
            _fit(layer, sizes, breadth)


def _fit(layer: list[Item], sizes: Sizes, breadth: float | None) -> None:
    """Least squares under order and distances: pool adjacent violators; with a breadth, between -breadth and 0."""
    offset = 0.0
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of items
    offsets = []
    for above, item in zip([None, *layer], layer, strict=False):
        offset += _separation(above, item, sizes) if above else 0.0
        offsets.append(offset)
        mean, weight = _wish(item)
        mean, number = mean + offset, 1
        while blocks and blocks[-1][0] < mean:
            other, other_weight, other_number = blocks.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight, number = weight + other_weight, number + other_number
        blocks.append((mean, weight, number))
    heights = [mean for mean, _, number in blocks for _ in range(number)]
    if breadth is not None:  # clipping all heights to the same interval keeps all distances
        highest, lowest = -layer[0].height / 2, layer[-1].height / 2 + offset - breadth
        heights = [min(max(height, lowest), highest) for height in heights]
    for item, height, shift in zip(layer, heights, offsets, strict=True):
        item.y = height - shift


def _wish(item: Item) -> tuple[float, float]:
    """The height at which the item's links would be level on average, and the weight of that wish."""
    near = item.sources + item.targets
    weights = [_STRAIGHT if item.kind == other.kind == "wire" else 1.0 for other in near]
    if not near:
        return item.y, 1.0
    total = sum(weights)
    return sum(w * other.y for w, other in zip(weights, near, strict=True)) / total, total


def _straighten(layers: list[list[Item]], sizes: Sizes, breadth: float | None) -> None:
    """Give the pieces of a wire that are nearly level the same height, if nothing beside them is in the way."""
    for item in itertools.chain(*layers):
        if item.kind == "wire" and all(source.kind != "wire" for source in item.sources):
            chain = [item]
            while following := [target for target in chain[-1].targets if target.kind == "wire"]:
                chain += following
            _level(chain, layers, sizes, breadth)


def _level(chain: list[Item], layers: list[list[Item]], sizes: Sizes, breadth: float | None) -> None:
    """Level a wire from its start, and anew from every piece that cannot be level with those before it."""
    level: list[Item] = []
    low, high = -math.inf, math.inf
    for wire in chain:
        lowest, highest = _room(wire, layers[wire.layer], sizes, breadth)
        heights = [other.y for other in (*level, wire)]
        if max(low, lowest) > min(high, highest) or max(heights) - min(heights) > _WAVE:
            level, low, high = [], -math.inf, math.inf
        level.append(wire)
        low, high = max(low, lowest), min(high, highest)
        mean = sum(other.y for other in level) / len(level)
        for other in level:
            other.y = min(max(mean, low), high)


def _room(item: Item, layer: list[Item], sizes: Sizes, breadth: float | None) -> tuple[float, float]:
    """The heights between which an item can be moved alone."""
    number = layer.index(item)
    lowest, highest = (-math.inf, math.inf) if breadth is None else (item.height / 2 - breadth, -item.height / 2)
    if number > 0:
        highest = layer[number - 1].y - _separation(layer[number - 1], item, sizes)
    if number + 1 < len(layer):
        lowest = layer[number + 1].y + _separation(item, layer[number + 1], sizes)
    return lowest, highest


def _separation(above: Item, below: Item, sizes: Sizes) -> float:
    return (above.height + below.height) / 2 + sizes.distance


def _set_places(layers: list[list[Item]], links: list[Link], sizes: Sizes) -> tuple[float, float]:
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
        gap = min(sizes.gap + sizes.steepness * rise[number], sizes.widest_gap)
        x += width + (gap if number + 1 < len(layers) else 0.0)
    return x, highest - lowest
