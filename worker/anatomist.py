"""Answers what networks are, a line of JSON for a line of JSON: forked from `worker.forkserver`, or
`python -m worker.anatomist`.

It never sees a GPU and trains nothing: torch's meta device has shapes only. The end of standard input ends it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from ml.anatomy import dissect
from ml.catalog import MODELS


def answer(question: dict[str, Any]) -> dict[str, Any] | None:
    """The anatomy, or `{"error": why the network cannot be}`; None for a question that another version asked."""
    try:
        channels, height, width = question["shape"]
        options = MODELS[question["model"]].options.model_validate(question["options"])
        found = dissect(question["model"], options, (channels, height, width), question["classes"])
    except (KeyError, ValidationError):
        return None
    except (ValueError, RuntimeError) as error:  # the images do not fit, said by our module or by torch
        return {"error": str(error)[:500]}
    return asdict(found)


def main() -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
