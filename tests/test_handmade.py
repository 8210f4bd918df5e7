"""The hand-made networks: sizes, special cases, and every name of the registry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from nas.errors import UsageError
from nas.networks import handmade
from nas.networks.architecture import HandmadeArchitecture
from nas.networks.cost import count_macs, count_parameters
from nas.networks.handmade import HandmadeConfig
from nas.networks.handmade import __main__ as costs
from nas.networks.handmade.dense import DenseBlock, DenseLayer
from nas.networks.handmade.residual import HeavyBallNetwork, MergeAndRunNetwork, cifar_plan
from nas.networks.handmade.torchvision_names import from_torchvision_state_dict
from nas.networks.handmade.units import PadShortcut, cifar_stem, imagenet_stem
from nas.theory.iterations import h_table, nesterov_momentum

#: Parameters, as the layers of the papers add up to (tables 3 to 5 round them); CIFAR-10 or ImageNet.
PARAMETERS = {
    **dict.fromkeys(("resnet56", "hbnet56"), 853_018),
    **dict.fromkeys(("resnet110", "hbnet110"), 1_727_962),
    **dict.fromkeys(("resnet34", "hbnet34"), 21_797_672),
    **dict.fromkeys(("resnet50", "hbnet50"), 25_557_032),
    **dict.fromkeys(("resnet101", "hbnet101"), 44_549_160),
    "densenet40": 1_019_722,
    "agdnet40": 1_019_722 + 234,
    "densenet52": 1_785_466,
    "agdnet52": 1_785_466 + 408,
    "densenet121": 7_978_856,
    "agdnet121": 7_978_856 + 535,
}
#: Multiply-adds of one 224x224 image, in millions.
MACS = {
    **dict.fromkeys(("resnet34", "hbnet34"), 3664),
    **dict.fromkeys(("resnet50", "hbnet50"), 3858),
    **dict.fromkeys(("resnet101", "hbnet101"), 7570),
    **dict.fromkeys(("densenet121", "agdnet121"), 2834),
}
IMAGENET = {name for name in handmade.names() if handmade.is_imagenet(name)}
#: The shallowest network of each family, for what need not be tried at every depth.
SMALLEST = {"resnet": "resnet8", "hbnet": "hbnet8", "dmrnet": "dmrnet8", "densenet": "densenet7", "agdnet": "agdnet7"}
#: The shallowest of each code path of the ImageNet form; agdnet121 is densenet121 with more to trace.
OF_IMAGENET = ("resnet34", "resnet50", "hbnet34", "hbnet50", "agdnet121")


def form(name: str) -> dict[str, object]:
    if name in IMAGENET:
        return {"in_channels": 3, "image_size": (224, 224), "num_classes": 1000}
    return {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}


def on_meta(name: str, config: HandmadeConfig | None = None, **changed: object) -> nn.Module:
    with torch.device("meta"):
        return handmade.build(name, config, **{**form(name), **changed})


def residual_parameters(units: int, *, paths: int, classes: int) -> int:
    """Weights of a CIFAR ResNet with `paths` branches, counted layer by layer."""
    total, width = 3 * 16 * 9 + 2 * 16, 16
    for channels in (16, 32, 64):
        for _ in range(units):
            total += paths * (width * channels * 9 + channels * channels * 9 + 2 * 2 * channels)
            width = channels
    return total + 64 * classes + classes


@pytest.mark.parametrize("name", handmade.names())
def test_parameters(name: str) -> None:
    network = on_meta(name)
    family, depth = name.rstrip("0123456789"), int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    if name in PARAMETERS:
        assert count_parameters(network) == PARAMETERS[name]
    else:
        paths = 2 if family == "dmrnet" else 1
        assert count_parameters(network) == residual_parameters((depth - 2) // 6, paths=paths, classes=10)


def test_parameters_of_variants() -> None:
    assert count_parameters(on_meta("resnet56", num_classes=100)) == 858_868
    assert count_parameters(on_meta("hbnet110", num_classes=100)) == 1_733_812
    assert count_parameters(on_meta("resnet56", HandmadeConfig(shortcut="projection"))) == 855_770
    assert count_parameters(on_meta("resnet110", HandmadeConfig(shortcut="projection"))) == 1_730_714
    # 50 = 6 * 8 + 2, 121 = 3 * 39 + 4: a depth of ImageNet and of CIFAR.
    cifar = HandmadeConfig(form="cifar")
    in_form = {"image_size": (32, 32), "num_classes": 10}
    assert count_parameters(on_meta("resnet50", cifar, **in_form)) == residual_parameters(8, paths=1, classes=10)
    deep = on_meta("agdnet121", cifar, **in_form)
    alphas = sum(p.numel() for n, p in deep.named_parameters() if n.endswith(".alpha"))
    assert alphas == 3 * 39 * 40 // 2


@pytest.mark.parametrize("name", sorted(MACS))
def test_multiply_adds(name: str) -> None:
    assert round(count_macs(on_meta(name), 3, (224, 224)) / 1e6) == MACS[name]


def test_the_stride_of_a_bottleneck() -> None:
    with_3x3 = on_meta("resnet50", HandmadeConfig(bottleneck_stride="3x3"))
    assert round(count_macs(with_3x3, 3, (224, 224)) / 1e6) == 4089


# --- every name ---------------------------------------------------------------------------------------------


def small_images(name: str) -> tuple[HandmadeArchitecture, dict[str, object], Tensor]:
    side = 32 if name in IMAGENET else 8
    shape = {"in_channels": 1, "image_size": (side, side), "num_classes": 3}
    return HandmadeArchitecture(name=name, config=HandmadeConfig()), shape, torch.randn(2, 1, side, side)


@pytest.mark.slow
@pytest.mark.parametrize("name", handmade.names())
def test_every_network_learns_and_comes_back(name: str) -> None:
    architecture, shape, x = small_images(name)
    torch.manual_seed(0)
    network = architecture.build(**shape)
    logits = network(x)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    again = architecture.build(**shape)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), network.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALLEST.values(), *OF_IMAGENET])
def test_every_kind_of_network_compiles_whole(name: str) -> None:
    architecture, shape, x = small_images(name)
    network = architecture.build(**shape).eval()
    torch.compiler.reset()
    # The backend that runs the graph as it was traced: what can fail is the tracing.
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("name", SMALLEST.values(), ids=SMALLEST)
def test_every_weight_of_every_family_learns(name: str) -> None:
    torch.manual_seed(0)
    network = handmade.build(name, in_channels=1, image_size=(8, 8), num_classes=3)
    network(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert set(SMALLEST) == set(handmade.FAMILIES)
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


# --- special cases ------------------------------------------------------------------------------------------


def outputs_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The output for x, and its gradients, those of the weights in the order of their names."""
    x = x.clone().requires_grad_()
    y = network(x)
    weights = [p for _, p in sorted(network.named_parameters())]
    return [y, *torch.autograd.grad(y.square().sum(), [x, *weights])]


