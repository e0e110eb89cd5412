"""The coordinator: rounds, guard, strategies, recorder, report. It cannot read an image: no torch, no PIL."""
