"""The catalog as JSON: what can be trained, with what, and whether it is here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.catalog import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, Pretrained
from ml.presets import PRESETS
from ml.recipes import Recipe, find_recipe
from ml.spec import RunSpec


def describe(datasets_dir: Path) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": m.name,
                "title": m.title,
                "summary": m.summary,
                "paper": m.paper,
                "parameters": m.parameters,
                "recipe": dict(m.recipe),
                "recipes": {name: describe_recipe(find_recipe(m.name, name)) for name in DATASETS},
                "options": m.options.model_json_schema(),
                "smallest": m.smallest,
                "pretrained": m.pretrained and describe_weights(m.pretrained, datasets_dir),
            }
            for m in MODELS.values()
        ],
        "datasets": [describe_dataset(name, datasets_dir) for name in DATASETS],
        "optimizers": [asdict(choice) for choice in OPTIMIZERS.values()],
        "schedules": [asdict(choice) for choice in SCHEDULES.values()],
        "presets": [
            {"name": p.name, "title": p.title, "summary": p.summary}
            for p in (make() for make in PRESETS.values())
        ],
        "spec": RunSpec.model_json_schema(),
    }


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    return {"fields": dict(recipe.fields), "outcome": recipe.outcome and asdict(recipe.outcome)}


def describe_weights(weights: Pretrained, datasets_dir: Path) -> dict[str, Any]:
    return {
        "file": weights.file,
        "available": weights.path_in(datasets_dir).is_file(),
        "download_mb": weights.download_mb,
    }


def describe_dataset(name: str, datasets_dir: Path) -> dict[str, Any]:
    data = DATASETS[name]
    return {
        "name": data.name,
        "title": data.title,
        "summary": data.summary,
        "shape": list(data.shape),
        "classes": data.classes,
        "class_names": list(data.class_names),
        "train_size": data.train_size,
        "val_size": data.val_size,
        "available": data.on_disk(datasets_dir),
        "registered": data.is_registered,
        "digest": data.digest,
        "download_mb": data.download_mb,
    }
