"""torchvision's ResNet-18 with the weights that it learned on ImageNet, fine-tuned on another data set.

He et al. 2016, table 1, as torchvision has it: a 7x7 stem of stride 2 and a pooling, for photographs of 224x224.
torchvision reports 69.758 % top-1 accuracy on ImageNet for these weights. The last layer is new, drawn from PyTorch's
default. Small images are enlarged, a grey one counts as three equal channels, and pixels in 0..1 get
ImageNet's mean and deviation, as the weights expect.

With a frozen backbone only that last layer learns; batch normalisation keeps ImageNet's statistics.

B batch, C channels, H height, W width, K classes, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models import resnet18 as torchvision_resnet18

from ml.catalog import PretrainedOptions
from ml.models.photographs import Photographs

HEAD = ("fc.weight", "fc.bias")


def resnet18(options: PretrainedOptions, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Images [B, *shape] in 0..1 -> logits [B, classes]; 11,181,642 parameters for 10 classes, 5,130 of them new.

    Its backbone is drawn at random until `start_from` gives it its weights.
    """
    net = torchvision_resnet18(weights=None, num_classes=classes)
    return FineTuned(Photographs(shape[0], options.image_size, normalize=True), net, options.backbone)


class FineTuned(nn.Module):
    """Images -> `photographs` [B, 3, S, S] -> `net` [B, K]."""

    def __init__(self, photographs: Photographs, net: ResNet, backbone: str) -> None:
        super().__init__()
        self.photographs, self.net = photographs, net
        self.frozen = backbone == "frozen"
        for name, parameter in net.named_parameters():
            parameter.requires_grad = not self.frozen or name in HEAD

    def train(self, mode: bool = True) -> FineTuned:
        super().train(mode)
        if self.frozen:
            self.net.eval()  # or batch normalisation would go on learning its statistics
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.photographs(x))  # type: ignore[no-any-return]


def start_from(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights of torchvision's ResNet-18 into the backbone, without its last layer for ImageNet's classes.

    Raises:
        ValueError: `weights` are not those of this net.
    """
    assert isinstance(model, FineTuned)
    backbone = {name: value for name, value in weights.items() if name not in HEAD}
    try:
        missing, unknown = model.net.load_state_dict(backbone, strict=False)
    except RuntimeError as error:  # a shape differs
        told = " ".join(str(error).split())
        raise ValueError(f"the pretrained weights do not fit this network: {told}") from error
    wrong = [*unknown, *(name for name in missing if name not in HEAD)]
    if wrong:
        raise ValueError(f"the pretrained weights are not of this network: {wrong[0]} is missing or unknown")
