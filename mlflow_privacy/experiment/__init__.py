"""Whole experiments: from a YAML file to audited model versions."""
