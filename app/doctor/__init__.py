"""Checks of everything that Trainyard needs, each with what to do about it. `python -m app.doctor` runs them all."""
