"""Models, datasets and optimizers by name: what there is, what it takes, where its code lives.

Imports no torch, so that the web process can show the catalog and stay small. `build` names the code as
`"module:function"`; the trainer imports it. The data sets are in `ml.datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ml.datasets import DATASETS as DATASETS
from ml.datasets import Dataset as Dataset


class ModelOptions(BaseModel):
    """Base of every model's own options: closed, so that a misspelt option is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LeNetOptions(ModelOptions):
    activation: Literal["sigmoid", "tanh", "relu"] = Field(
        "sigmoid", title="Activation", description="The homework uses sigmoid; ReLU learns far faster."
    )
    pooling: Literal["max", "avg"] = Field(
        "max", title="Pooling", description="The homework uses max-pooling; the 1998 paper averaged."
    )
    init: Literal["default", "xavier"] = Field(
        "default",
        title="Initialisation",
        description="PyTorch's default, or Xavier uniform with zero biases.",
    )


class AlexNetOptions(ModelOptions):
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Dropout",
        description="Chance that a unit of the first two linear layers is dropped.",
    )


class AlexNet224Options(ModelOptions):
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Dropout",
        description="Chance that an input of the first two linear layers is dropped.",
    )
    image_size: int = Field(
        224,
        ge=64,
        le=512,
        title="Image size",
        description="Images are enlarged to so many pixels a side, as the network was made for photographs; fewer "
        "cost less time.",
    )


class PretrainedOptions(ModelOptions):
    backbone: Literal["full", "frozen"] = Field(
        "full",
        title="Fine-tuning",
        description="Full: all weights go on learning. Frozen: only the new last layer learns, which is quicker.",
    )
    image_size: int = Field(
        224,
        ge=64,
        le=512,
        title="Image size",
        description="Images are enlarged to so many pixels a side, as the network was made for photographs; fewer "
        "cost less time.",
    )


class MLPOptions(ModelOptions):
    layers: int = Field(
        2, ge=1, le=8, title="Hidden layers", description="Linear layers with ReLU before the last."
    )
    width: int = Field(256, ge=1, le=4_096, title="Width", description="Units of a hidden layer.")
    dropout: float = Field(
        0.0, ge=0, lt=1, title="Dropout", description="Chance that a hidden unit is dropped."
    )


class ResNetOptions(ModelOptions):
    residual: bool = Field(
        True,
        title="Shortcuts",
        description="Off: the plain net of the same depth, to see what the shortcut buys.",
    )


@dataclass(frozen=True)
class Pretrained:
    """The file of weights that a model starts from, in the folder `weights` of the datasets folder.

    Its name is torchvision's, which ends with the first digits of the file's SHA-256.
    """

    file: str
    download_mb: int

    @property
    def sha256_prefix(self) -> str:
        return self.file.rpartition(".")[0].rpartition("-")[2]

    def path_in(self, root: Path) -> Path:
        return root / "weights" / self.file


@dataclass(frozen=True)
class Model:
    """One architecture.

    `recipe` holds the spec fields that learn well with it: what the form fills in when the model is chosen.
    `parameters` counts the trainable numbers for one 28x28 grey channel and ten classes, with default
    options. `smallest` is the least height and width of images that its layers do not use up; batch normalisation
    needs a map of more than one pixel, or it fails on a last batch of one image. A pretrained one scales its input as
    its weights expect.
    """

    name: str
    title: str
    summary: str
    paper: str
    build: str
    parameters: int
    options: type[ModelOptions]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    smallest: int = 1
    pretrained: Pretrained | None = None


@dataclass(frozen=True)
class Choice:
    """One value of a closed spec field, with the words the form shows for it."""

    name: str
    title: str
    summary: str


