"""Tests; real servers come from `tests.processes`."""
