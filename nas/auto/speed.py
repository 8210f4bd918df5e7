"""The network that --max-latency allows: a table of latencies is measured or read, and the width chosen by it."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from pathlib import Path

import torch

import spaces
from nas import screen
from nas.auto.plan import AutoConfig, Plan
from nas.errors import UsageError
from nas.latency_table import LatencyTableConfig, measured
from nas.networks import latency_table
from nas.networks.edge_costs import costs_in
from nas.networks.forms import Form
from nas.networks.latency_table import LatencyModel, LatencyTable
from spaces.derivation import check_possible
from spaces.sampling import Sampler

#: File of the table in the directory of the runs.
NAME = "latency.json"
#: Channels of the narrowest network that is tried, and random genotypes that say how long those of some width take.
_NARROWEST, _TYPICAL = 2, 25


def table_for(config: AutoConfig, plan: Plan, kept: Path, device: torch.device) -> LatencyTable:
    """The table that the run keeps, else the one that is named, else a new one.

    Raises ValueError for a table of other networks, one that is not the kept one, and limits that no genotype is
    within, which says how little is possible.
    """
    assert config.max_latency is not None
    named = None if config.latency_table is None else LatencyModel.read(config.latency_table)
    if kept.exists():
        table = latency_table.read(kept)
        if named is not None and named.table != table:
            raise UsageError(
                f"{config.latency_table} is not the table that the run began with, which is {kept}; leave out "
                "--latency-table, or choose another --out"
            )
        return table
    if named is None:
        table = _measured(plan, config.max_latency, str(device))
        fit = table.calibration
        screen.say(
            f"the network gets {table.form.init_channels} channels; the prediction misses {fit.networks} random "
            f"networks by {fit.mean_error:.1f} % on average, more where the machine is busy"
        )
        return table
    # For what it refuses: it may have any width.
    LatencyModel(named.table, str(config.latency_table), _form(plan, named.table.form.init_channels))
    _check(plan, named.table, str(config.latency_table), config.max_latency)
    return named.table


def limited(plan: Plan, table: LatencyTable, max_ms: float, path: Path) -> Plan:
    """The plan with the network that a table was measured for, and the limit; `path` is that of the table."""
    network = replace(plan.train.network, init_channels=table.form.init_channels)
    derivation = replace(
        plan.search.derivation,
        max_latency=max_ms,
        latency_table=str(path),
        eval_layers=network.layers,
        eval_channels=network.init_channels,
    )
    return plan._replace(search=replace(plan.search, derivation=derivation), train=replace(plan.train, network=network))


def _measured(plan: Plan, max_ms: float, device: str) -> LatencyTable:
    """The table of the widest network in which half of a sample of genotypes takes at most so many milliseconds.

    At most three are measured: for the width that is planned, for the narrowest, and for the width in between that a
    straight line through their times suggests.
    """
    screen.say(f"measuring on {device} how long operations take, for --max-latency {max_ms:g}")
    widest = plan.train.network.init_channels
    table = _table(plan, widest, device)
    if (slow := _typical_ms(plan, table)) <= max_ms or widest <= _NARROWEST:
        _check(plan, table, NAME, max_ms)
        return table
    narrowest = _table(plan, _NARROWEST, device)
    _check(plan, narrowest, NAME, max_ms)
    if (fast := _typical_ms(plan, narrowest)) >= min(max_ms, slow):
        return narrowest
    width = _NARROWEST + 2 * int((max_ms - fast) / (slow - fast) * (widest - _NARROWEST) / 2)
    if width == _NARROWEST:
        return narrowest
    between = _table(plan, width, device)
    try:
        _check(plan, between, NAME, max_ms)
    except ValueError:  # slower than the line suggests
        return narrowest
    return between


def _check(plan: Plan, table: LatencyTable, name: str, max_ms: float) -> None:
    """Raises ValueError where no genotype is within all limits in the network that the table is for."""
    space, form = spaces.build(plan.search.space), _form(plan, table.form.init_channels)
    budget = plan.search.derivation
    limits = costs_in(space, form).limits(budget.max_params, budget.max_macs)
    try:
        check_possible(space, [*limits, *LatencyModel(table, name).limits(space, max_ms)])
    except ValueError as error:
        smaller = "" if form.network.init_channels == _NARROWEST else ", name a table of fewer channels"
        raise ValueError(f"{error}{smaller}, or choose a smaller --image-size; the network has {form}") from error


def _form(plan: Plan, width: int) -> Form:
    network, images = replace(plan.train.network, init_channels=width), plan.images
    return Form(network, images.image_size, images.num_classes, images.channels)


def _table(plan: Plan, width: int, device: str) -> LatencyTable:
    space, form = plan.search.space, _form(plan, width)
    config = LatencyTableConfig(
        out=NAME,
        space=space.space,
        nodes=space.nodes,
        operations=space.operations,
        eval_layers=form.network.layers,
        eval_channels=width,
        image_size=form.image_size,
        channels=form.in_channels,
        classes=form.num_classes,
        device=device,
    )
    with screen.shown_by(None):
        return measured(config)


def _typical_ms(plan: Plan, table: LatencyTable) -> float:
    sampler, model = Sampler(spaces.build(plan.search.space)), LatencyModel(table, NAME)
    return statistics.median(model.predicted(sampler.draw(random.Random(number))) for number in range(_TYPICAL))
