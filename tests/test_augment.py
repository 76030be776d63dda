"""Augmentation: what may come out of it, that every place is reached, and that off means off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ml.augment import augment, cutout, flip, shift
from ml.spec import RunSpec


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pictures(count: int, channels: int = 1, side: int = 12) -> Tensor:
    """Pixels that tell their place: no two of one picture are equal, none is 0."""
    one = torch.arange(1, channels * side * side + 1).view(1, channels, side, side) % 255 + 1
    return one.repeat(count, 1, 1, 1).to(torch.uint8)


def test_nothing_asked_for_changes_nothing_and_draws_nothing() -> None:
    images, before = pictures(3), torch.get_rng_state()
    assert augment(images, RunSpec()) is images
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_whole_pictures_to_every_place_within_reach(channels: int) -> None:
    images = pictures(400, channels)
    moved = shift(images, 2)
    assert moved.dtype == torch.uint8
    places = set()
    for before, after in zip(images, moved, strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(after, _move(before, down, right))
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 25


def _move(image: Tensor, down: int, right: int) -> Tensor:
    empty = torch.zeros_like(image)
    h, w = image.shape[1:]
    for row in range(h):
        for column in range(w):
            if 0 <= row - down < h and 0 <= column - right < w:
                empty[:, row, column] = image[:, row - down, column - right]
    return empty


@pytest.mark.parametrize("channels", [1, 3])
def test_about_half_are_mirrored_and_the_others_left(channels: int) -> None:
    images = pictures(1_000, channels)
    after = flip(images)
    mirrored = (after == images.flip(3)).flatten(1).all(1)
    same = (after == images).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert 430 < int(mirrored.sum()) < 570  # four and a half standard deviations


@pytest.mark.parametrize("channels", [1, 3])
def test_a_cutout_is_one_square_of_every_channel_and_no_more(channels: int) -> None:
    images = pictures(500, channels)
    after = cutout(images, 4)
    blank = after == 0
    assert bool((blank == blank[:, :1]).all())
    assert torch.equal(after[~blank], images[~blank])
    sizes = set()
    for picture in blank[:, 0]:
        rows, columns = picture.any(1), picture.any(0)
        assert torch.equal(picture, rows[:, None] & columns[None, :])
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert max(sizes) == (4, 4)
    assert (2, 2) in sizes  # in a corner half of it lies outside
    assert bool(blank.any(0).all())  # every pixel is hit


def test_each_picture_has_a_draw_of_its_own_and_the_seed_repeats_it() -> None:
    spec = RunSpec(shift=3, flip=True, cutout=6)
    once = augment(pictures(64), spec)
    torch.manual_seed(0)
    assert torch.equal(augment(pictures(64), spec), once)
    assert len({picture.numpy().tobytes() for picture in once}) > 60
