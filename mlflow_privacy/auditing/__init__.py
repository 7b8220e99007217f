"""The audit itself, from a resolved target to a result; begin with `pipeline.py`."""