class PlainResidual(nn.Module):
    """A ResNet written down the usual way, over the modules of another network."""

    def __init__(self, network: HeavyBallNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        net = self.network
        x = net.stem(x)
        for stage in net.stages:
            for k, unit in enumerate(stage.layers):
                x = (unit(x) + (stage.shortcut(x) if k == 0 else x)).relu()
        return net.classifier(x.mean((2, 3)))


class PlainHeavyBall(nn.Module):
    """An HB-Net: x_1 = T(u) + x_0, then x_{k+1} = T(x_k) + x_k - x_{k-1}, anew in every stage."""

    def __init__(self, network: HeavyBallNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        net = self.network
        x = net.stem(x)
        for stage in net.stages:
            before = stage.shortcut(x)
            x = stage.layers[0](x) + before
            for unit in stage.layers[1:]:
                x, before = unit(x) + x - before, x
        return net.classifier(x.relu().mean((2, 3)))


@pytest.mark.parametrize(("name", "plain"), [("resnet20", PlainResidual), ("hbnet20", PlainHeavyBall)])
def test_resnet_and_hbnet_are_what_they_are(name: str, plain: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = handmade.build(name, in_channels=3, image_size=(8, 8), num_classes=4).double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for ours, theirs in zip(outputs_and_gradients(network, x), outputs_and_gradients(plain(network), x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_without_its_momentum_an_hbnet_is_a_resnet() -> None:
    torch.manual_seed(0)
    plan = cifar_plan(14)
    resnet = handmade.build("resnet14", image_size=(8, 8))
    network = HeavyBallNetwork(plan, beta2=0.0, relu_after_sum=True).to(memory_format=torch.channels_last)
    network.load_state_dict(resnet.state_dict())
    x = torch.randn(3, 3, 8, 8)
    for ours, theirs in zip(outputs_and_gradients(network, x), outputs_and_gradients(resnet, x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("hbnet14", {"beta1": (1.0,), "beta2": (-1.0,)}),
        ("hbnet14", {"beta1": (1.0,) * 6, "beta2": (-1.0,) * 6}),
        ("agdnet10", {"beta": 0.1}),
    ],
)
def test_the_coefficients_of_the_papers_given_as_options_change_no_bit(name: str, given: dict[str, Any]) -> None:
    networks = []
    for config in (None, HandmadeConfig(**given)):
        torch.manual_seed(0)
        networks.append(handmade.build(name, config, image_size=(8, 8)))
    ours, theirs = (network.state_dict() for network in networks)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    x = torch.randn(3, 3, 8, 8)
    for a, b in zip(*(outputs_and_gradients(network, x) for network in networks), strict=True):
        assert torch.equal(a, b)


class GivenBetas(nn.Module):
    """Eq. (16) with given rows (beta1, beta2) of all units."""

    def __init__(self, network: HeavyBallNetwork, betas: list[tuple[float, float]], first: str) -> None:
        super().__init__()
        self.network, self.betas, self.first = network, betas, first

    def forward(self, x: Tensor) -> Tensor:
        net, betas = self.network, iter(self.betas)
        x = net.stem(x)
        for stage in net.stages:
            u, x = x, stage.shortcut(x)
            before = x if self.first == "hb" else 0 * x
            for k, unit in enumerate(stage.layers):
                beta1, beta2 = next(betas)
                x, before = unit(u if k == 0 else x) + beta1 * x + beta2 * before, x
        return net.classifier(x.relu().mean((2, 3)))


@pytest.mark.parametrize("first", ["plain", "hb"])
@pytest.mark.parametrize("learn", [False, True])
def test_hbnets_of_other_coefficients(first: Any, learn: bool) -> None:
    torch.manual_seed(0)
    beta1, beta2 = [0.5, 0.75, 1.0, 1.25, 1.5, 0.25], [-0.5, -1.0, 0.5, -0.25, 0.0, -0.75]
    config = HandmadeConfig(beta1=tuple(beta1), beta2=tuple(beta2), learn_betas=learn, first_unit=first)
    network = handmade.build("hbnet14", config, image_size=(8, 8)).double()
    plain = GivenBetas(network, list(zip(beta1, beta2, strict=True)), first)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain(x), rtol=1e-10, atol=1e-10)
    added = count_parameters(network) - count_parameters(handmade.build("hbnet14"))
    assert added == (0 if not learn else 12 if first == "hb" else 9)
    if learn:
        network(x).square().sum().backward()
        for stage in network.stages:
            assert stage.coefficients.values.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("hbnet14", {"beta1": (1.0, 1.0)}, "hbnet14: --beta1 has 2 numbers; give one, or 6, one for each unit"),
        ("hbnet14", {"beta2": (float("nan"),)}, "--beta2 has nan; each must be a finite number"),
        ("hbnet14", {"beta2": ()}, "--beta2 is empty; give one number"),
        ("agdnet10", {"beta": float("inf")}, "--beta is inf; it must be a finite number"),
        ("resnet14", {"beta2": (-1.0,)}, "--beta2 is not for resnet; leave it out"),
        ("densenet10", {"beta": 0.1}, "--beta is not for densenet; leave it out"),
        ("agdnet10", {"learn_betas": True}, "--learn-betas is not for agdnet; leave it out"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        handmade.build(name, HandmadeConfig(**given), image_size=(8, 8))


def test_agdnet_takes_its_beta() -> None:
    network = handmade.build("agdnet10", HandmadeConfig(beta=0.25), image_size=(8, 8))
    assert [block.beta for block in network.blocks] == [0.25] * 3


def test_with_equal_paths_a_dmrnet_is_a_resnet() -> None:
    """Both paths get (x' + x) / 2 = x, so with the same weights they stay equal."""
    torch.manual_seed(0)
    resnet = HeavyBallNetwork(cifar_plan(14), beta2=0.0, relu_after_sum=True).eval()
    twice = MergeAndRunNetwork(cifar_plan(14)).eval()
    state = resnet.state_dict()
    paths = {name.replace(".layers.", ".layers_prime."): value for name, value in state.items()}
    twice.load_state_dict({**state, **paths})
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(twice(x), resnet(x))


def test_with_alpha_1_and_beta_0_an_agdnet_is_a_densenet() -> None:
    torch.manual_seed(0)
    dense = DenseBlock(5, 4, 3)
    accelerated = DenseBlock(5, 4, 3, learn_alpha=True)
    missing = accelerated.load_state_dict(dense.state_dict(), strict=False).missing_keys
    assert missing == [f"layers.{k}.alpha" for k in range(4)]
    x = torch.randn(2, 5, 6, 6)
    ours, theirs = outputs_and_gradients(accelerated, x), outputs_and_gradients(dense, x)
    shared = [i for i, (name, _) in enumerate(sorted(accelerated.named_parameters())) if not name.endswith("alpha")]
    for a, b in zip([*ours[:2], *(ours[2 + i] for i in shared)], theirs, strict=True):
        assert torch.equal(a, b)


def plain_sum(layer: DenseLayer, states: list[Tensor]) -> Tensor:
    """sum_j alpha_j T_j(z_j) by one BatchNorm, ReLU and convolution for every j, then what follows the sum."""
    total, first = torch.zeros(()), 0
    norm = layer.norm1
    for j, z in enumerate(states):
        part = slice(first, first + z.shape[1])
        h = nn.functional.batch_norm(z, None, None, norm.weight[part], norm.bias[part], training=True).relu()
        image = nn.functional.conv2d(h, layer.conv1.weight[:, part], padding=layer.conv1.padding)
        total = total + (1.0 if layer.alpha is None else layer.alpha[j]) * image
        first += z.shape[1]
    return layer.rest(total)


@pytest.mark.parametrize("bottleneck", [None, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_one_convolution_is_the_plain_sum(bottleneck: int | None, dtype: torch.dtype, tolerance: float) -> None:
    """Eq. (21) as it is written: k convolutions a layer, and the double sum over h."""
    torch.manual_seed(0)
    m, beta = 5, 0.1
    block = DenseBlock(7, m, 3, bottleneck, beta=beta, learn_alpha=True).to(dtype)
    for layer in block.layers:
        nn.init.normal_(layer.alpha)
    z = torch.randn(4, 7, 6, 6, dtype=dtype)
    h = h_table(nesterov_momentum(m + 1))
    states = [z]
    for k, layer in enumerate(block.layers):
        z_next = plain_sum(layer, states)
        if k > 0:
            # z_0 has h = 0 here; at k = 0 the bracket is z_0 - z_0.
            assert h[k + 1][0] == 0
            z_next = z_next + beta * (states[k] - sum(h[k + 1][j] * states[j] for j in range(1, k + 1)))
        else:
            assert h[1][0] == 1
        states.append(z_next)
    for ours, theirs in zip(block.states(z), states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101", "densenet121"])
def test_the_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # or a wrong name of a statistic would not show
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.9, 1.1)
    config = HandmadeConfig(bottleneck_stride="3x3" if name in ("resnet50", "resnet101") else None)
    ours = handmade.build(name, config, image_size=(64, 64), num_classes=1000).eval()
    ours.load_state_dict(from_torchvision_state_dict(theirs.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert ((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_names_that_are_not_torchvisions() -> None:
    with pytest.raises(ValueError, match="'layer1.0.conv' is not a weight"):
        from_torchvision_state_dict({"layer1.0.conv": torch.zeros(())})


# --- what the names build -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("densenet7", (0.0, False)), ("agdnet7", (0.1, True)), ("densenet121", (0.0, False)), ("agdnet121", (0.1, True))],
)
def test_agdnet_has_momentum_and_learned_alpha_in_every_block(name: str, expected: tuple[float, bool]) -> None:
    for block in on_meta(name).blocks:
        assert all((block.beta, layer.alpha is not None) == expected for layer in block.layers)


def test_variants_reach_every_stage() -> None:
    network = handmade.build("hbnet8", HandmadeConfig(first_unit="hb", relu_after_sum=True))
    assert all((s.first, type(s.activation)) == ("hb", nn.ReLU) for s in network.stages)
    network = handmade.build("hbnet8")
    assert all((s.first, type(s.activation)) == ("plain", nn.Identity) for s in network.stages)
    paths = handmade.build("dmrnet8", HandmadeConfig(shortcut="projection")).stages[1]
    assert isinstance(paths.shortcut, nn.Sequential)
    assert isinstance(paths.shortcut_prime, nn.Sequential)
    assert isinstance(on_meta("resnet50", HandmadeConfig(shortcut="pad")).stages[1].shortcut, PadShortcut)


def test_the_shortcut_without_weights() -> None:
    x = torch.randn(2, 3, 5, 6)
    y = PadShortcut(2, 2)(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert (y[:, 3:] == 0).all()
    assert y.shape == (2, 5, 3, 3)


def test_initialization() -> None:
    torch.manual_seed(0)
    network = handmade.build("resnet20", num_classes=100)
    conv, classifier = network.stages[2].layers[0].conv1, network.classifier
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.03)
    limit = (6 / (64 + 100)) ** 0.5
    assert classifier.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert (classifier.bias == 0).all()


def test_stems_end_with_relu() -> None:
    x = torch.randn(2, 3, 16, 16)
    for stem, side in ((cifar_stem(3, 8), 16), (imagenet_stem(3, 8), 4)):
        y = stem(x)
        assert y.shape == (2, 8, side, side)
        assert y.min() == 0


# --- what they cost -----------------------------------------------------------------------------------------


def test_the_command_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = costs.command(["hbnet56", "resnet34", "--classes", "100"])["rows"]
    assert [(row["network"], row["image size"], row["classes"]) for row in rows] == [
        ("hbnet56", 32, 100),
        ("resnet34", 224, 100),
    ]
    assert rows[0]["parameters"] == 858_868
    assert "858,868" in capsys.readouterr().out
    assert costs.Costs().networks == handmade.names()
    for flags, told in (
        (["hbnet55"], "not 6n"),
        (["agdnet40", "--image-size", "3"], "needs images of at least 4"),
        (["hbnet56", "--classes", "0"], "--classes is 0; it must be at least 1"),
    ):
        with pytest.raises(UsageError, match=told):
            costs.command(flags)


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("hbnet55", HandmadeConfig(), "hbnet55: a depth of 55 is not 6n [+] 2 with n at least 1; the nearest is 56"),
        ("resnet2", HandmadeConfig(), "not 6n [+] 2"),
        ("agdnet41", HandmadeConfig(), "not 3m [+] 4"),
        ("vggnet16", HandmadeConfig(), "unknown hand-made network 'vggnet16'; known: resnet, hbnet, "),
        ("hbnet", HandmadeConfig(), "unknown hand-made network"),
        ("resnet20", HandmadeConfig(growth=24), "--growth is not for resnet"),
        ("densenet40", HandmadeConfig(first_unit="hb"), "--first-unit is not for densenet"),
        ("resnet20", HandmadeConfig(bottleneck_stride="3x3"), "--bottleneck-stride is for the ImageNet networks"),
        ("resnet34", HandmadeConfig(bottleneck_stride="3x3"), "--bottleneck-stride is for the ImageNet networks"),
        ("resnet56", HandmadeConfig(form="imagenet"), "56 is not available on ImageNet; use one of 34, 50, 101"),
        ("agdnet40", HandmadeConfig(form="imagenet"), "40 is not available on ImageNet; use 121"),
    ],
)
def test_mistakes_are_named(name: str, config: HandmadeConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        handmade.build(name, config)
    assert "\n" not in str(caught.value)


def test_images_that_are_too_small() -> None:
    for name, side in (("densenet7", 4), ("agdnet121", 29)):
        handmade.build(name, image_size=(side, 64))(torch.zeros(2, 3, side, 64))
        with pytest.raises(ValueError, match=f"{name} needs images of at least {side} pixels"):
            handmade.build(name, image_size=(64, side - 1))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"growth": 0}, "--growth is 0"),
        ({"growth": 2.5}, "--growth is 2.5; it must be a whole number"),
        ({"form": "svhn"}, "--form is 'svhn'; it must be cifar or imagenet"),
        ({"bottleneck_stride": "5x5"}, "--bottleneck-stride is '5x5'; it must be 1x1 or 3x3"),
    ],
)
def test_values_that_no_network_has(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HandmadeConfig(**option)


@pytest.mark.parametrize("name", ["hbnet08", "hbnet99999", "HBNet20", "hbnet-20", "./hbnet20"])
def test_a_network_has_one_name(name: str) -> None:
    assert not handmade.is_handmade(name)


def test_a_family_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="family 'hbnet' is already registered"):
        handmade.registry.family("hbnet", listed=(), options=())(handmade.FAMILIES["hbnet"].build)
