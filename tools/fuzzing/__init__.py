"""The parts of `tools/fuzz.py`: valid calls, garbage, scenarios in child processes, the parent that follows them."""
