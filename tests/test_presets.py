"""The presets are valid specs, and controlled: nothing but the model differs."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from ml.presets import CURES, PRESETS, Preset, cures, demo, homework
from ml.spec import RunSpec

ALL = [demo("mnist"), demo("digits"), demo("mnist", epochs=1, train_size=100), homework(), homework(epochs=2)]


@pytest.mark.parametrize("preset", ALL)
def test_every_spec_is_valid_and_only_the_model_differs(preset: Preset) -> None:
    specs = [RunSpec(**spec).model_dump() for spec in preset.specs]
    assert [spec.pop("model") for spec in specs] == ["lenet", "alexnet", "resnet8"]
    for spec in specs:
        spec.pop("model_options")
    assert all(spec == specs[0] for spec in specs)
    assert [run.name for run in preset.runs] == ["LeNet", "AlexNet", "ResNet-8"]


def test_every_preset_is_listed_under_its_name() -> None:
    assert {name: build().name for name, build in PRESETS.items()} == {name: name for name in PRESETS}


def test_homework_is_the_homework_to_the_letter() -> None:
    spec = RunSpec(**homework().specs[0])
    assert (spec.dataset, spec.train_size, spec.val_size) == ("mnist", None, None)
    assert (spec.batch_size, spec.lr, spec.epochs) == (64, 0.01, 32)
    assert (spec.optimizer, spec.momentum, spec.weight_decay, spec.schedule) == ("sgd", 0.0, 0.0, "constant")
    assert spec.input_scaling == "unit"
    assert spec.model_options == {"activation": "sigmoid", "pooling": "max", "init": "default"}


def test_each_cure_is_the_homeworks_lenet_with_one_change() -> None:
    printed = RunSpec(**homework(epochs=6).specs[0])
    found = [RunSpec(**spec) for spec in cures().specs]
    assert found[0] == printed
    assert [run.name for run in cures().runs] == list(CURES)
    for spec in found[1:]:
        assert spec.model == "lenet"
        assert (
            1 <= len(changed(spec, printed)) <= 2
        )  # a rate that fits comes with an initialisation or an optimizer


def changed(spec: RunSpec, printed: RunSpec) -> list[str]:
    theirs = printed.model_dump()
    return [name for name, value in spec.model_dump().items() if value != theirs[name]]


def test_overrides_reach_every_run() -> None:
    for preset in (make(epochs=7, train_size=99) for make in (partial(demo, "digits"), homework, cures)):
        assert {(spec["epochs"], spec["train_size"]) for spec in preset.specs} == {(7, 99)}


def test_a_dataset_without_a_demo_is_named() -> None:
    with pytest.raises(ValueError, match="no demo for dataset 'cifar'; choose one of mnist, digits"):
        demo("cifar")


def test_presets_spec_and_events_import_no_torch() -> None:
    code = "import sys, ml.presets, ml.spec, ml.events; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