MODELS: dict[str, Model] = {
    m.name: m
    for m in (
        Model(
            "lenet",
            "LeNet",
            "Two small convolutions and three linear layers; the homework's first network.",
            "LeCun et al. 1998, Gradient-based learning applied to document recognition",
            "ml.models.lenet:build",
            44_426,
            LeNetOptions,
            {
                "optimizer": "sgd",
                "lr": 0.05,
                "momentum": 0.9,
                "schedule": "onecycle",
                "model_options": {"activation": "relu"},
            },
            smallest=16,
        ),
        Model(
            "mlp",
            "MLP",
            "Two hidden linear layers over the pixels in a row: the baseline without convolutions.",
            "Rumelhart, Hinton, Williams 1986, Learning representations by back-propagating errors",
            "ml.models.mlp:build",
            269_322,
            MLPOptions,
            {"optimizer": "adamw", "lr": 0.001, "schedule": "onecycle"},
        ),
        Model(
            "alexnet",
            "AlexNet",
            "Five convolutions and three linear layers with ReLU and dropout, scaled to 28x28.",
            "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks",
            "ml.models.alexnet:build",
            1_555_898,
            AlexNetOptions,
            {"optimizer": "adamw", "lr": 0.001, "schedule": "onecycle"},
            smallest=15,
        ),
        Model(
            "alexnet224",
            "AlexNet-224",
            "torchvision's AlexNet at its own size: images enlarged to 224x224, 57 million weights; wants a GPU.",
            "Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks",
            "ml.models.alexnet224:build",
            57_044_810,
            AlexNet224Options,
            {"optimizer": "adamw", "lr": 0.0003, "schedule": "onecycle"},
        ),
        Model(
            "resnet8",
            "ResNet-8",
            "The smallest residual net of the paper's CIFAR family: three stages of one block.",
            "He et al. 2016, Deep residual learning for image recognition, section 4.2",
            "ml.models.resnet:resnet8",
            75_002,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=5,
        ),
        Model(
            "resnet20",
            "ResNet-20",
            "The paper's CIFAR family with three blocks a stage.",
            "He et al. 2016, Deep residual learning for image recognition, section 4.2",
            "ml.models.resnet:resnet20",
            269_434,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=5,
        ),
        Model(
            "resnet56",
            "ResNet-56",
            "The paper's CIFAR family with nine blocks a stage: deep enough that the plain net falls behind.",
            "He et al. 2016, Deep residual learning for image recognition, section 4.2",
            "ml.models.resnet:resnet56",
            852_730,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=5,
        ),
        Model(
            "resnet18",
            "ResNet-18",
            "The paper's ImageNet net with a 3x3 stem for small images; wants a GPU for full MNIST.",
            "He et al. 2016, Deep residual learning for image recognition, table 1",
            "ml.models.resnet:resnet18",
            11_172_810,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=9,
        ),
        Model(
            "resnet34",
            "ResNet-34",
            "The paper's ImageNet net with 34 layers and a 3x3 stem for small images; wants a GPU.",
            "He et al. 2016, Deep residual learning for image recognition, table 1",
            "ml.models.resnet:resnet34",
            21_280_970,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=9,
        ),
        Model(
            "resnet50",
            "ResNet-50",
            "The paper's ImageNet net of bottleneck blocks and a 3x3 stem for small images; wants a GPU.",
            "He et al. 2016, Deep residual learning for image recognition, table 1 and figure 5",
            "ml.models.resnet:resnet50",
            23_519_690,
            ResNetOptions,
            {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"},
            smallest=9,
        ),
        Model(
            "resnet18-pretrained",
            "ResNet-18 pretrained",
            "torchvision's ResNet-18, trained on a million photographs and fine-tuned here on images enlarged to "
            "224x224; wants a GPU.",
            "He et al. 2016, Deep residual learning for image recognition, table 1; weights of torchvision",
            "ml.models.pretrained:resnet18",
            11_181_642,
            PretrainedOptions,
            # As PyTorch's tutorial on transfer learning has it.
            {"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "schedule": "cosine"},
            pretrained=Pretrained("resnet18-f37072fd.pth", 47),
        ),
    )
}

OPTIMIZERS: dict[str, Choice] = {
    c.name: c
    for c in (
        Choice("sgd", "SGD", "Stochastic gradient descent, with momentum if given."),
        Choice("adam", "Adam", "Adaptive moments; weight decay is added to the gradient."),
        Choice("adamw", "AdamW", "Adam with decoupled weight decay."),
        Choice(
            "muon", "Muon", "Orthogonal steps for the hidden layers, with momentum; AdamW for the others."
        ),
    )
}

SCHEDULES: dict[str, Choice] = {
    c.name: c
    for c in (
        Choice("constant", "Constant", "The learning rate stays as given."),
        Choice("cosine", "Cosine", "Falls from the given rate to zero along half a cosine."),
        Choice("step", "Step decay", "Divided by ten at one half and at three quarters of the steps."),
        Choice(
            "onecycle", "One-cycle", "Rises to the given rate in the first 30 %, then falls to nearly zero."
        ),
    )
}
