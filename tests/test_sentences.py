"""What the statistics and the verdict say, word for word, in English and through a reader's gettext."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from app.compare import Group, Statistics, judge, measure
from app.compare.explanation import say_note, say_unknown, say_verdict
from app.compare.sentences import (
    label_groups,
    say_left_out,
    say_mean,
    say_method,
    say_p,
    say_pair,
    say_result,
)
from app.compare.statistics import Direction
from app.compare.words import ENGLISH, Words
from tests.test_fairness import FLIPS, facts

LENET = [0.9862, 0.9875, 0.988, 0.987, 0.9871]
ALEXNET = [0.9871, 0.9869, 0.9880, 0.9865, 0.9875]
RESNET = [0.990, 0.992, 0.991, 0.9925, 0.9915]


def measured(
    values: Mapping[str, Sequence[float]], direction: Direction | None = "higher", share: bool = True
) -> Statistics:
    runs = {
        f"{model}-{seed}": (facts(f"{model}-{seed}", {"model": model, "seed": seed}), value)
        for model, column in values.items()
        for seed, value in enumerate(column)
    }
    every = [run for run, _ in runs.values()]
    numbers = {run_id: value for run_id, (_, value) in runs.items()}
    return measure(every, judge(every), numbers, "val/accuracy", direction=direction, share=share)


def said(statistics: Statistics, words: Words = ENGLISH) -> str:
    return say_result(statistics, label_groups([one.group for one in statistics.samples], words, {}), words)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"resnet18": RESNET, "lenet": LENET},
            r"ResNet-18 is 0\.42 points better than LeNet \[0\.29, 0\.5\d\], p = 0\.008, n = 5 \+ 5\.",
        ),
        (
            {"lenet": LENET, "alexnet": ALEXNET},
            r"No difference is shown: AlexNet is ahead of LeNet by 0\.0040 points \[-0\.\d+, 0\.\d+\], p = 0\.97, "
            r"n = 5 \+ 5\. 5 seeds cannot show a difference this small; about [34],\d{3} could\.",
        ),
        (
            {"lenet": [0.98], "alexnet": [0.985]},
            "AlexNet is ahead of LeNet by 0.50 points, with one seed each: chance cannot be told from a difference. "
            "Run 3 or more seeds of each.",
        ),
        ({"lenet": [0.98], "alexnet": [0.98]}, "LeNet and AlexNet are equal, with one seed each: .*"),
        ({"lenet": [0.98], "alexnet": [0.985, 0.99]}, ".* 0.75 points, but LeNet has one seed: .*"),
        (
            {"lenet": [0.98] * 5, "alexnet": [0.97] * 5},
            "LeNet is better than AlexNet by 1.00 points, p = 0.008, .*",
        ),
        (
            {"lenet": [0.98] * 3, "alexnet": [0.97] * 3},
            "No difference is shown: LeNet .* by 1.00 points, p = 0.10, .*",
        ),
        ({"lenet": [0.98] * 3, "alexnet": [0.98] * 3}, "LeNet and AlexNet have the same mean, p = 1.00, .*"),
        (
            {"lenet": LENET, "alexnet": ALEXNET, "resnet8": RESNET},
            r"ResNet-8 has the best mean \(99\.14 ± 0\.10 %, n = 5\); the difference is shown for LeNet, AlexNet\.",
        ),
        (
            {"lenet": LENET, "alexnet": ALEXNET, "resnet8": [value + 1e-5 for value in ALEXNET]},
            r"ResNet-8 has the best mean \(.*\); no difference to another group is shown\.",
        ),
        ({"lenet": LENET}, "Only one group .*"),
        ({}, "No finished run has measured this."),
    ],
)
def test_the_result_in_a_sentence(values: dict[str, list[float]], sentence: str) -> None:
    assert re.fullmatch(sentence, said(measured(values)))


def test_lower_is_better_and_the_interval_turns_with_it() -> None:
    loss = measured({"lenet": [0.05, 0.055, 0.053], "alexnet": [0.03, 0.04, 0.035]}, "lower", share=False)
    assert re.fullmatch(
        r"AlexNet is better than LeNet by 0\.0177 \[0\.00\d+, 0\.0\d+\], p = 0\.013, n = 3 \+ 3\.", said(loss)
    )
    unknown = measured({"lenet": [1300.0, 1250, 1212], "alexnet": [2000.0, 1900, 1990]}, None, share=False)
    assert said(unknown).startswith("AlexNet is higher than LeNet by 709 [")


def test_several_pairs_say_that_p_is_corrected() -> None:
    found = measured({"lenet": LENET, "alexnet": ALEXNET, "resnet8": RESNET})
    labels = label_groups([one.group for one in found.samples], ENGLISH, {})
    texts = [say_pair(found, pair, labels, ENGLISH) for pair in found.pairs]
    assert "corrected p = 0.024, n = 5 + 5." in texts[1]
    assert say_method(found, ENGLISH) == [
        "p: two-sided permutation test over all 252 arrangements.",
        "Interval: 95 %, studentized bootstrap.",
        "p is corrected for 3 comparisons after Holm.",
    ]


def test_means_and_p() -> None:
    found = measured({"lenet": LENET, "alexnet": [0.5]})
    assert [say_mean(one, True, ENGLISH) for one in found.samples] == [
        "98.72 ± 0.07 %, n = 5",
        "50.00 %, n = 1",
    ]
    assert say_mean(found.samples[0], False, ENGLISH) == "0.987160 ± 0.000666, n = 5"
    assert [say_p(p, ENGLISH) for p in (None, 0.0004, 0.0079, 0.041, 0.5)] == [
        "–",
        "p < 0.001",
        "p = 0.008",
        "p = 0.041",
        "p = 0.50",
    ]


def test_groups_have_names_of_their_own() -> None:
    def group(run: str, **values: object) -> Group:
        return Group({key.replace("__", "."): value for key, value in values.items()}, (run,), ())

    options = [group("a", model="lenet", model_options__activation=x) for x in ("relu", "tanh")]
    assert label_groups(options, ENGLISH, {}) == ["LeNet · activation relu", "LeNet · activation tanh"]
    one_each = [options[0], group("b", model="resnet8", model_options__residual=True)]
    assert label_groups(one_each, ENGLISH, {}) == ["LeNet", "ResNet-8"]
    assert label_groups([group("a", lr=0.1), group("b")], ENGLISH, {"b": "mine"}) == [
        "learning rate 0.1",
        "mine",
    ]


def test_runs_that_do_not_count_are_named_by_reason() -> None:
    runs = [replace(facts(str(i)), state=state) for i, state in enumerate(("failed", "running", "failed"))]
    found = measure(runs, judge(runs), {}, "val/loss")
    assert say_left_out(found, {"0": "first", "2": "third"}, ENGLISH) == [
        "Not counted, failed: first, third.",
        "Not counted, still training: 1.",
    ]


# -- the verdict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(set(FLIPS) - {"seed"}))
def test_every_key_can_be_said(key: str) -> None:
    spec, resolved = FLIPS[key]
    verdict = judge([facts("a"), facts("b", spec, resolved)])
    text = say_verdict(verdict, ENGLISH)
    assert text.startswith("Controlled: only the ")
    assert "_" not in text.replace("label_smoothing", "")


def test_verdicts_in_words() -> None:
    pair = [facts("a"), facts("b", {"model": "resnet8", "batch_size": 256, "lr": 0.1})]
    assert say_verdict(judge(pair), ENGLISH) == "Confounded by batch size 64 → 256, learning rate 0.01 → 0.1"
    seeds = [facts("a"), facts("b", {"model": "resnet8", "seed": 7})]
    assert say_verdict(judge(seeds), ENGLISH) == "Confounded by seed 0 / 7"
    several = [facts("a"), facts("b", {"batch_size": 256, "train_size": None})]
    assert say_verdict(judge(several), ENGLISH) == (
        "Several settings differ: training images 6000 → all, batch size 64 → 256"
    )
    many = {
        "batch_size": 32,
        "epochs": 9,
        "lr": 0.1,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "val_size": 9,
    }
    text = say_verdict(judge([facts("a"), facts("b", many)]), ENGLISH)
    assert text.endswith(" and 2 more settings")
    waiting = [replace(run, resolved={}) for run in pair[:1]] + [facts("c", {"model": "resnet8"})]
    verdict = judge(waiting)
    assert say_verdict(verdict, ENGLISH) == "As far as is known, only the model differs"
    assert say_unknown(verdict.unknown, {"a": "first"}, ENGLISH) == [
        "Known once first trains: precision, code version, digest of the data."
    ]
    noted = judge([facts("a"), facts("b", {"model": "resnet8"}, {"torch": "2.15"})])
    assert say_note(noted.notes[0], ENGLISH).startswith("PyTorch version differs (2.14, 2.15):")


def test_all_words_come_from_the_reader() -> None:
    """With a gettext that answers nothing but capitals, no other letter is left but names and numbers."""

    def loud(text: str) -> str:
        return re.sub(
            r"\{\w+\}|\w+", lambda found: found[0] if found[0][0] == "{" else found[0].upper(), text
        )

    words = Words(
        loud,
        lambda one, many, n: loud(one if n == 1 else many),
        str.upper,
        lambda key, value: str(value).upper(),
    )
    for values in (
        {"lenet": LENET, "resnet8": RESNET},
        {"lenet": LENET, "alexnet": ALEXNET},
        {"lenet": [1], "alexnet": [0]},
    ):
        found = measured(values)
        texts = [said(found, words), *say_method(found, words)]
        assert not [text for text in texts if re.search(r"[a-z]", text)]
    assert not re.search(
        r"[a-z]", say_verdict(judge([facts("a"), facts("b", {"lr": 1.0, "epochs": 9})]), words)
    )
