"""Every architecture of the catalog: sizes, gradients, options."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, ResNet18_Weights, resnet18

from ml.catalog import MODELS, ResNetOptions
from ml.models import build_model, count_parameters
from ml.models.photographs import Photographs
from ml.models.pretrained import FineTuned, start_from

pytestmark = pytest.mark.usefixtures("one_thread")

GREY = (1, 28, 28)
SMALL_IMAGES = {
    "alexnet224": {"image_size": 64},
    "resnet18-pretrained": {"image_size": 64},
}  # 224 in test_anatomy.py
# Options other than the defaults, each value of each once; by what they come to.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"layers": 1, "dropout": 0.5}),
    ("mlp", {"layers": 3, "width": 24}),
    ("lenet", {"activation": "tanh"}),
    ("lenet", {"activation": "relu"}),
    ("lenet", {"pooling": "avg"}),
    ("lenet", {"init": "xavier"}),
    ("alexnet", {"dropout": 0.0}),
    ("alexnet224", {"dropout": 0.0, "image_size": 64}),
    ("resnet18-pretrained", {"backbone": "frozen", "image_size": 64}),
    *((name, {"residual": False}) for name in MODELS if MODELS[name].options is ResNetOptions),
]


def variant_name(value: object) -> str:
    """What pytest calls it: `lenet`, `pooling=avg`."""
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


IMAGENET = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))  # mean and deviation by channel


def build(name: str, shape: tuple[int, int, int] = GREY, classes: int = 10, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, MODELS[name].options.model_validate(options), shape, classes)


def imagenet_weights() -> dict[str, Tensor]:
    """What torchvision's file holds: a ResNet-18 for 1,000 classes, here with weights of its own."""
    torch.manual_seed(7)
    return dict(resnet18(num_classes=1000).state_dict())


def conv(c_in: int, c_out: int, k: int, bias: bool = True) -> int:
    return c_in * c_out * k * k + c_out * bias


def linear(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out


def resnet_by_hand(widths: tuple[int, ...], blocks: tuple[int, ...], project: bool) -> int:
    total = conv(1, widths[0], 3, bias=False) + 2 * widths[0]
    c_in = widths[0]
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            total += conv(c_in, width, 3, bias=False) + conv(width, width, 3, bias=False) + 4 * width
            if project and c_in != width:
                total += conv(c_in, width, 1, bias=False) + 2 * width
            c_in = width
    return total + linear(c_in, 10)


def bottlenecks_by_hand(widths: tuple[int, ...], blocks: tuple[int, ...], project: bool = True) -> int:
    total = conv(1, widths[0], 3, bias=False) + 2 * widths[0]
    c_in = widths[0]
    for width, count in zip(widths, blocks, strict=True):
        for _ in range(count):
            total += conv(c_in, width, 1, bias=False) + conv(width, width, 3, bias=False) + 4 * width
            total += conv(width, 4 * width, 1, bias=False) + 8 * width
            if project and c_in != 4 * width:
                total += conv(c_in, 4 * width, 1, bias=False) + 8 * width
            c_in = 4 * width
    return total + linear(c_in, 10)


def torchvision_resnet18_by_hand(classes: int) -> int:
    """Table 1: a 7x7 stem over three channels, two blocks of two convolutions a stage, projections where it widens."""
    total = conv(3, 64, 7, bias=False) + 2 * 64
    c_in = 64
    for width in WIDE:
        for _ in range(2):
            total += conv(c_in, width, 3, bias=False) + conv(width, width, 3, bias=False) + 4 * width
            if c_in != width:
                total += conv(c_in, width, 1, bias=False) + 2 * width
            c_in = width
    return total + linear(512, classes)


def alexnet224_by_hand(classes: int) -> int:
    convs = conv(3, 64, 11) + conv(64, 192, 5) + conv(192, 384, 3) + conv(384, 256, 3) + conv(256, 256, 3)
    return convs + linear(256 * 6 * 6, 4096) + linear(4096, 4096) + linear(4096, classes)


WIDE = (64, 128, 256, 512)
BY_HAND = {
    "mlp": linear(784, 256) + linear(256, 256) + linear(256, 10),
    "lenet": conv(1, 6, 5) + conv(6, 16, 5) + linear(256, 120) + linear(120, 84) + linear(84, 10),
    "alexnet": conv(1, 24, 5)
    + conv(24, 64, 5)
    + conv(64, 96, 3)
    + conv(96, 96, 3)
    + conv(96, 64, 3)
    + linear(64 * 2 * 2, 1024)
    + linear(1024, 1024)
    + linear(1024, 10),
    "alexnet224": alexnet224_by_hand(10),
    "resnet18-pretrained": torchvision_resnet18_by_hand(10),
    "resnet8": resnet_by_hand((16, 32, 64), (1, 1, 1), project=False),
    "resnet20": resnet_by_hand((16, 32, 64), (3, 3, 3), project=False),
    "resnet56": resnet_by_hand((16, 32, 64), (9, 9, 9), project=False),
    "resnet18": resnet_by_hand(WIDE, (2, 2, 2, 2), project=True),
    "resnet34": resnet_by_hand(WIDE, (3, 4, 6, 3), project=True),
    "resnet50": bottlenecks_by_hand(WIDE, (3, 4, 6, 3)),
}
# Where an option changes it; a shortcut of option A and all else of VARIANTS has no parameters.
CHANGED = {
    ("mlp", "layers=1,dropout=0.5"): linear(784, 256) + linear(256, 10),
    ("mlp", "layers=3,width=24"): linear(784, 24) + 2 * linear(24, 24) + linear(24, 10),
    ("resnet18-pretrained", "backbone=frozen,image_size=64"): linear(512, 10),
    ("resnet18", "residual=False"): resnet_by_hand(WIDE, (2, 2, 2, 2), project=False),
    ("resnet34", "residual=False"): resnet_by_hand(WIDE, (3, 4, 6, 3), project=False),
    ("resnet50", "residual=False"): bottlenecks_by_hand(WIDE, (3, 4, 6, 3), project=False),
}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_the_catalogs_and_the_papers(name: str) -> None:
    assert count_parameters(build(name)) == MODELS[name].parameters == BY_HAND[name]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_name)
