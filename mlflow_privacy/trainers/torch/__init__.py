"""PyTorch modules, one network at a time."""
