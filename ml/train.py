"""The training loop, whole and visible: forward, loss, backward, step, report.

    data = load_dataset(spec.dataset, root)
    for event in train(spec, data, device=pick_device(spec.device, slot)): ...

The same seed on the same CPU with the same number of threads gives the same bits, those of a plain loop over
a DataLoader (torch.manual_seed, model, `DataLoader(shuffle=True)`); so does a resumed run.

B batch, C channels, H height, W width, K classes, N images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from threading import Event as Flag
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from ml.augment import augment
from ml.catalog import MODELS
from ml.crew import ALONE, Crew
from ml.data import Split
from ml.events import Done, Evaluated, Evaluating, Event, Prepared, Snapshot
from ml.generators import seed_generators
from ml.schedules import learning_rate
from ml.setup import Setup, pick_device, prepare
from ml.snapshot import Place, restore, take_snapshot
from ml.spec import RunSpec
from ml.tally import NonFiniteLoss, Tally

__all__ = ["NonFiniteLoss", "pick_device", "train"]

EVAL_BATCH = 250  # small enough for a slow net on a CPU to answer a request within seconds


def train(
    spec: RunSpec,
    data: Split,
    *,
    device: torch.device,
    resume: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    snapshot_requested: Flag | None = None,
    report_every_s: float = 0.1,
    crew: Crew = ALONE,
) -> Iterator[Event]:
    """Train `spec` on `data` and yield what happens (see `ml.events`), points about every `report_every_s`
    seconds.

    Seeds the global generators and draws from torch's: one training at a time in a process. `resume` is a
    Snapshot's state; the loop goes on with the step after it, with that run's number of threads. Setting
    `snapshot_requested` makes the loop clear it and yield a Snapshot after the step or validation batch in
    hand; to pause, close the iterator then.

    Several devices: a process each, with its place in the `crew`. All go through this loop; rank 0's events count.

    On a GPU losses stay on the device between reports: a step's time is when it was handed over, and a loss
    that is no number is noticed at the next report.

    A pretrained model that does not resume begins with `weights`, those of `ml.weights.load_weights`.

    Raises:
        ValueError: `resume` or the data do not fit the spec.
        NonFiniteLoss: the loss is no number any more; the points up to that step have been yielded.
    """
    if resume is None and weights is None and MODELS[spec.model].pretrained:
        raise ValueError(f"{MODELS[spec.model].title} needs the weights of ml.weights.load_weights")
    seed_generators(spec.seed)
    run = prepare(spec, data, device, weights, crew)
    at = Place() if resume is None else restore(resume, spec, run)
    yield Prepared(run.total_steps, run.steps_per_epoch, at.step, run.parameters, run.resolved)

    step = at.step
    tally = Tally(device, report_every_s)
    for epoch in range(at.epoch, spec.epochs + 1):
        run.model.train()
        order = crew.share(draw_order(len(run.train_images)).to(device)) if at.order is None else at.order
        for position in range(at.position, run.steps_per_epoch):
            crew.go()
            first = position * spec.batch_size
            batch = order[first : first + spec.batch_size]  # [B] int64; the last may be smaller
            batch = crew.part(batch)
            images = augment(run.train_images[batch], spec)
            x, y = run.scale(images), run.train_labels[batch]  # [B, C, H, W] float32, [B]
            lr = learning_rate(spec.schedule, spec.lr, step, run.total_steps, spec.warmup_steps)
            for group in run.optimizer.param_groups:
                group["lr"] = lr

            with run.autocast():
                logits = run.forward(x)  # [B, K]
            loss = F.cross_entropy(logits.float(), y, label_smoothing=spec.label_smoothing)
            run.optimizer.zero_grad()
            crew.weigh(loss).backward()  # type: ignore[no-untyped-call]
            if spec.clip_norm is not None:
                clip_grad_norm_(run.model.parameters(), spec.clip_norm)
            run.optimizer.step()
            if run.averaged is not None:
                run.averaged.update_parameters(run.model)

            step += 1
            accuracy = (logits.detach().argmax(1) == y).float().mean()
            tally.add(step, *crew.average(torch.stack([loss.detach(), accuracy])).unbind(), lr)
            wanted = take_request(snapshot_requested)
            if wanted or tally.due():
                yield from tally.report()
            if wanted:
                here = Place(epoch, position + 1, step, order)
                yield Snapshot(step, epoch, take_snapshot(spec, run, here))
        yield from tally.report()

        at = Place(epoch + 1, step=step)
        if not crew.leads:
            continue  # rank 0 evaluates
        run.answering.eval()
        total_loss, answers, n_val = 0.0, [], len(run.val_images)
        for start in range(0, n_val, EVAL_BATCH):
            yield Evaluating(epoch, start, n_val)
            if take_request(snapshot_requested):
                here = Place(epoch, run.steps_per_epoch, step, order)
                yield Snapshot(step, epoch, take_snapshot(spec, run, here))
            batch_loss, answer = evaluate_batch(run, start)
            total_loss += batch_loss
            answers.append(answer)
        predicted, confidence, correct = join_answers(run, answers)
        yield Evaluated(step, epoch, time.time(), total_loss / n_val, correct / n_val, predicted, confidence)

        yield Snapshot(step, epoch, take_snapshot(spec, run, at))
    yield Done(step, spec.epochs)


def draw_order(n: int) -> Tensor:
    """An epoch's order of the images, [n] int64: the very draws of a DataLoader with `shuffle=True` and no
    workers.

    It draws a seed for its workers first, then RandomSampler draws one for a generator of its own
    (`torch/utils/data/dataloader.py`, `_BaseDataLoaderIter`; `sampler.py`, `RandomSampler.__iter__`).
    """
    torch.empty((), dtype=torch.int64).random_()
    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def evaluate_batch(run: Setup, start: int) -> tuple[float, tuple[Tensor, Tensor]]:
    """Summed loss over the validation images from `start` on, at most EVAL_BATCH; and the answers, left on the
    device: predicted class [B] int64 and its probability [B] float32."""
    x, y = run.scale(run.val_images[start : start + EVAL_BATCH]), run.val_labels[start : start + EVAL_BATCH]
    with run.autocast():
        logits = run.answering(x)  # [B, K]
    loss = F.cross_entropy(logits.float(), y, reduction="sum")
    return float(loss), (logits.argmax(1), logits.float().softmax(1).amax(1))


@torch.inference_mode()
def join_answers(
    run: Setup, answers: list[tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """The batches' answers as one, copied to the CPU at once: [N], [N] and how many are right."""
    predicted, confidence = (torch.cat(part) for part in zip(*answers, strict=True))
    correct = int((predicted == run.val_labels).sum())
    return predicted.cpu().numpy(), confidence.cpu().numpy(), correct


def take_request(flag: Flag | None) -> bool:
    """Whether a snapshot was asked for; clears the request."""
    if flag is None or not flag.is_set():
        return False
    flag.clear()
    return True
