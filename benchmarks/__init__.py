"""Measurements; each module prints a table: `python -m benchmarks.NAME`. They need `pip install -e .[test]`."""
