"""Searches with published constants, by the value of --preset.

The texts say what a recipe does otherwise than its source. Errors are the published ones of networks that were trained
from genotypes, on CIFAR-10; docs/METHODS.md has their sources.
"""

from __future__ import annotations

from collections.abc import Callable

from nas.data import DataConfig
from nas.methods import named
from nas.methods.bilevel import BilevelConfig
from nas.methods.config import SearchConfig
from nas.methods.derivation import DerivationConfig
from nas.methods.perturbation import PerturbationConfig
from nas.methods.regularizers import RegularizerConfig
from nas.methods.stages import StagesConfig
from nas.methods.stops import StopConfig
from nas.supernet import SupernetConfig
from spaces import SpaceConfig
from spaces.darts import DARTSSpace

#: DARTS's candidates without zero, as several methods search among them.
WITHOUT_ZERO = (
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
)


def paper(dataset: str) -> SearchConfig:
    """DARTS sec. 3.1 and A.1: on CIFAR-10 0.4 GPU-days (first order) and 1 GPU-day (second) in the paper."""
    return SearchConfig(data=DataConfig(dataset=dataset, batch_size=64))


def smoke(dataset: str) -> SearchConfig:
    """Three narrow cells, 8 epochs: a minute or two on a CPU core for digits, twice that for --unrolled."""
    return SearchConfig(
        preset="smoke",
        epochs=8,
        data=DataConfig(dataset=dataset, batch_size=64),
        supernet=SupernetConfig(layers=3, init_channels=8),
        # 96 steps instead of 19,550: both levels must move faster to get anywhere.
        bilevel=BilevelConfig(learning_rate=0.05, arch_learning_rate=3e-3),
    )


def small(dataset: str) -> SearchConfig:
    """Three narrow cells of Space-HB, for a few hundred to a few thousand images: 5 minutes for 1,200 of 32x32 pixels.

    It starts at the heavy-ball network, so that what so few steps cannot decide is a network that is known to learn.
    """
    return SearchConfig(
        preset="small",
        epochs=12,
        data=DataConfig(dataset=dataset, batch_size=32),
        # 200 steps move a logit by about 1, which must be enough to leave the start.
        space=SpaceConfig(space="hb", init_gap=1.0),
        supernet=SupernetConfig(layers=3, init_channels=8),
        bilevel=BilevelConfig(learning_rate=0.05, arch_learning_rate=6e-3),
    )


def drnas(dataset: str) -> SearchConfig:
    """DrNAS (Chen et al., ICLR 2021), progressive, 2.46 % with 4.1 M parameters.

    The authors widen the weights of the first stage for the second, whose partial channels are more; here they are new.
    """
    return SearchConfig(
        preset="drnas",
        epochs=50,
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(operations=WITHOUT_ZERO, init="random"),
        supernet=SupernetConfig(layers=20, init_channels=36),
        bilevel=BilevelConfig(learning_rate=0.1, arch_learning_rate=6e-4),
        method=named("drnas"),
        stages=StagesConfig(drop=(3,), stage_partial_channels=(6, 4), warm_up_epochs=10, keep_logits=True),
    )


def pc_darts(dataset: str) -> SearchConfig:
    """PC-DARTS (Xu et al., ICLR 2020), 2.57 %: Space-AGD with the operations of DARTS and a quarter of the channels."""
    return SearchConfig(
        preset="pc-darts",
        epochs=50,
        data=DataConfig(dataset=dataset, batch_size=256),
        space=SpaceConfig(space="agd", operations=DARTSSpace.operations_default, init="random"),
        bilevel=BilevelConfig(learning_rate=0.1, arch_learning_rate=6e-4),
        supernet=SupernetConfig(partial_channels=4),
        stages=StagesConfig(warm_up_epochs=15),
    )


def p_darts(dataset: str) -> SearchConfig:
    """P-DARTS (Chen et al., ICCV 2019), 2.50 %.

    The authors clip the gradient of the architecture too.
    """
    return SearchConfig(
        preset="p-darts",
        epochs=75,
        data=DataConfig(dataset=dataset, batch_size=96),
        space=SpaceConfig(init="random"),
        bilevel=BilevelConfig(arch_learning_rate=6e-4),
        stages=StagesConfig(drop=(3, 2), stage_layers=(5, 11, 17), warm_up_epochs=10, skip_dropout=(0.0, 0.4, 0.7)),
        derivation=DerivationConfig(max_skips=2),
    )


def snas(dataset: str) -> SearchConfig:
    """SNAS (Xie et al., ICLR 2019), 2.85 % "moderate".

    Its code trains weights and architecture on the same images, of one loss; here they keep a half each.
    """
    return SearchConfig(
        preset="snas",
        epochs=150,
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        bilevel=BilevelConfig(arch_learning_rate=3e-4),
        method=named("snas"),
    )


