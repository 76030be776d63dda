"""Texts that the scripts write: in the page as JSON, so that they too go through gettext."""

from __future__ import annotations

from app.web.i18n import _


def script_words() -> dict[str, str]:
    """Text by the name that static/js/words.js looks up; `{n}` and the like are filled in there."""
    return {
        "live": _("live"),
        "reconnecting": _("reconnecting"),
        "just_now": _("just now"),
        "seconds_ago": _("{n} s ago"),
        "minutes_ago": _("{n} min ago"),
        "hours_ago": _("{n} h ago"),
        "days_ago": _("{n} d ago"),
        "percent": _("{n} %"),
        "seconds": _("{n} s"),
        "minutes": _("{min} min {s} s"),
        "hours": _("{h} h {min} min"),
        "days": _("{d} d {h} h"),
        "time_left": _("{time} left"),
        "steps_of": _("{step} of {total} steps"),
        "step": _("step {step}"),
        "selected": _("{n} selected"),
        "queued": _("queued"),
        "running": _("running"),
        "paused": _("paused"),
        "finished": _("finished"),
        "failed": _("failed"),
        "canceled": _("canceled"),
        "canceling": _("canceling"),
        "pausing": _("pausing"),
        "starting": _("starting"),
        "loading data": _("loading data"),
        "evaluating": _("evaluating epoch {epoch}"),
        "downloading": _("Downloading {title}"),
        "empty": _("No points yet. They appear here as soon as the first step is done."),
        "nothing": _("Nothing was measured."),
        "loading": _("reading points …"),
        "unreachable": _("the points cannot be read right now"),
        "points_reduced": _("{shown} of {total} points, extremes kept"),
        "points_all": _("all {total} points"),
        "zoomed": _("zoomed, double-click to reset"),
        "chance": _("chance: ln {classes} = {value}"),
        "training": _("training"),
        "validation": _("validation"),
        "measured": _("as measured"),
        "no_axis": _("{names}: this run does not know how many steps make an epoch"),
        "stuck": _(
            "The loss still sits at chance level: so far this is no better than guessing. "
            "Sigmoid with plain SGD and a small learning rate stays here for epochs."
        ),
        "x_step": _("step"),
        "x_epoch": _("epoch"),
        "x_samples": _("training images seen"),
        "x_elapsed": _("seconds since the run began"),
        "x_time": "",
        "loss": _("Loss"),
        "accuracy": _("Accuracy"),
        "train/loss": _("Training loss"),
        "val/loss": _("Validation loss"),
        "train/accuracy": _("Training accuracy"),
        "val/accuracy": _("Validation accuracy"),
        "train/lr": _("Learning rate"),
    }
