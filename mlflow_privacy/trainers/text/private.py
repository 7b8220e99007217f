"""What we need of transformers that it does not document, so that it may change without notice. Of peft: nothing.

No other module uses such a name (`tests/test_privates.py`). Every one was seen in transformers 4.46.3 and 5.24.0; where
a version lacks it, the documented way is taken. `tests/trainers/test_text_private.py` names the one that has changed.
"""

from __future__ import annotations

from typing import Any


def on_one_device(arguments: Any) -> Any:
    """Training arguments that leave further GPUs of the machine alone.

    Raises: ValueError: they cannot be told to; the documented way is to hide the GPUs.
    """
    if arguments.n_gpu > 1 and hasattr(arguments, "_n_gpu"):
        arguments._n_gpu = 1
    if arguments.n_gpu > 1:
        raise ValueError(
            f"transformers would train on {arguments.n_gpu} GPUs at once. Set CUDA_VISIBLE_DEVICES to one of them."
        )
    return arguments


def ignored_on_load(model: Any) -> tuple[str, ...]:
    """Patterns of tensors that a checkpoint may hold although the model has none of them; () if it does not say."""
    return tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
