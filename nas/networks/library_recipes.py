"""How networks of torchvision and timm are trained: torchvision's own published protocols, by family.

The constants are those of `references/classification` in torchvision's repository: its README lists the flags of each
family, and its `train.py` the constants of the optimizers. A batch there is that of eight GPUs together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from nas.engine.training import TrainingConfig

#: Of the reference, as for ResNet.
_DEFAULT = TrainingConfig(
    learning_rate=0.1, schedule="step", milestones=(1 / 3, 2 / 3), gamma=0.1, weight_decay=1e-4, grad_clip=None
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained, but for the images."""

    training: TrainingConfig = _DEFAULT
    epochs: int = 90
    batch_size: int = 256

    def scaled(self, *, epochs: int, batch_size: int) -> Recipe:
        """The same protocol in other epochs and batches.

        The learning rate is proportional to the batch (Goyal et al., arXiv:1706.02677, sec. 2.1), and falls at the same
        shares of the epochs: an exponential one by the same factor in all.
        """
        training = replace(self.training, learning_rate=self.training.learning_rate * batch_size / self.batch_size)
        if training.schedule == "exponential":
            decays = self.epochs / training.decay_every
            training = replace(training, gamma=training.gamma ** (decays / epochs), decay_every=1)
        return Recipe(training=training, epochs=epochs, batch_size=batch_size)


#: By what a name begins with, underscores left out; timm spells mobilenet_v3_small as mobilenetv3_small_100.
_FAMILIES = {
    # Without BatchNorm, which the default learning rate is too large for.
    r"alexnet|vgg\d+(?!.*bn)": Recipe(training=replace(_DEFAULT, learning_rate=0.01)),
    r"resnext": Recipe(epochs=100),
    r"mobilenetv2": Recipe(
        training=TrainingConfig(
            learning_rate=0.045, schedule="exponential", gamma=0.98, weight_decay=4e-5, grad_clip=None
        ),
        epochs=300,
    ),
    r"mobilenetv3": Recipe(
        training=TrainingConfig(
            optimizer="rmsprop",
            learning_rate=0.064,
            schedule="exponential",
            gamma=0.973,
            decay_every=2,
            weight_decay=1e-5,
            grad_clip=None,
        ),
        epochs=600,
        batch_size=1024,
    ),
}


def recipe(name: str) -> Recipe:
    """The protocol of a network such as torchvision:resnet18.

    AlexNet and VGG, ResNeXt, MobileNetV2 and MobileNetV3 have protocols of their own. All others have the defaults of
    the reference, even those that it trains with more than this program has: AdamW, a warm-up of the learning rate,
    mixed images. Its automatic augmentation and random erasing (MobileNetV3) are left out too.
    """
    network = name.partition(":")[2].replace("_", "")
    return next((own for family, own in _FAMILIES.items() if re.match(family, network)), Recipe())
