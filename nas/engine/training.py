"""Training a network: the step on a batch, with everything that shapes it but the images and the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from genotypes.config import Common, Config, Count, LessThan, MoreThan, NoneMeans, NotNegative, Share
from nas.data import Batch
from nas.engine.device import Precision, autocast
from nas.engine.optimizers import rmsprop, sgd


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Optimizer, schedule and loss of a training; the defaults are DARTS's for CIFAR."""

    optimizer: Annotated[Literal["sgd", "rmsprop"], Common] = "sgd"
    """SGD, or RMSprop as torchvision trains MobileNetV3."""
    learning_rate: Annotated[NotNegative, Common] = 0.025
    """Initial learning rate (DARTS sec. A.2: 0.025, sec. 3.4: 0.1 on ImageNet; hand-made networks: 0.1)."""
    learning_rate_min: NotNegative = 0.0
    """Learning rate at the end of the cosine schedule (DARTS sec. A.2: 0)."""
    schedule: Literal["cosine", "exponential", "step"] = "cosine"
    """Learning rate by epoch: cosine (DARTS on CIFAR), times --gamma an epoch (exponential, DARTS on ImageNet), or
    times --gamma at each of --milestones (step, hand-made networks)."""
    gamma: NotNegative = 0.97
    """Factor of the exponential schedule (DARTS sec. 3.4: 0.97) and of the step schedule."""
    decay_every: Count = 1
    """Epochs from one --gamma to the next of the exponential schedule (torchvision's MobileNetV3: 2)."""
    milestones: Annotated[tuple[float, ...], MoreThan(0), LessThan(1)] = (0.5, 0.75)
    """Shares of the epochs after which the step schedule lowers the learning rate."""
    momentum: Share = 0.9
    """Momentum (DARTS sec. A.2: 0.9)."""
    nesterov: bool = False
    """Take Nesterov's form of SGD's momentum."""
    weight_decay: Annotated[NotNegative, Common] = 3e-4
    """Weight decay (DARTS sec. A.2: 3e-4, sec. 3.4: 3e-5 on ImageNet; hand-made networks: 1e-4)."""
    grad_clip: Annotated[float | None, MoreThan(0), NoneMeans("no clipping")] = 5.0
    """Gradient-clipping norm (DARTS's code: 5); None disables it."""
    label_smoothing: Share = 0.0
    """Label smoothing (DARTS sec. 3.4: 0.1 on ImageNet)."""
    auxiliary_weight: NotNegative = 0.4
    """Weight of the auxiliary head's loss (DARTS sec. 3.2: 0.4)."""
    ema_decay: Annotated[float | None, MoreThan(0), LessThan(1), NoneMeans("no average")] = None
    """Measure and save the exponential moving average of the weights over the steps, with this decay, such as 0.9999
    (Szegedy et al., CVPR 2016, sec. 8, after Polyak and Juditsky 1992), instead of the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("--nesterov needs a --momentum larger than 0")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("--nesterov is for --optimizer sgd; leave it out")


class Training:
    """A network, its optimizer, and the average of its weights where one is kept.

    Args:
        config: optimizer, schedule and loss.
        network: gives logits (N, classes), or in training mode the pair of them and those of an auxiliary head.
        precision: of the forward passes.

    Attributes:
        measured: what is tested and saved, the average or the network itself.
    """

    def __init__(self, config: TrainingConfig, network: nn.Module, precision: Precision) -> None:
        self.config, self.network, self.precision = config, network, precision
        constants = {"momentum": config.momentum, "weight_decay": config.weight_decay}
        self.optimizer: Optimizer = (
            sgd(network.parameters(), learning_rate=config.learning_rate, nesterov=config.nesterov, **constants)
            if config.optimizer == "sgd"
            else rmsprop(network.parameters(), learning_rate=config.learning_rate, **constants)
        )
        self.average: AveragedModel | None = None
        if config.ema_decay is not None:
            # The statistics of BatchNorm too. It counts its updates on the CPU, which waits for nothing, and does
            # not count those of a captured step, which does not matter after the first.
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        self.measured = network if self.average is None else self.average.module
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def schedule(self, epochs: int) -> lr_scheduler.LRScheduler:
        """The optimizer's learning rate over a training of so many epochs, to be stepped after each."""
        config = self.config
        if config.schedule == "exponential":
            return lr_scheduler.StepLR(self.optimizer, config.decay_every, config.gamma)
        if config.schedule == "step":
            # Rounded up and never 0: the first epoch has the initial rate. 1e-9 is for shares such as 0.1 * 3.
            after = [max(1, math.ceil(share * epochs - 1e-9)) for share in config.milestones]
            return lr_scheduler.MultiStepLR(self.optimizer, after, config.gamma)
        return lr_scheduler.CosineAnnealingLR(self.optimizer, epochs, eta_min=config.learning_rate_min)

    def training_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step on a batch; gives its loss and its logits (N, classes)."""
        self.optimizer.zero_grad()
        with autocast(batch[0].device, self.precision):
            loss, logits = self._loss(*batch)
        loss.backward()
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.detach(), logits.detach()

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, with the weighted one of the auxiliary head where the network has it, and the logits."""
        output = self.network(x)
        if isinstance(output, Tensor):
            return self._criterion(output, y), output
        logits, auxiliary = output
        return self._criterion(logits, y) + self.config.auxiliary_weight * self._criterion(auxiliary, y), logits
