"""The keys that a fair comparison looks at, and what each run has under them.

Every field of RunSpec and everything that a training resolves is in KEYS (tests/test_fairness.py holds it so). A spec
field that is not is compared as a setting all the same: a new one can raise an alarm, never pass unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from app.compare.diff import OPTIONS
from app.compare.facts import UNKNOWN, UNUSED, RunFacts, flatten
from ml.catalog import DATASETS, MODELS
from ml.datasets import Dataset
from ml.sizes import Sizes, count_images
from ml.spec import TAKES_MOMENTUM, RunSpec


class Role(Enum):
    SETTING = "setting"  # a difference confounds, unless it is what is being compared
    SEED = "seed"  # replicates: compared as a set between groups
    CONSEQUENCE = "consequence"  # a setting, but only where runs that agree in its causes differ in it
    NOTE = "note"  # may change times or last digits: said, but no reason to distrust the comparison


@dataclass(frozen=True)
class Key:
    """`causes`: keys that explain a difference in this one; one that ends with a dot stands for all that begin so."""

    name: str
    role: Role
    causes: tuple[str, ...] = ()


_SETTINGS = (
    "model", "dataset", "train_size", "val_size", "val_from", "input_scaling", "augmentation", "shift", "flip",
    "cutout", "pretrained", "batch_size", "epochs", "lr", "schedule", "warmup_epochs", "optimizer", "momentum",
    "nesterov", "weight_decay", "label_smoothing", "clip_norm", "ema", "patience", "on_nan", "precision", "code",
)  # fmt: skip
_CONSEQUENCES = {
    "patience_metric": ("patience",),
    "data_digest": ("dataset",),
    "train_images": ("dataset", "data_digest", "train_size", "val_from", "val_size"),
    "val_images": ("dataset", "data_digest", "val_size", "val_from"),
    "val_digest": ("dataset", "data_digest", "val_from", "val_size"),
    "steps_per_epoch": ("dataset", "data_digest", "train_size", "val_from", "val_size", "batch_size"),
    "classes": ("dataset", "data_digest"),
    "mean": ("dataset", "data_digest", "input_scaling", "pretrained"),
    "std": ("dataset", "data_digest", "input_scaling", "pretrained"),
    "parameters": ("model", OPTIONS, "dataset", "data_digest", "code"),
}
_AS_RESOLVED = (
    "precision",
    "channels_last",
    "fused",
    "compile",
    "deterministic",
    "device",
)  # not as asked for
_SWITCHES = ("channels_last", "fused", "deterministic")  # asked for as on or off, resolved as true or false
_NOTES = (
    "channels_last", "fused", "compile", "deterministic", "grad_norm", "device", "devices", "device_name", "threads",
    "python", "torch", "torchvision",
)  # fmt: skip

KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        *(Key(name, Role.SETTING) for name in _SETTINGS),
        *(Key(name, Role.CONSEQUENCE, causes) for name, causes in _CONSEQUENCES.items()),
        Key("seed", Role.SEED),
        *(Key(name, Role.NOTE) for name in _NOTES),
    )
}
# Where nobody asked for a precision it follows from the model, by the table of ml/precision.py.
AUTO_PRECISION = Key("precision", Role.CONSEQUENCE, ("model",))
EXPANDED = ("model_options",)  # its parts are keys, not the field itself

# What a training does without having a field for it; a script of one's own may say otherwise.
IMPLIED: Mapping[str, Any] = {"augmentation": None, "pretrained": False}
NOTHING = (None, False, 0, "", "none", "no", "false", "0")
MUST_KNOW = {*RunSpec.model_fields, "data_digest", "code"} - {*EXPANDED, *_NOTES}

VERBATIM = ("code", "data_digest", "val_digest", "device_name")  # 12e4567 is a commit, no number

# Other words for our fields, as scripts use them.
ALIASES: Mapping[str, str] = {
    "arch": "model", "architecture": "model", "model_name": "model",
    "data": "dataset", "dataset_name": "dataset",
    "learning_rate": "lr", "learningrate": "lr",
    "batchsize": "batch_size", "bs": "batch_size", "batch": "batch_size",
    "num_epochs": "epochs", "n_epochs": "epochs", "max_epochs": "epochs",
    "wd": "weight_decay", "opt": "optimizer", "optim": "optimizer",
    "scheduler": "schedule", "lr_scheduler": "schedule", "lr_schedule": "schedule",
    "random_seed": "seed", "random_state": "seed", "augment": "augmentation",
    "code_version": "code", "git_commit": "code", "commit": "code",
}  # fmt: skip


def key_of(name: str, foreign: bool = False) -> Key:
    """The key of a name; `foreign`: resolved by a training of another version, and therefore no setting."""
    if name in KEYS:
        return KEYS[name]
    if name.startswith(OPTIONS):
        return Key(name, Role.CONSEQUENCE, ("model",))
    return Key(name, Role.NOTE if foreign else Role.SETTING)


def read_table(runs: Sequence[RunFacts]) -> dict[Key, dict[str, Any]]:
    """What each run has under each key: `table[key][run.id]`, a value or a Gap; keys in the order of KEYS."""
    rows = {run.id: _read_run(run) for run in runs}
    asked = {name for run in runs for name in rows[run.id] if name not in run.resolved}
    others = dict.fromkeys(name for row in rows.values() for name in row if name not in KEYS)
    keys = [key_of(name, foreign=name not in asked) for name in (*KEYS, *others)]
    if all(run.kind == "training" and run.spec.get("precision", "auto") == "auto" for run in runs):
        keys = [AUTO_PRECISION if key.name == AUTO_PRECISION.name else key for key in keys]
    return {key: {run.id: rows[run.id].get(key.name, _absent(run, key.name)) for run in runs} for key in keys}


def _absent(run: RunFacts, name: str) -> Any:
    if name.startswith(OPTIONS):
        return UNUSED
    if run.kind == "training" and name in IMPLIED:
        return IMPLIED[name]
    return UNKNOWN


def _read_run(run: RunFacts) -> dict[str, Any]:
    """Name to value, as it took effect: a size that is the whole set is None, precision and the like as resolved."""
    row = {**flatten(run.resolved), **(_training(run) if run.kind == "training" else _external(run))}
    for name in _AS_RESOLVED:
        value = run.resolved.get(name, row.get(name, "auto"))
        if name in _SWITCHES and value in ("on", "off"):
            value = value == "on"
        row[name] = UNKNOWN if value == "auto" else value
    if isinstance(row["device"], str):
        row["device"] = row["device"].partition(":")[0]  # which of several equal GPUs is of no interest
    if row.get("optimizer", UNKNOWN) not in (*TAKES_MOMENTUM, UNKNOWN):
        row["momentum"] = row["nesterov"] = UNUSED
    if row.get("patience") is None:
        row["patience_metric"] = UNUSED
    data = DATASETS.get(str(row.get("dataset")))
    if data is not None:
        for name, whole in zip(("train_size", "val_size"), whole_sizes(run, data), strict=True):
            if row.get(name) == whole:
                row[name] = None
    return row


def whole_sizes(run: RunFacts, data: Dataset) -> Sizes:
    """How many images the run has where it does not ask for fewer."""
    if run.kind != "training":
        return Sizes(data.train_size, data.val_size)
    kept = {"val_from": run.spec.get("val_from", "test")}
    held_out = {**kept, "val_size": run.spec.get("val_size")}
    return Sizes(count_images(data, held_out).train, count_images(data, kept).val)


def _training(run: RunFacts) -> dict[str, Any]:
    """The spec by path; a field that came after this run was made has its default, which is what there was before."""
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in RunSpec.model_fields.items()
    }
    model = MODELS.get(str(run.spec.get("model")))
    pretrained = model is not None and model.pretrained is not None
    return flatten({**defaults, "pretrained": pretrained, **run.spec})


def _external(run: RunFacts) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in flatten(run.spec).items():
        ours = ALIASES.get(name.lower().replace("-", "_"), name)
        ours = ours if ours in KEYS else name
        row[ours] = _plain(ours, value)
    return row


def _plain(name: str, value: Any) -> Any:
    """An outside script's value in our form: numbers and truths may come as text, names in capitals."""
    if name in IMPLIED and (value.lower() if isinstance(value, str) else value) in NOTHING:
        return IMPLIED[name]
    if not isinstance(value, str) or name in VERBATIM:
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError:
        return value.lower() if name in KEYS else value