def test_parameter_count_with_other_options(name: str, options: dict[str, Any]) -> None:
    wanted = CHANGED.get((name, variant_name(options)), BY_HAND[name])
    assert count_parameters(build(name, **options)) == wanted


def test_the_variants_hold_every_value_of_every_closed_option() -> None:
    """Defaults apart, which all other tests have; numbers have at least one other value."""
    tried = {(name, option, value) for name, options in VARIANTS for option, value in options.items()}
    for model in MODELS.values():
        for option, field in model.options.model_fields.items():
            values = (not field.default,) if isinstance(field.default, bool) else get_args(field.annotation)
            for value in values:
                assert value == field.default or (model.name, option, value) in tried, (model.name, option)
            if not values:
                assert any((model.name, option) == seen[:2] for seen in tried) or option == "image_size"


def test_torchvisions_nets_have_the_parameters_that_torchvision_publishes() -> None:
    """For the 1,000 classes of ImageNet, as in the `num_params` of its weights."""
    assert alexnet224_by_hand(1000) == AlexNet_Weights.IMAGENET1K_V1.meta["num_params"]
    assert torchvision_resnet18_by_hand(1000) == ResNet18_Weights.IMAGENET1K_V1.meta["num_params"]
    for name in ("alexnet224", "resnet18-pretrained"):
        by_hand = alexnet224_by_hand if name == "alexnet224" else torchvision_resnet18_by_hand
        assert count_parameters(build(name, (3, 32, 32), 1000)) == by_hand(1000)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("shape", "classes"), [(GREY, 10), ((3, 32, 32), 7)])
def test_forward_and_backward_reach_every_parameter(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    assert_learns(build(name, shape, classes, **SMALL_IMAGES.get(name, {})), shape, classes)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_name)
def test_forward_and_backward_with_other_options(name: str, options: dict[str, Any]) -> None:
    assert_learns(build(name, GREY, 10, **options), GREY, 10)


