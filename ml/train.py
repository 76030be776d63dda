"""The training loop, whole and visible: forward, loss, backward, step, report.

    data = load_dataset(spec.dataset, root)
    for event in train(spec, data, device=pick_device(spec.device, slot)): ...

The same seed on the same CPU with the same number of threads gives the same bits; in fp32 those of a plain loop over
a DataLoader (torch.manual_seed, model, `DataLoader(shuffle=True)`). So does a resumed run.

B batch, C channels, H height, W width, K classes, M metrics, N images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from threading import Event as Flag
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.augment import augment
from ml.averaging import take_in
from ml.catalog import MODELS
from ml.crew import ALONE, Crew
from ml.data import Split
from ml.evaluation import Verdict, evaluate
from ml.events import Done, Evaluated, Evaluating, Event, Prepared, Snapshot
from ml.generators import seed_generators
from ml.gradients import is_sound, limit_gradients, norm_metrics
from ml.graphs import Recorded, Step
from ml.numerics import keep
from ml.schedules import learning_rate
from ml.setup import Setup, pick_device, prepare, set_rate
from ml.snapshot import Place, restore, take_snapshot
from ml.spec import RunSpec
from ml.stopping import look, reason_to_stop
from ml.tally import NonFiniteLoss, Tally

__all__ = ["NonFiniteLoss", "pick_device", "train"]


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
    Snapshot's state; the loop goes on with the step after it, with that run's threads and arithmetic. Setting
    `snapshot_requested` makes the loop clear it and yield a Snapshot after the step or validation batch in
    hand; to pause, close the iterator then.

    On a GPU losses stay on the device between reports: a step's time is when it was handed over, and a loss
    that is no number is noticed a report later.

    Several devices: a process each, with its place in the `crew`. All go through this loop; rank 0's events count.

    A pretrained model that does not resume begins with `weights`, those of `ml.weights.load_weights`.

    Raises:
        ValueError: `resume` or the data do not fit the spec, or this machine cannot do what it asks for.
        NonFiniteLoss: the loss is no number any more; the points up to that step have been yielded.
    """
    if resume is None and weights is None and MODELS[spec.model].pretrained:
        raise ValueError(f"{MODELS[spec.model].title} needs the weights of ml.weights.load_weights")
    seed_generators(spec.seed)
    numerics, note = (None, None) if resume is None else keep(resume, spec, device)
    run = prepare(spec, data, device, numerics, weights, crew)
    at = Place() if resume is None else restore(resume, spec, run)
    yield Prepared(run.total_steps, run.steps_per_epoch, at.step, run.parameters, run.resolved, note)

    step, patience, stop = at.step, at.patience, reason_to_stop(spec, at.patience)
    learn: Step = partial(learn_batch, spec, run)
    if run.numerics.compile == "graph":
        learn = Recorded(learn, spec.batch_size)
    metrics = ["train/loss", "train/accuracy", *norm_metrics(spec, run.model)]
    tally = Tally(device, report_every_s, metrics, spec, at.last_loss)
    epoch = at.epoch - 1
    while epoch < spec.epochs and stop is None:
        epoch += 1
        run.model.train()
        order = crew.share(draw_order(len(run.train_images)).to(device)) if at.order is None else at.order
        for position in range(at.position, run.steps_per_epoch):
            crew.go()
            first = position * spec.batch_size
            batch = crew.part(order[first : first + spec.batch_size])  # [B] int64; the last may be smaller
            images = augment(run.train_images.index_select(0, batch), spec)  # twice as fast as [batch]
            x, y = run.scale(images), run.train_labels[batch]  # [B, C, H, W] float32, [B]
            lr = learning_rate(spec.schedule, spec.lr, step, run.total_steps, spec.warmup_steps)
            set_rate(run.optimizer, lr)
            numbers, applied = learn(x, y)
            if run.averaged is not None and applied:
                take_in(run.averaged, run.model, spec.ema)

            step += 1
            tally.add(step, numbers, lr, applied)
            wanted = take_request(snapshot_requested)
            if wanted or tally.due():
                yield from tally.report(whole=wanted)
            if wanted:
                here = Place(epoch, position + 1, step, order, patience, tally.last_loss)
                yield Snapshot(step, epoch, take_snapshot(spec, run, here))
        yield from tally.report()

        if not crew.leads:
            at = Place(epoch + 1, step=step)
            continue  # rank 0 evaluates, and says whether there is another epoch
        for done in evaluate(run):
            if isinstance(done, Verdict):
                yield Evaluated(step, epoch, time.time(), *done)
                patience = look(spec, patience, epoch, done.loss, done.accuracy)
                stop = reason_to_stop(spec, patience)
                continue
            yield Evaluating(epoch, done, len(run.val_images))
            if take_request(snapshot_requested):
                here = Place(epoch, run.steps_per_epoch, step, order, patience, tally.last_loss)
                yield Snapshot(step, epoch, take_snapshot(spec, run, here))

        at = Place(epoch + 1, step=step, patience=patience, last_loss=tally.last_loss)
        is_last = stop is not None or epoch == spec.epochs
        yield Snapshot(step, epoch, take_snapshot(spec, run, at), is_last)
    yield Done(step, epoch, stop or "trained to the end")


def learn_batch(spec: RunSpec, run: Setup, x: Tensor, y: Tensor) -> tuple[Tensor, bool]:
    """One step on images [B, C, H, W] and labels [B]: its numbers [M], loss and accuracy first, and whether the weights
    were updated."""
    may_skip = spec.on_nan == "continue"
    statistics = [buffer.clone() for buffer in run.model.buffers()] if may_skip else []
    with run.autocast():
        logits = run.forward(x)  # [B, K]
    loss = F.cross_entropy(logits.float(), y, label_smoothing=spec.label_smoothing)
    run.optimizer.zero_grad()
    run.crew.weigh(loss).backward()  # type: ignore[no-untyped-call]
    accuracy = (logits.detach().argmax(1) == y).float().mean()
    means = run.crew.average(torch.stack([loss.detach(), accuracy]))
    applied = not may_skip or is_sound(run.model, means[0])
    norms = limit_gradients(spec, run.model)
    if applied:
        run.optimizer.step()
    else:  # batch normalisation has taken in what is no number
        for buffer, before in zip(run.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    return torch.cat([means, torch.stack(norms)]) if norms else means, applied


def draw_order(n: int) -> Tensor:
    """An epoch's order of the images, [n] int64: the very draws of a DataLoader with `shuffle=True` and no
    workers.

    It draws a seed for its workers first, then RandomSampler draws one for a generator of its own
    (`torch/utils/data/dataloader.py`, `_BaseDataLoaderIter`; `sampler.py`, `RandomSampler.__iter__`).
    """
    torch.empty((), dtype=torch.int64).random_()
    seed = int(torch.empty((), dtype=torch.int64).random_().item())
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def take_request(flag: Flag | None) -> bool:
    """Whether a snapshot was asked for; clears the request."""
    if flag is None or not flag.is_set():
        return False
    flag.clear()
    return True
