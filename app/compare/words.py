"""How a reader's language says things. The sentences are in app.compare.sentences; pages hand in their gettext."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES
from ml.spec import RunSpec

OPTIONS = "model_options."
DIGESTS = ("data_digest", "val_digest", "code")
_NAMED: dict[str, Mapping[str, Any]] = {
    "model": MODELS,
    "dataset": DATASETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


@dataclass(frozen=True)
class Words:
    """`translate` and `plural` are gettext and ngettext; `title` names a key, `value` a key's value."""

    translate: Callable[[str], str]
    plural: Callable[[str, str, int], str]
    title: Callable[[str], str]
    value: Callable[[str, Any], str]


def resolved_title(name: str, _: Callable[[str], str]) -> str:
    """The title of what a training resolved, and of keys that no spec has."""
    titles = {
        "augmentation": _("Augmentation"),
        "pretrained": _("Pretrained"),
        "updates": _("Updates"),
        "steps_per_epoch": _("Steps an epoch"),
        "parameters": _("Parameters"),
        "mean": _("Mean of the data"),
        "std": _("Deviation of the data"),
        "data_digest": _("Digest of the data"),
        "val_digest": _("Digest of the validation data"),
        "train_images": _("Training images used"),
        "val_images": _("Validation images used"),
        "classes": _("Classes"),
        "precision": _("Precision used"),
        "channels_last": _("Channels last"),
        "fused": _("Fused optimizer"),
        "compile": _("Compilation"),
        "deterministic": _("Deterministic"),
        "device": _("Device used"),
        "device_name": _("Name of the device"),
        "threads": _("Threads"),
        "code": _("Code version"),
        "python": _("Python version"),
        "torch": _("PyTorch version"),
        "torchvision": _("Torchvision version"),
    }
    return titles.get(name, name.replace("_", " "))


def english_title(key: str) -> str:
    if key in RunSpec.model_fields:
        return RunSpec.model_fields[key].title or key
    if key.startswith(OPTIONS):
        option = key.removeprefix(OPTIONS)
        fields = [m.options.model_fields[option] for m in MODELS.values() if option in m.options.model_fields]
        return (fields[0].title if fields else None) or option
    return resolved_title(key, str)


def english_value(key: str, value: Any) -> str:
    if value is None:
        return "all" if key in ("train_size", "val_size") else "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 and key != "seed" else str(value)
    if isinstance(value, str) and key in DIGESTS:
        return value.removeprefix("sha256:")[:12]
    entry = _NAMED.get(key, {}).get(value) if isinstance(value, str) else None
    return (str(value) if entry is None else str(entry.title))[:200]


ENGLISH = Words(str, lambda one, many, count: one if count == 1 else many, english_title, english_value)
