"""The room that reads and writes MLflow: reference runs with their signals, and results."""