def assert_learns(model: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Logits of the right shape, and a gradient for every parameter that learns and for no other."""
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, classes)
    logits.square().mean().backward()
    for label, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, label
            continue
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().sum() > 0, label


def test_lenet_has_the_homeworks_44426_parameters_and_sigmoids() -> None:
    model = build("lenet")
    assert count_parameters(model) == 44_426
    assert [type(m).__name__ for m in model.children()] == [
        *("Conv2d", "Sigmoid", "MaxPool2d", "Conv2d", "Sigmoid", "MaxPool2d", "Flatten"),
        *("Linear", "Sigmoid", "Linear", "Sigmoid", "Linear"),
    ]


@pytest.mark.parametrize(
    ("activation", "kind"), [("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("relu", nn.ReLU)]
)
def test_lenet_activation(activation: str, kind: type[nn.Module]) -> None:
    assert sum(isinstance(m, kind) for m in build("lenet", activation=activation).modules()) == 4


@pytest.mark.parametrize(("pooling", "kind"), [("max", nn.MaxPool2d), ("avg", nn.AvgPool2d)])
def test_lenet_pooling(pooling: str, kind: type[nn.Module]) -> None:
    assert sum(isinstance(m, kind) for m in build("lenet", pooling=pooling).modules()) == 2


def test_lenet_xavier_has_zero_biases_and_the_right_bound() -> None:
    model = build("lenet", init="xavier")
    head = list(model.children())[-1]
    assert isinstance(head, nn.Linear)
    assert head.bias.abs().sum() == 0
    bound = (6 / (84 + 10)) ** 0.5
    assert 0.9 * bound < head.weight.abs().max() <= bound
    assert not torch.equal(next(build("lenet").parameters()), next(model.parameters()))


def test_alexnet_dropout_is_random_in_training_only() -> None:
    model, x = build("alexnet", dropout=0.5), torch.randn(2, *GREY)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    assert all(m.p == 0 for m in build("alexnet", dropout=0.0).modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet56", "resnet18", "resnet34"])
def test_plain_net_is_the_same_net_without_shortcuts(name: str) -> None:
    residual, plain = build(name), build(name, residual=False)
    convs = [
        sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in n.modules())
        for n in (residual, plain)
    ]
    assert (
        convs[0] == convs[1] == int(name.removeprefix("resnet")) - 1
    )  # the linear layer is the last one counted
    if name not in ("resnet18", "resnet34"):
        assert count_parameters(residual) == count_parameters(plain)  # option A adds none
        plain.load_state_dict(residual.state_dict())
    x = torch.randn(4, *GREY)
    assert not torch.equal(residual(x), plain(x))


def test_a_residual_block_that_adds_nothing_is_its_shortcut() -> None:
    model = build("resnet8")
    stages = model.get_submodule("stages")
    for parameter in stages.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, 16, 28, 28)
    y = stages(x)
    assert torch.equal(y[:, :16], x[:, :, ::4, ::4])  # every second pixel, twice
    assert not y[:, 16:].any()  # new maps are zeros


@pytest.mark.parametrize("name", ["lenet", "alexnet"])
def test_images_too_small_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least"):
        build(name, (1, 8, 8))


def test_the_catalog_knows_the_least_size_of_images() -> None:
    """At that size a last batch of one image trains too; linear layers take any."""
    for model in MODELS.values():
        if model.parameters > 2_000_000 and model.smallest == 1:
            continue  # enlarges its images
        net = build(model.name, (1, model.smallest, model.smallest)).train()
        assert torch.isfinite(net(torch.rand(1, 1, model.smallest, model.smallest))).all()
        if model.smallest > 1:
            with pytest.raises(ValueError, match=f"at least {model.smallest}x{model.smallest}"):
                build(model.name, (1, model.smallest - 1, model.smallest - 1))


def test_small_images_become_photographs_in_batches() -> None:
    grey = torch.rand(3, 1, 28, 28)
    large = Photographs(1, 224, normalize=False)(grey)
    assert large.shape == (3, 3, 224, 224)
    assert torch.equal(large[:, 0], large[:, 2])
    assert torch.allclose(large.mean(), grey.mean(), atol=0.02)
    assert torch.equal(Photographs(1, 28, normalize=False)(grey), grey.expand(-1, 3, -1, -1))
    coloured = torch.rand(2, 3, 64, 64)
    scaled = Photographs(3, 64, normalize=True)(coloured)
    by_hand = [(coloured[:, c] - m) / s for c, (m, s) in enumerate(IMAGENET)]
    assert torch.allclose(scaled, torch.stack(by_hand, 1))
    assert Photographs(3, 32, normalize=False)(coloured).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        Photographs(2, 224, normalize=False)


def test_a_grey_image_is_enlarged_as_torchvisions_own_preset_does() -> None:
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224, antialias=True)
    grey = torch.rand(2, 1, 28, 28)
    ours = Photographs(1, 224, normalize=True)(grey)
    assert torch.allclose(ours, preset(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_a_frozen_backbone_stays_and_its_last_layer_learns() -> None:
    model = build("resnet18-pretrained", backbone="frozen", image_size=64)
    assert isinstance(model, FineTuned)
    assert count_parameters(model) == linear(512, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model.train()
    model(torch.rand(4, *GREY)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"net.fc.weight", "net.fc.bias"}  # no statistics of batch normalisation either


def test_a_full_backbone_learns_whole() -> None:
    model = build("resnet18-pretrained", image_size=64)
    before = model.get_buffer("net.bn1.running_mean").clone()
    model.train()
    model(torch.rand(4, *GREY))
    assert not torch.equal(model.get_buffer("net.bn1.running_mean"), before)


def test_pretrained_weights_go_into_the_backbone_alone() -> None:
    model, weights = build("resnet18-pretrained"), imagenet_weights()
    head = model.get_parameter("net.fc.weight").clone()
    start_from(model, weights)
    assert torch.equal(model.get_parameter("net.layer4.1.conv2.weight"), weights["layer4.1.conv2.weight"])
    assert torch.equal(model.get_buffer("net.bn1.running_var"), weights["bn1.running_var"])
    assert torch.equal(model.get_parameter("net.fc.weight"), head)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_weights_of_another_network_are_refused(damage: str) -> None:
    weights = imagenet_weights()
    match damage:
        case "missing":
            del weights["conv1.weight"]
        case "unknown":
            weights["conv9.weight"] = torch.zeros(1)
        case "shape":
            weights["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ValueError, match=r"pretrained weights .* conv"):
        start_from(build("resnet18-pretrained"), weights)


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_weights(name: str) -> None:
    for a, b in zip(build(name).parameters(), build(name).parameters(), strict=True):
        assert torch.equal(a, b)
