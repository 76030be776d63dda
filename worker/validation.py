"""What a trainer keeps of its evaluations: answers and logits, packed, and the images that they are about."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.artifacts import LABELS, LOGITS, PREDICTIONS, NewArtifact
from app.images import save_images
from app.predictions import LABELS_NAME, MEDIA_TYPE, Answers, Labels, predictions_name
from ml.data import VAL_SEED, Split, draw_subset
from ml.events import Evaluated

log = logging.getLogger(__name__)

MAX_LOGITS_BYTES = 8_000_000  # larger ones (50,000 images of 1,000 classes have 100 MB) are not kept


class Validation:
    """The validation images of one attempt: makes an artifact of each evaluation, the labels with the first."""

    def __init__(self, data: Split, size: int | None, images_dir: Path) -> None:
        chosen = draw_subset(len(data.val_labels), size, VAL_SEED)
        index = np.arange(len(data.val_labels)) if chosen is None else chosen.numpy()
        label = data.val_labels.numpy()[index]
        self._labels = Labels(data.val_digest, data.classes, index, label)
        self._data, self._images_dir = data, images_dir
        self._begun = False

    def files(self, event: Evaluated) -> list[NewArtifact]:
        """The artifacts of this evaluation."""
        answers = Answers(event.predicted, event.confidence).pack(self._labels)
        name = predictions_name(event.step)
        files = [NewArtifact(name, PREDICTIONS, event.step, event.epoch, MEDIA_TYPE, answers)]
        if event.logits.nbytes <= MAX_LOGITS_BYTES:
            files.append(pack_logits(event))
        if not self._begun:
            self._begun = True
            self._save_images()
            files.insert(0, NewArtifact(LABELS_NAME, LABELS, 0, 0, MEDIA_TYPE, self._labels.pack()))
        return files

    def left_out(self, event: Evaluated) -> str | None:
        """What is not kept of the run's evaluations and what could be done, said with the first; None where all is."""
        if event.epoch > 1 or event.logits.nbytes <= MAX_LOGITS_BYTES:
            return None
        images, most = len(event.logits), MAX_LOGITS_BYTES // event.logits[0].nbytes
        size, limit = f"{event.logits.nbytes / 1e6:.3g}", f"{MAX_LOGITS_BYTES / 1e6:g}"
        return (
            f"the logits of {images:,} validation images are not kept: they take {size} MB an evaluation, and {limit} "
            f"MB are the most; those of val_size {most:,} would be"
        )

    def _save_images(self) -> None:
        """For the pages only: a full disk must not end a training."""
        try:
            save_images(self._images_dir, self._data.val_digest, self._pixels)
        except OSError as error:
            log.warning("the validation images could not be written for the pages: %s", error)

    def _pixels(self) -> NDArray[np.uint8]:
        """[N, C, H, W] -> [N, H, W, C]"""
        return np.asarray(self._data.val_images.permute(0, 2, 3, 1).numpy(), np.uint8)


def pack_logits(event: Evaluated) -> NewArtifact:
    """[N, K] float16 as numpy writes it, in the order of the validation labels: calibration and ensembles need them."""
    file = io.BytesIO()
    np.save(file, event.logits, allow_pickle=False)
    name = f"logits-{event.step:06d}.npy"
    return NewArtifact(name, LOGITS, event.step, event.epoch, "application/octet-stream", file.getvalue())
