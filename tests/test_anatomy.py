"""What a network is, told on the meta device, against the network itself and figures by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ml.anatomy import Anatomy, Layer, dissect
from ml.catalog import MODELS
from ml.models import build_model, count_parameters, pooling
from worker.anatomist import answer

pytestmark = pytest.mark.usefixtures("one_thread")

GREY = (1, 28, 28)


def look(name: str, shape: tuple[int, int, int] = GREY, classes: int = 10, **options: Any) -> Anatomy:
    return dissect(name, MODELS[name].options.model_validate(options), shape, classes)


@pytest.mark.parametrize("name", MODELS)
def test_the_anatomy_of_every_model_has_its_parameters_and_an_end(name: str) -> None:
    """At full size: the largest takes no memory here."""
    found = look(name)
    assert found.parameters == found.trainable == MODELS[name].parameters
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    assert found.layers[-1].shape == (10,)
    assert (
        2 * found.forward_flops < found.step_flops <= 3 * found.forward_flops
    )  # the first layer's input learns not
    assert 0 <= found.convolution_flops <= found.step_flops
    assert (found.convolution_flops == 0) == (name == "mlp")


def test_lenet_by_hand() -> None:
    found = look("lenet")
    assert found.layers[:3] == (
        Layer("conv1", "Conv2d 5x5", (6, 24, 24), 156),
        Layer("act1", "Sigmoid", (6, 24, 24), 0),
        Layer("pool1", "MaxPool2d 2x2 /2", (6, 12, 12), 0),
    )
    assert [layer.shape for layer in found.layers[3:]] == [
        *((16, 8, 8), (16, 8, 8), (16, 4, 4), (256,), (120,), (120,), (84,), (84,), (10,)),
    ]
    multiplied = 24 * 24 * 6 * 25 + 8 * 8 * 16 * 6 * 25 + 256 * 120 + 120 * 84 + 84 * 10
    assert found.forward_flops == 2 * multiplied
    assert found.thin_flops == 3 * 2 * (24 * 24 * 6 * 25 + 8 * 8 * 16 * 6 * 25)  # both have few channels
    assert found.buffers == 0
    assert found.largest_bytes == 6 * 24 * 24 * 4


@pytest.mark.parametrize("name", ["alexnet224", "resnet18-pretrained"])
def test_small_images_are_enlarged_to_224(name: str) -> None:
    first, second = look(name).layers[:2]
    assert first.kind == "Photographs"
    assert first.shape == (3, 224, 224)
    assert second.shape[0] == 64
    assert look(name, image_size=96).layers[0].shape == (3, 96, 96)


def test_a_stride_is_told() -> None:
    kinds = [layer.kind for layer in look("alexnet224").layers]
    assert "Conv2d 11x11 /4" in kinds
    assert "Conv2d 3x3" in kinds


def test_a_frozen_backbone_keeps_nothing_and_learns_its_head() -> None:
    full, frozen = look("resnet18-pretrained"), look("resnet18-pretrained", backbone="frozen")
    assert frozen.parameters == full.parameters
    assert frozen.trainable == 5_130
    assert frozen.kept_bytes < full.kept_bytes / 100
    assert frozen.step_flops < full.step_flops / 2


@pytest.mark.parametrize("name", ["lenet", "mlp", "alexnet", "resnet8"])
def test_what_is_kept_is_what_a_real_step_keeps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of all storages that autograd holds on the CPU, without the model's own.

    With PyTorch's own pooling, as on a GPU: oneDNN's holds its input again for the indices, which cannot be counted.
    """
    monkeypatch.setattr(pooling, "_is_plain", lambda x: False)
    torch.manual_seed(0)
    model = build_model(name, MODELS[name].options(), GREY, 10).train()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(torch.randn(8, *GREY)), torch.zeros(8, dtype=torch.int64))
    kept = sum(t.untyped_storage().nbytes() for place, t in held.items() if place not in own)
    assert look(name).kept_bytes * 8 == pytest.approx(kept, rel=0.02)


def test_images_that_do_not_fit_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="LeNet needs images of at least 16x16, not 8x8"):
        look("lenet", (1, 8, 8))
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        look("alexnet224", (2, 64, 64))


def test_nothing_of_it_leaves_the_meta_device() -> None:
    before = torch.empty(0).device
    look("resnet8")
    assert torch.empty(0).device == before
    assert count_parameters(build_model("resnet8", MODELS["resnet8"].options(), GREY, 10)) == 75_002


def test_the_anatomist_answers_every_question() -> None:
    question = {"model": "lenet", "options": {"pooling": "avg"}, "shape": [3, 32, 32], "classes": 7}
    found = answer(question)
    assert found == asdict(look("lenet", (3, 32, 32), 7, pooling="avg"))
    assert answer({**question, "shape": [1, 4, 4]}) == {
        "error": "LeNet needs images of at least 16x16, not 4x4"
    }
    assert answer({**question, "model": "vgg"}) is None  # other versions may ask
    assert answer({**question, "options": {"depth": 3}}) is None
