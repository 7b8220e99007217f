"""The checkpoint that every reference starts from: one copy in memory, known by the content of its tensors."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from mlflow_privacy.errors import RecipeError

_NAMES_AND_SPEED = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label",
    "label2id", "use_cache", "_attn_implementation", "attn_implementation", "problem_type", "auto_map",
    "base_model_config", "output_attentions", "output_hidden_states", "return_dict",
}  # fmt: skip


def state_digest(model: Any) -> str:
    """SHA-256 of a module's tensors, by sorted names with types and shapes; of a PEFT model, of the base inside."""
    import torch

    hasher = hashlib.sha256()
    state = plain_base(model).state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        hasher.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return hasher.hexdigest()


def config_values(model: Any) -> dict[str, Any]:
    """What a model's configuration says about its computation, without names, versions and speed."""
    values = plain_base(model).config.to_diff_dict()
    return {str(key): value for key, value in sorted(values.items()) if key not in _NAMES_AND_SPEED}


def shared_copy(model: Any) -> Any:
    """Another module of the same structure over the same tensors: adapters may be put into it, the first stays plain.

    Its parameters are objects of their own, so that freezing one or giving it another tensor does not touch the first.
    """
    import torch

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if id(parameter) not in memo:
            memo[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo.setdefault(id(buffer), buffer)
    return copy.deepcopy(model, memo)


def own_trainable(model: Any) -> None:
    """Gives each trainable parameter memory of its own, so that training changes nobody else's."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()


def is_peft(model: Any) -> bool:
    """Whether a module is wrapped by peft."""
    return any(cls.__module__ == "peft.peft_model" and cls.__name__ == "PeftModel" for cls in type(model).__mro__)


def plain_base(model: Any) -> Any:
    """The base inside a PEFT model, over the same tensors and under its own names; a plain model is returned as it is.

    Raises:
      RecipeError: the adapter is merged into the base, or has trained weights of the base itself.
    """
    import torch

    if not is_peft(model):
        return model
    merged = [name for name, part in model.named_modules() if getattr(part, "merged", False) is True]
    biased = [c for c in model.peft_config.values() if getattr(c, "bias", "none") not in (None, False, "none")]
    if merged or biased:
        why = "is merged into its base" if merged else "also trained biases of its base"
        raise RecipeError(
            f"The adapter of this model {why}, so the checkpoint that it started from is not at hand: name it, "
            'log_lineage(recipe={"base": "FOLDER OR HUB NAME", ...}).'
        )
    duplicate = shared_copy(model)
    unload = getattr(duplicate.base_model, "unload", None)
    base = unload() if callable(unload) else duplicate.get_base_model()
    for name, part in list(base.named_modules()):
        original = getattr(part, "original_module", None)
        if original is not None:
            owner, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(owner), leaf, original)
    with torch.device("meta"):
        expected = set(type(base)(base.config).state_dict())
    if set(base.state_dict()) != expected:
        raise RecipeError(
            f"The base inside this {type(model).__name__} cannot be separated from its adapter: name the checkpoint, "
            'log_lineage(recipe={"base": "FOLDER OR HUB NAME", ...}).'
        )
    for parameter in base.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return base
