"""Published architectures by name, each with its paper and the result that the paper claims.

The genotypes were taken from the authors' own repositories (`source`). They are written in the literature's
notation, so that they can be compared with their sources.
"""

import re
from dataclasses import dataclass
from typing import Literal

from genotypes.genotype import MAX_NAME, Genotype, GenotypeError, unknown_name
from genotypes.notation import from_text


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A published architecture and what its paper says about it.

    `dataset` is the one that the claim is about, and decides the form of the network: 20 cells of 36 initial
    channels for "cifar10", 14 cells of 48 for "imagenet". `claimed_error` is the top-1 test error in percent;
    `claim` states the conditions. `params` is the exact number of weights of the DARTS evaluation network in
    that form, without auxiliary head; papers print `claimed_params_millions`. `source` is the GitHub repository
    of the genotype.
    """

    genotype: Genotype
    paper: str
    arxiv: str
    source: str
    dataset: Literal["cifar10", "imagenet"]
    claimed_error: float
    claim: str
    claimed_params_millions: float
    params: int
    note: str = ""


def names() -> list[str]:
    """The names of all published architectures."""
    return list(ZOO)


def get(name: str) -> ZooEntry:
    """The published architecture of that name. Raises GenotypeError, which lists what exists."""
    if name not in ZOO:
        raise GenotypeError(unknown_name("architecture", name, ZOO))
    return ZOO[name]


def find(name: str) -> ZooEntry | None:
    """The published architecture of that name, in upper or lower case or as in the authors' code; None if unknown."""
    return ZOO.get(_SPELLINGS.get(_spelling(name), ""))


def _spelling(name: str) -> str:
    """A key that all spellings of a name share."""
    return re.sub(r"[-_ ]", "", name[:MAX_NAME]).casefold()


_NASNET = "Zoph, Vasudevan, Shlens, Le: Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018"
_AMOEBANET = "Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019"
_DARTS = "Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019"
_SNAS = "Xie, Zheng, Liu, Lin: SNAS: Stochastic Neural Architecture Search, ICLR 2019"
_GDAS = "Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019"
_PDARTS = (
    "Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search: "
    "Bridging the Depth Gap between Search and Evaluation, ICCV 2019"
)
_PC_DARTS = (
    "Xu, Xie, Zhang, Chen, Qi, Tian, Xiong: PC-DARTS: "
    "Partial Channel Connections for Memory-Efficient Architecture Search, ICLR 2020"
)
_SGAS = "Li, Qian, Delgadillo, Müller, Thabet, Ghanem: SGAS: Sequential Greedy Architecture Search, CVPR 2020"
_ISTA_NAS = (
    "Yang, Li, You, Wang, Qian, Lin: ISTA-NAS: "
    "Efficient and Consistent Neural Architecture Search by Sparse Coding, NeurIPS 2020"
)
_DRNAS = "Chen, Wang, Cheng, Tang, Hsieh: DrNAS: Dirichlet Neural Architecture Search, ICLR 2021"

