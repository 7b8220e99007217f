"""The share of a data set that a model trained on (DUCI)."""
