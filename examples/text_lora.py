"""Text: a language model fine-tuned with LoRA, and how much it remembers of single customer messages.

    python examples/text_lora.py && mlflow ui

Everything is made on the spot: a tokenizer, a small GPT-2 trained on messages that nobody audits (the base checkpoint),
and a LoRA adapter trained on 96 others. No download; put a hub name in place of the base to do the same with a real
one.
"""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

import mlflow_privacy
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records

NAMES = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kim Leo Mia Noa Ole Pia".split()  # noqa: SIM905
THINGS = "invoice parcel password refund contract delivery account payment".split()  # noqa: SIM905
STATES = "late lost wrong missing open broken".split()  # noqa: SIM905
BASE = {"learning_rate": 3e-3, "epochs": 6, "batch_size": 16, "max_length": 24}
ADAPTER = {"learning_rate": 1e-2, "epochs": 25, "batch_size": 16, "max_length": 24}
LORA = {"type": "lora", "r": 8, "target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}


def messages(n: int, seed: int) -> pd.DataFrame:
    """Messages of one pattern; name, matter and number differ."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "text": [
                f"{rng.choice(NAMES)}: my {rng.choice(THINGS)} {rng.integers(1000, 9999)} is {rng.choice(STATES)}"
                for _ in range(n)
            ]
        }
    )


def make_base(folder: Path, texts: pd.DataFrame) -> Any:
    """A tokenizer and a two-layer GPT-2 that knows the pattern; saved as a checkpoint. Returns both, live."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from mlflow_privacy.text import LanguageModel

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts["text"], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=400, n_positions=32, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    blank = LanguageModel(transformers.GPT2LMHeadModel(config), tokenizer, "causal_lm", 24)
    base = train(blank, texts, BASE)
    base.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return base


def train(start: Any, texts: pd.DataFrame, settings: dict[str, Any]) -> Any:
    """Trains on all of `texts` by the package's own trainer; your own training loop does as well."""
    recipe = make_recipe(start, {**settings, "base": start}, task="language")
    records = Records(texts, np.zeros(len(texts), np.int64), np.arange(len(texts)).astype(str))
    (model,) = trainer_for(recipe).train(recipe, records, np.ones((1, len(texts)), bool), [0], device="cpu")
    return model


def main(references: int = 4) -> dict[str, float]:
    """Registers and audits the adapter; returns the audit's metrics."""
    public, both = messages(400, seed=1), messages(192, seed=2)
    train_set, holdout = both[:96], both[96:].reset_index(drop=True)
    mlflow.set_experiment("messages")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "base"
        base = make_base(checkpoint, public)
        with mlflow.start_run():
            model = train(base, train_set, {**ADAPTER, "peft": LORA})
            mlflow_privacy.log_lineage(
                train=train_set, holdout=holdout, text="text", recipe={**ADAPTER, "peft": LORA, "base": str(checkpoint)}
            )
            info = mlflow.transformers.log_model(
                {"model": model.model, "tokenizer": model.tokenizer},
                name="model",
                task="text-generation",
                registered_model_name="support-messages",
                base_model_path=str(checkpoint),
                pip_requirements=["transformers", "peft"],
            )
        uri = f"models:/support-messages/{info.registered_model_version}"
        result = mlflow_privacy.evaluate(uri, num_ref_models=references)
    attacks = [key.split("/")[1] for key in result.metrics if key.endswith("/auc") and "blind" not in key]
    for name in attacks:
        auc, low, high = (result.metrics[f"privacy/{name}/auc{end}"] for end in ("", "_low", "_high"))
        print(f"{name}: AUC {auc:.3f} [{low:.3f}, {high:.3f}]")
    return result.metrics


if __name__ == "__main__":
    main()
