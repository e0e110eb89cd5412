"""The hospital: courier (`app.py`, no torch) and everything that may see images."""
