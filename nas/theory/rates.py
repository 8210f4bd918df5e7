"""Iterations that the algorithms need, as a function of the condition number kappa = L / mu of a quadratic.

f(z) = sum over i of lambda_i z_i^2 / 2, where log lambda_i is evenly spaced between mu = 1 / kappa and L = 1; z_0 is
all ones. According to H. Li, Y. Yang, D. Chen, Z. Lin (sec. 3), the number grows as kappa for gradient descent, and as
its square root for heavy ball and accelerated gradient descent. The square root requires a momentum chosen for kappa:
with a fixed momentum the number grows as kappa again. The sequence theta_k, made for f that need not be strongly
convex, lies in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from genotypes.config import AtLeast, AtMost, Config, IsPath, MoreThan
from nas.theory import output
from nas.theory.iterations import nesterov_momentum, strongly_convex_momentum

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class RatesConfig(Config):
    """Iterations to reach a tolerance on quadratics of several condition numbers."""

    kappas: Annotated[tuple[float, ...], MoreThan(1), AtMost(1e6)] = (1e2, 1e3, 1e4)
    """Condition numbers."""
    tolerance: Annotated[float, AtLeast(1e-12), AtMost(0.5)] = 1e-6
    """Iterate until the norm of z is this fraction of the initial one."""
    dimension: Annotated[int, AtLeast(2), AtMost(100_000)] = 50
    """Number of eigenvalues of the quadratic."""
    plot: Annotated[str | None, IsPath] = None
    """Plot the iterations against kappa in this file, .svg or .png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kappas:
            raise ValueError("--kappas is empty; give condition numbers, such as 100 1000")
        if self.plot is not None:
            output.check_picture(self.plot)


class Method(NamedTuple):
    """One algorithm at one condition number: its step size and momentum."""

    step: float
    momentum: float | None
    """None for the sequence b_k of eq. (3), which theta_k gives."""
    nesterov: bool
    """Whether the gradient is taken at the extrapolated point."""


def methods(kappa: float) -> dict[str, Method]:
    """The algorithms by name, for L = 1; the optimal step sizes and momenta are Polyak's."""
    root = math.sqrt(kappa)
    q = (root - 1) / (root + 1)
    return {
        "GD": Method(1.0, 0.0, False),
        "GD, step 2/(L+mu)": Method(2 / (1 + 1 / kappa), 0.0, False),
        "HB": Method(1.0, (1 - 1 / root) ** 2, False),
        "HB, best step": Method(4 / (1 + 1 / root) ** 2, q**2, False),
        "AGD": Method(1.0, strongly_convex_momentum(1.0, 1 / kappa), True),
        "AGD, theta_k": Method(1.0, None, True),
        "HB, beta = 0.3": Method(1.0, 0.3, False),
    }


def iterations_needed(config: RatesConfig) -> dict[str, list[int]]:
    """The iterations that each of the `methods` needs, one number for each condition number.

    All run at once, each as one row of an array of eigencomponents:
    z_{k+1} = z_k + p d - step lambda (z_k + q d), d = z_k - z_{k-1}, where p is the momentum, and q is p or 0.
    """
    runs = [method for kappa in config.kappas for method in methods(kappa).values()]
    eigenvalues = [np.geomspace(1 / kappa, 1, config.dimension) for kappa in config.kappas]
    step = np.repeat(eigenvalues, len(runs) // len(eigenvalues), axis=0) * np.array([[m.step] for m in runs])
    follows = np.array([m.momentum is None for m in runs])
    nesterov = np.array([[m.nesterov] for m in runs])
    p = np.array([[m.momentum or 0.0] for m in runs])
    z = before = np.ones_like(step)
    goal = config.tolerance**2 * config.dimension  # |z_0|^2 is the dimension
    needed, left = np.zeros(len(runs), dtype=int), np.arange(len(runs))
    b, k = nesterov_momentum(1024), 0  # extended below as the iterations go on
    while len(left):
        if k == len(b):
            b = nesterov_momentum(2 * k)
        p[follows] = b[k]
        d = z - before
        z, before = z + p * d - step * (z + nesterov * p * d), z
        k += 1
        going = np.einsum("ij,ij->i", z, z) > goal
        if not going.all():  # the rows that have arrived are dropped
            needed[left[~going]] = k
            left, follows, nesterov, p = left[going], follows[going], nesterov[going], p[going]
            step, z, before = step[going], z[going], before[going]
    columns = needed.reshape(len(config.kappas), -1).T.tolist()
    return dict(zip(methods(2.0), columns, strict=True))


def exponent(kappas: tuple[float, ...], needed: list[int]) -> float | None:
    """The exponent of kappa, fitted by least squares on logarithms; None for a single kappa."""
    if len(set(kappas)) < 2:
        return None
    return float(np.polyfit(np.log(kappas), np.log(needed), 1)[0])


def measure(config: RatesConfig) -> dict[str, Any]:
    """Runs the experiment, and draws the plot if asked to.

    Returns:
        `kappas`, and `methods`: by name, the `iterations` for each kappa and the fitted `exponent`.

    Raises UsageError if the plot cannot be written.
    """
    if config.plot is not None:
        output.make_folder(Path(config.plot).parent)
    results = {
        name: {"iterations": needed, "exponent": exponent(config.kappas, needed)}
        for name, needed in iterations_needed(config).items()
    }
    if config.plot is not None:
        output.write_figure(figure(config, results), Path(config.plot))
    return {"kappas": list(config.kappas), "methods": results}


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The result of `measure` as the rows of a table."""
    return [
        {
            "method": name,
            **{
                f"kappa {kappa:g}": iterations
                for kappa, iterations in zip(result["kappas"], method["iterations"], strict=True)
            },
            "exponent": method["exponent"],
        }
        for name, method in result["methods"].items()
    ]


def figure(config: RatesConfig, results: dict[str, Any]) -> Figure:
    """A plot of the iterations against kappa, both axes logarithmic."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 4.5), layout="constrained")
    axes = picture.add_subplot()
    order = np.argsort(config.kappas)
    for (name, method), marker in zip(results.items(), "os^vDPX", strict=True):
        power = "" if method["exponent"] is None else f": {method['exponent']:.2f}"
        points = np.array([config.kappas, method["iterations"]])[:, order]
        axes.loglog(*points, marker=marker, markersize=5, label=name + power)
    axes.set_xlabel("condition number kappa")
    axes.set_ylabel(f"iterations to {config.tolerance:g}")
    axes.legend(title="fitted exponent of kappa", fontsize="small", title_fontsize="small")
    axes.grid(alpha=0.3)
    return picture
