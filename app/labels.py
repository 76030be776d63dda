"""What runs, tags and experiments may be called: text on one line, which cannot disguise what stands beside it."""

from __future__ import annotations

import re

# C0 and C1, line separators, and the marks that turn the direction of all that follows (Unicode 9, "Bidi_Control").
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
WHY = "must not contain line breaks, other control characters or marks that turn the direction of text"


def check_label(text: str) -> str:
    """The text. Raises: ValueError."""
    if HIDDEN.search(text):
        raise ValueError(WHY)
    return text
