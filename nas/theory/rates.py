"""How many iterations the algorithms need, against the condition number kappa = L / mu of a quadratic.

f(z) = sum over i of lambda_i z_i^2 / 2, where log lambda_i is evenly spaced from mu = 1 / kappa to L = 1; z_0 is all
ones. The orders of H. Li, Y. Yang, D. Chen, Z. Lin (sec. 3) are kappa for gradient descent, and its root for heavy
ball and accelerated gradient descent. The latter holds for a momentum that knows kappa: with a fixed one the order is
that of gradient descent again, and that of the sequence theta_k, made for f that are not strongly convex, is between.
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
    """Iterations to a tolerance on quadratics of several condition numbers."""

    kappas: Annotated[tuple[float, ...], MoreThan(1), AtMost(1e6)] = (1e2, 1e3, 1e4)
    """Condition numbers."""
    tolerance: Annotated[float, AtLeast(1e-12), AtMost(0.5)] = 1e-6
    """Iterate until the norm of z is this part of what it was at the start."""
    dimension: Annotated[int, AtLeast(2), AtMost(100_000)] = 50
    """Number of eigenvalues of the quadratic."""
    plot: Annotated[str | None, IsPath] = None
    """Draw the iterations against kappa into this file, .svg or .png."""

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
    """None for the sequence b_k made of theta_k, eq. (3)."""
    nesterov: bool
    """Whether the gradient is taken at the extrapolated point."""


def methods(kappa: float) -> dict[str, Method]:
    """The algorithms by name, L = 1; the optimal steps and momenta are Polyak's."""
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
    """Iterations of each of the `methods` for each condition number.

    All are run at once, a row each, on the diagonal:
    z_{k+1} = z_k + p d - step lambda (z_k + q d), d = z_k - z_{k-1}, where p is the momentum and q is p or 0.
    """
    runs = [method for kappa in config.kappas for method in methods(kappa).values()]
    eigenvalues = [np.geomspace(1 / kappa, 1, config.dimension) for kappa in config.kappas]
    step = np.repeat(eigenvalues, len(runs) // len(eigenvalues), axis=0) * np.array([[m.step] for m in runs])
    follows = np.array([m.momentum is None for m in runs])
    nesterov = np.array([[m.nesterov] for m in runs])
    p = np.array([[m.momentum or 0.0] for m in runs])
    z = before = np.ones_like(step)
    goal = config.tolerance**2 * config.dimension
    needed, left = np.zeros(len(runs), dtype=int), np.arange(len(runs))
    b, k = nesterov_momentum(1024), 0
    while len(left):
        if k == len(b):
            b = nesterov_momentum(2 * k)
        p[follows] = b[k]
        d = z - before
        z, before = z + p * d - step * (z + nesterov * p * d), z
        k += 1
        going = np.einsum("ij,ij->i", z, z) > goal
        if not going.all():
            needed[left[~going]] = k
            left, follows, nesterov, p = left[going], follows[going], nesterov[going], p[going]
            step, z, before = step[going], z[going], before[going]
    columns = needed.reshape(len(config.kappas), -1).T.tolist()
    return dict(zip(methods(2.0), columns, strict=True))


def exponent(kappas: tuple[float, ...], needed: list[int]) -> float | None:
    """The exponent of kappa, by least squares in logarithms; None for a single kappa."""
    if len(set(kappas)) < 2:
        return None
    return float(np.polyfit(np.log(kappas), np.log(needed), 1)[0])


def measure(config: RatesConfig) -> dict[str, Any]:
    """The experiment: `kappas`, and `methods` with the `iterations` and the `exponent` of each; draws the plot.

    Raises UsageError where the plot cannot be written.
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
    """The rows of the table of a result of `measure`."""
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
    """Iterations against kappa, both in logarithms."""
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