_ENTRIES = (
    ZooEntry(
        genotype=from_text("""NASNet = Genotype(
            normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0),
                    ('avg_pool_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0),
                    ('sep_conv_3x3', 1), ('skip_connect', 1)], normal_concat=range(2, 7),
            reduce=[('sep_conv_5x5', 1), ('sep_conv_7x7', 0), ('max_pool_3x3', 1), ('sep_conv_7x7', 0),
                    ('avg_pool_3x3', 1), ('sep_conv_5x5', 0), ('skip_connect', 3), ('avg_pool_3x3', 2),
                    ('sep_conv_3x3', 2), ('max_pool_3x3', 1)], reduce_concat=range(4, 7))"""),
        paper=_NASNET,
        arxiv="1707.07012",
        source="quark0/darts",
        dataset="cifar10",
        claimed_error=2.65,
        claim="CIFAR-10 top-1, cutout",
        claimed_params_millions=3.3,
        params=3_830_950,
        note="NASNet-A as the DARTS authors transcribed it; the paper's own network has other weights",
    ),
    ZooEntry(
        genotype=from_text("""AmoebaNet = Genotype(
            normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2),
                    ('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1),
                    ('skip_connect', 0), ('avg_pool_3x3', 1)], normal_concat=range(4, 7),
            reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2),
                    ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                    ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)], reduce_concat=[3, 4, 6])"""),
        paper=_AMOEBANET,
        arxiv="1802.01548",
        source="quark0/darts",
        dataset="cifar10",
        claimed_error=3.34,
        claim="CIFAR-10 top-1, 3.34 ± 0.06",
        claimed_params_millions=3.2,
        params=3_145_078,
        note="AmoebaNet-A as the DARTS authors transcribed it; the paper's own network has other weights",
    ),
    ZooEntry(
        genotype=from_text("""DARTS_V1 = Genotype(
            normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
                    ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
                    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
            reduce_concat=range(2, 6))"""),
        paper=_DARTS,
        arxiv="1806.09055",
        source="quark0/darts",
        dataset="cifar10",
        claimed_error=3.00,
        claim="CIFAR-10 top-1, cutout, 3.00 ± 0.14 over 10 runs",
        claimed_params_millions=3.3,
        params=3_169_414,
        note="first-order search",
    ),
    ZooEntry(
        genotype=from_text("""DARTS_V2 = Genotype(
            normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_DARTS,
        arxiv="1806.09055",
        source="quark0/darts",
        dataset="cifar10",
        claimed_error=2.76,
        claim="CIFAR-10 top-1, cutout, 2.76 ± 0.09 over 10 runs",
        claimed_params_millions=3.3,
        params=3_349_342,
        note="second-order search; on ImageNet 26.7 % top-1 with 4,718,752 parameters",
    ),
    ZooEntry(
        genotype=from_text("""SNAS_MODERATE = Genotype(
            normal=[('dil_conv_5x5', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1),
                    ('skip_connect', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 1)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_5x5', 0), ('dil_conv_5x5', 1),
                    ('sep_conv_5x5', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_SNAS,
        arxiv="1812.09926",
        source="SNAS-Series/SNAS-Series",
        dataset="cifar10",
        claimed_error=2.85,
        claim="CIFAR-10 top-1, cutout, 2.85 ± 0.02",
        claimed_params_millions=2.8,
        params=2_847_358,
        note="moderate resource constraint",
    ),
    ZooEntry(
        genotype=from_text("""GDAS = Genotype(
            normal=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('sep_conv_5x5', 2),
                    ('sep_conv_3x3', 3), ('skip_connect', 0), ('sep_conv_5x5', 4), ('sep_conv_3x3', 3)],
            normal_concat=range(2, 6),
            reduce=[('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('sep_conv_5x5', 2), ('sep_conv_5x5', 1),
                    ('dil_conv_5x5', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_GDAS,
        arxiv="1910.04465",
        source="D-X-Y/AutoDL-Projects",
        dataset="cifar10",
        claimed_error=2.93,
        claim="CIFAR-10 top-1, cutout",
        claimed_params_millions=3.4,
        params=3_368_782,
        note="GDAS_V1 of the source; copies elsewhere have another last edge in the reduction cell",
    ),
    ZooEntry(
        genotype=from_text("""PDARTS = Genotype(
            normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)],
            normal_concat=range(2, 6),
            reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2),
                    ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)],
            reduce_concat=range(2, 6))"""),
        paper=_PDARTS,
        arxiv="1904.12760",
        source="chenxin061/pdarts",
        dataset="cifar10",
        claimed_error=2.50,
        claim="CIFAR-10 top-1, cutout",
        claimed_params_millions=3.4,
        params=3_433_798,
        note="the source's cells come from another run than those drawn in the paper; ImageNet: 24.4 % top-1",
    ),
    ZooEntry(
        genotype=from_text("""PC_DARTS_CIFAR = Genotype(
            normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
                    ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)],
            normal_concat=range(2, 6),
            reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
                    ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
            reduce_concat=range(2, 6))"""),
        paper=_PC_DARTS,
        arxiv="1907.05737",
        source="yuhuixu1993/PC-DARTS",
        dataset="cifar10",
        claimed_error=2.57,
        claim="CIFAR-10 top-1, cutout, 2.57 ± 0.07",
        claimed_params_millions=3.6,
        params=3_634_678,
    ),
    ZooEntry(
        genotype=from_text("""PC_DARTS_IMAGENET = Genotype(
            normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1),
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
            normal_concat=range(2, 6),
            reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                    ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)],
            reduce_concat=range(2, 6))"""),
        paper=_PC_DARTS,
        arxiv="1907.05737",
        source="yuhuixu1993/PC-DARTS",
        dataset="imagenet",
        claimed_error=24.2,
        claim="ImageNet top-1, mobile setting",
        claimed_params_millions=5.3,
        params=5_342_464,
        note="searched on ImageNet",
    ),
    ZooEntry(
        genotype=from_text("""SGAS_CIFAR = Genotype(
            normal=[('sep_conv_3x3', 0), ('dil_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_5x5', 1), ('sep_conv_5x5', 3), ('skip_connect', 0), ('dil_conv_5x5', 2)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('dil_conv_5x5', 1), ('sep_conv_3x3', 0), ('skip_connect', 2),
                    ('sep_conv_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_SGAS,
        arxiv="1912.00195",
        source="lightaime/sgas",
        dataset="cifar10",
        claimed_error=2.39,
        claim="CIFAR-10 top-1, cutout, best of 10 searches",
        claimed_params_millions=3.8,
        params=3_795_166,
        note="criterion 1, third search; the 10 searches average 2.66 %",
    ),
    ZooEntry(
        genotype=from_text("""SGAS_IMAGENET = Genotype(
            normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('dil_conv_5x5', 0), ('dil_conv_3x3', 2), ('sep_conv_3x3', 1), ('dil_conv_5x5', 3)],
            normal_concat=range(2, 6),
            reduce=[('sep_conv_5x5', 0), ('dil_conv_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                    ('dil_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('avg_pool_3x3', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_SGAS,
        arxiv="1912.00195",
        source="lightaime/sgas",
        dataset="imagenet",
        claimed_error=24.13,
        claim="ImageNet top-1, mobile setting",
        claimed_params_millions=5.4,
        params=5_438_464,
        note="criterion 2, searched on CIFAR-10 (fourth search; 2.49 % there)",
    ),
    ZooEntry(
        genotype=from_text("""ISTA_NAS_TWO_STAGE = Genotype(
            normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('sep_conv_5x5', 0), ('dil_conv_3x3', 2),
                    ('dil_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 2), ('skip_connect', 0)],
            normal_concat=range(2, 6),
            reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                    ('dil_conv_5x5', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4), ('sep_conv_5x5', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_ISTA_NAS,
        arxiv="2010.06176",
        source="iboing/ISTA-NAS",
        dataset="cifar10",
        claimed_error=2.54,
        claim="CIFAR-10 top-1, cutout, 2.54 ± 0.05",
        claimed_params_millions=3.32,
        params=3_316_726,
    ),
    ZooEntry(
        genotype=from_text("""ISTA_NAS_ONE_STAGE = Genotype(
            normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('sep_conv_3x3', 1), ('dil_conv_5x5', 2),
                    ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_5x5', 1), ('sep_conv_3x3', 2)],
            normal_concat=range(2, 6),
            reduce=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 0), ('max_pool_3x3', 1),
                    ('sep_conv_5x5', 1), ('avg_pool_3x3', 0), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)],
            reduce_concat=range(2, 6))"""),
        paper=_ISTA_NAS,
        arxiv="2010.06176",
        source="iboing/ISTA-NAS",
        dataset="cifar10",
        claimed_error=2.36,
        claim="CIFAR-10 top-1, cutout, 2.36 ± 0.06",
        claimed_params_millions=3.37,
        params=3_363_598,
        note="the paper's network normalizes after pooling and identity too, so it has a few weights more",
    ),
    ZooEntry(
        genotype=from_text("""ISTA_NAS_IMAGENET = Genotype(
            normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 2),
                    ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
            normal_concat=range(2, 6),
            reduce=[('skip_connect', 0), ('sep_conv_3x3', 1), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0),
                    ('sep_conv_3x3', 0), ('skip_connect', 2), ('sep_conv_3x3', 2), ('skip_connect', 3)],
            reduce_concat=range(2, 6))"""),
        paper=_ISTA_NAS,
        arxiv="2010.06176",
        source="iboing/ISTA-NAS",
        dataset="imagenet",
        claimed_error=24.0,
        claim="ImageNet top-1, mobile setting",
        claimed_params_millions=5.65,
        params=5_651_392,
        note="one-stage, searched on ImageNet; the remark on ISTA_NAS_ONE_STAGE holds here too",
    ),
    ZooEntry(
        genotype=from_text("""DRNAS_CIFAR = Genotype(
            normal=[('sep_conv_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2),
                    ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2), ('dil_conv_5x5', 3)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('dil_conv_5x5', 2), ('sep_conv_5x5', 1),
                    ('sep_conv_5x5', 1), ('dil_conv_5x5', 3), ('skip_connect', 4), ('sep_conv_5x5', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_DRNAS,
        arxiv="2006.10355",
        source="xiangning-chen/DrNAS",
        dataset="cifar10",
        claimed_error=2.46,
        claim="CIFAR-10 top-1, cutout, 2.46 ± 0.03",
        claimed_params_millions=4.1,
        params=4_099_294,
    ),
    ZooEntry(
        genotype=from_text("""DRNAS_IMAGENET = Genotype(
            normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                    ('sep_conv_3x3', 0), ('dil_conv_3x3', 3), ('skip_connect', 0), ('sep_conv_3x3', 1)],
            normal_concat=range(2, 6),
            reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2),
                    ('sep_conv_3x3', 0), ('sep_conv_3x3', 2), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1)],
            reduce_concat=range(2, 6))"""),
        paper=_DRNAS,
        arxiv="2006.10355",
        source="xiangning-chen/DrNAS",
        dataset="imagenet",
        claimed_error=23.7,
        claim="ImageNet top-1, mobile setting",
        claimed_params_millions=5.7,
        params=5_726_368,
        note="searched on ImageNet",
    ),
)

ZOO: dict[str, ZooEntry] = {str(entry.genotype.name): entry for entry in _ENTRIES}
"""Name -> published architecture."""

_SPELLINGS = {_spelling(name): name for name in ZOO} | {
    _spelling("PCDARTS"): "PC_DARTS_CIFAR",
    _spelling("PC_DARTS_image"): "PC_DARTS_IMAGENET",
    _spelling("GDAS_V1"): "GDAS",
}
"""Key of a spelling -> name; including other names that the authors' own code uses."""
