"""The configuration of a search."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from genotypes.config import Common, Config, Epochs, LessThan, MayDiffer, MoreThan, Seed
from nas.data import DataConfig
from nas.engine.device import PrecisionChoice
from nas.methods.bilevel import BilevelConfig
from nas.methods.darts import DARTS
from nas.methods.derivation import DerivationConfig
from nas.methods.perturbation import PerturbationConfig
from nas.methods.projection import ProjectionConfig
from nas.methods.registry import Method, named
from nas.methods.regularizers import RegularizerConfig
from nas.methods.stages import StagesConfig
from nas.methods.stops import StopConfig
from nas.runs.run import RunConfig
from nas.supernet import SupernetConfig
from spaces import SpaceConfig


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """Everything that decides a search; the defaults are DARTS's protocol, which is also the spaces' paper's."""

    preset: Annotated[str, Common] = "paper"
    """Sets all other defaults: paper, DARTS's protocol; smoke, minutes on a CPU; small, for a few hundred to a few
    thousand images; or the protocol of another method (docs/METHODS.md), such as gdas."""
    seed: Annotated[Seed, Common] = 0
    """Seed of the split, the weights, the architecture's random start and the order of the images."""
    epochs: Annotated[Epochs, Common] = 50
    """Passes over the weights' half of the training images (DARTS sec. A.1: 50)."""
    train_portion: Annotated[float, MoreThan(0), LessThan(1)] = 0.5
    """Share of the training images for the weights; the others are the architecture's (DARTS sec. 3.1: 0.5)."""
    precision: Annotated[PrecisionChoice, Common] = "auto"
    """Forward passes in fp32, or in bf16 with weights and statistics in fp32; auto: bf16 on GPUs that compute in it
    (NVIDIA from A100 on), but fp32 for --unrolled by finite differences."""
    log_logits: Annotated[bool, MayDiffer] = False
    """Also write a TensorBoard curve of every architecture parameter: a few hundred of them."""
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    method: Method = field(default_factory=DARTS)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    derivation: DerivationConfig = field(default_factory=DerivationConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        several = "--drop" if self.stages.drop else "--derivation projection" if self.projects else ""
        if self.stop.stop != "none" and several:
            raise ValueError(
                f"--stop {self.stop.stop} would end the search within a stage of {several}; drop one of the two"
            )

        if self.stages.drop and self.derivation.limited:
            raise ValueError(
                "--max-params, --max-macs and --max-latency may be out of reach of the operations that --drop leaves; "
                "search without them, and derive within them after the search: genotype_tool.py derive RUN"
            )
        self.derivation.check_counted(self.regularizer.cost_weight > 0, "--cost-weight")

    @property
    def projects(self) -> bool:
        """Whether the genotype is chosen by measurement, in a phase after `epochs`."""
        return self.derivation.derivation == "projection"


def with_method(config: SearchConfig, method: str | Method) -> SearchConfig:
    """The configuration with another method, by name with its default constants; one that it has keeps its constants.

    Raises ValueError as `nas.methods.named` does.
    """
    if isinstance(method, str):
        method = config.method if method == config.method.method else named(method)
    return replace(config, method=method)