def gdas(dataset: str) -> SearchConfig:
    """GDAS (Dong and Yang, CVPR 2019), 2.93 %. The authors' SGD is Nesterov's; here its momentum is the usual."""
    return SearchConfig(
        preset="gdas",
        epochs=250,
        data=DataConfig(dataset=dataset, batch_size=256),
        space=SpaceConfig(init="random"),
        supernet=SupernetConfig(layers=6),
        bilevel=BilevelConfig(learning_rate_min=0.001, weight_decay=5e-4),
        method=named("gdas"),
    )


def fairdarts(dataset: str) -> SearchConfig:
    """FairDARTS (Chu et al., ECCV 2020), 2.54 %. The authors' Adam has the beta1 of 0.9; here it is DARTS's 0.5."""
    return SearchConfig(
        preset="fairdarts",
        epochs=50,
        data=DataConfig(dataset=dataset, batch_size=128),
        space=SpaceConfig(operations=WITHOUT_ZERO),
        bilevel=BilevelConfig(learning_rate=0.005, learning_rate_min=0.001, arch_learning_rate=3e-3),
        method=named("fairdarts"),
    )


def ista(dataset: str) -> SearchConfig:
    """ISTA-NAS (Yang et al., NeurIPS 2020), two stages, 2.54 %; the constants are those of its code."""
    return SearchConfig(
        preset="ista",
        epochs=50,
        data=DataConfig(dataset=dataset, batch_size=256),
        space=SpaceConfig(operations=WITHOUT_ZERO),
        bilevel=BilevelConfig(learning_rate=0.1, learning_rate_min=0.001, arch_learning_rate=6e-4),
        method=named("ista"),
    )


def darts_minus(dataset: str) -> SearchConfig:
    """DARTS- (Chu et al., ICLR 2021), 2.59 %."""
    return SearchConfig(
        preset="darts-minus",
        data=DataConfig(dataset=dataset, batch_size=96),
        space=SpaceConfig(init="random"),
        method=named("darts-minus"),
    )


def beta_darts(dataset: str) -> SearchConfig:
    """beta-DARTS (Ye et al., CVPR 2022), 2.53 %."""
    return SearchConfig(
        preset="beta-darts",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        regularizer=RegularizerConfig(beta_decay=50.0),
    )


def sdarts_rs(dataset: str) -> SearchConfig:
    """SDARTS-RS (Chen and Hsieh, ICML 2020), 2.67 %."""
    return SearchConfig(
        preset="sdarts-rs",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        bilevel=BilevelConfig(learning_rate_min=0.001),
        perturbation=PerturbationConfig(perturb="random"),
    )


def sdarts_adv(dataset: str) -> SearchConfig:
    """SDARTS-ADV (Chen and Hsieh, ICML 2020), 2.61 %; three to four times as long as SDARTS-RS."""
    return SearchConfig(
        preset="sdarts-adv",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        bilevel=BilevelConfig(learning_rate_min=0.001),
        perturbation=PerturbationConfig(perturb="adversarial"),
    )


def darts_pt(dataset: str) -> SearchConfig:
    """DARTS-PT (Wang et al., ICLR 2021), 2.61 %: 50 epochs of DARTS, and 81 of the projection."""
    return SearchConfig(
        preset="darts-pt",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(operations=WITHOUT_ZERO, init="random"),
        derivation=DerivationConfig(derivation="projection"),
    )


def robust_darts(dataset: str) -> SearchConfig:
    """DARTS-ES, the early stopping of RobustDARTS (Zela et al., ICLR 2020), in DARTS's space."""
    return SearchConfig(
        preset="robust-darts",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        bilevel=BilevelConfig(learning_rate_min=0.001, unrolled=True),
        stop=StopConfig(stop="eigenvalue", eigenvalue_every=2),
    )


def darts_plus(dataset: str) -> SearchConfig:
    """DARTS+ (Liang et al., 2019), 2.32 % at best: DARTS until the normal cell has two skip connections."""
    return SearchConfig(
        preset="darts-plus",
        data=DataConfig(dataset=dataset, batch_size=64),
        space=SpaceConfig(init="random"),
        stop=StopConfig(stop="skips"),
    )


#: By the value of --preset.
PRESETS: dict[str, Callable[[str], SearchConfig]] = {
    "paper": paper,
    "smoke": smoke,
    "small": small,
    "pc-darts": pc_darts,
    "p-darts": p_darts,
    "snas": snas,
    "gdas": gdas,
    "drnas": drnas,
    "fairdarts": fairdarts,
    "darts-minus": darts_minus,
    "ista": ista,
    "beta-darts": beta_darts,
    "sdarts-rs": sdarts_rs,
    "sdarts-adv": sdarts_adv,
    "darts-pt": darts_pt,
    "robust-darts": robust_darts,
    "darts-plus": darts_plus,
}
