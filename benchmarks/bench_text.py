"""Audits a language model that was fine-tuned on AG News: AUC and TPR per attack, blind baseline, fidelity, seconds.

    MLFLOW_PRIVACY_DATA=... python benchmarks/bench_text.py --vocabulary FOLDER            # all weights train
    MLFLOW_PRIVACY_DATA=... python benchmarks/bench_text.py --vocabulary FOLDER --peft lora
    MLFLOW_PRIVACY_DATA=... python benchmarks/bench_text.py --model CHECKPOINT --peft lora --references 2

The default model, `tiny-gpt2`, is a GPT-2 of two layers over GPT-2's own vocabulary. It starts from random weights, so
it first learns AG News rows that belong to nobody's pool; `--base FOLDER` keeps that checkpoint for the next call. The
vocabulary is a folder with GPT-2's `encoder.json` and `vocab.bpe`. Any other `--model` is a local checkpoint in
transformers' format, and its tokenizer lies beside it. Target and references are trained by one recipe on the CPU or
the accelerator that is there, in memory; nothing is written but `--base`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

TINY = "tiny-gpt2"
LAYERS = 2
PRETRAINING = {"learning_rate": 3e-3, "batch_size": 16, "schedule": "cosine", "warmup_ratio": 0.05}
NEED_REFERENCES = ("rmia", "rmia_offline", "lira")
ATTACKS = (*NEED_REFERENCES, "base_ratio", "min_k_plus", "min_k", "zlib", "lowercase", "loss")


def texts(n: int, *, last: bool = False, others: int = 0) -> Any:
    """The first or the last n rows of AG News, shuffled once and for all, as a frame with a column `text`."""
    import pandas as pd

    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if folder is None:
        raise SystemExit("Set MLFLOW_PRIVACY_DATA to the folder that holds ag_news/test-00000-of-00001.parquet.")
    frame = pd.read_parquet(Path(folder) / "ag_news" / "test-00000-of-00001.parquet")
    frame = frame.drop_duplicates("text", ignore_index=True)
    if n + others > len(frame):
        raise SystemExit(f"AG News has {len(frame)} rows here, {n + others} were asked for.")
    order = np.random.default_rng(0).permutation(len(frame))
    return frame.iloc[order[len(order) - n :] if last else order[:n]][["text"]].reset_index(drop=True)


def gpt2_tokenizer(folder: Path) -> Any:
    """GPT-2's tokenizer from its vocabulary and merges."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    files = [folder / "encoder.json", folder / "vocab.bpe"]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise SystemExit(f"{folder} holds no {' and no '.join(missing)} of GPT-2; name another --vocabulary.")
    bpe = ByteLevelBPETokenizer.from_file(*map(str, files))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")


def random_gpt2(tokenizer: Any, width: int, positions: int) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=width, n_layer=LAYERS, n_head=width // 64,
        bos_token_id=end, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def load(folder: Path, max_length: int) -> Any:
    """A checkpoint with its tokenizer."""
    import torch
    import transformers

    from mlflow_privacy.text import LanguageModel

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return LanguageModel(model, transformers.AutoTokenizer.from_pretrained(folder), "causal_lm", max_length)


def tiny_base(arguments: argparse.Namespace, device: str) -> Any:
    """A small GPT-2 that has learnt a little of the language: what fine-tuning starts from."""
    from mlflow_privacy.text import LanguageModel

    if arguments.base is not None and (arguments.base / "config.json").is_file():
        return load(arguments.base, arguments.max_length)
    if arguments.vocabulary is None:
        raise SystemExit("tiny-gpt2 needs --vocabulary, a folder with GPT-2's encoder.json and vocab.bpe.")
    tokenizer = gpt2_tokenizer(arguments.vocabulary)
    model = random_gpt2(tokenizer, arguments.width, max(arguments.max_length, 64))
    start = LanguageModel(model, tokenizer, "causal_lm", arguments.max_length)
    records = as_records(texts(arguments.pretrain, last=True, others=arguments.rows))
    settings = {**PRETRAINING, "epochs": arguments.pretrain_epochs, "max_length": arguments.max_length}
    everyone = np.ones(len(records), bool)
    base = dataclasses.replace(fine_tuned(start, settings, records, everyone, 1, device)[0], tokenizer=tokenizer)
    if arguments.base is not None:
        base.model.save_pretrained(arguments.base)
        tokenizer.save_pretrained(arguments.base)
    return base


def as_records(frame: Any) -> Any:
    from mlflow_privacy.types import Records

    return Records(frame, np.zeros(len(frame), np.int64), np.array([f"row:{i}" for i in range(len(frame))]))


def fine_tuned(base: Any, settings: dict[str, Any], records: Any, member: np.ndarray, seed: int, device: str) -> Any:
    """(model, recipe): the base, trained on the members by the recipe that the references will follow."""
    from mlflow_privacy.trainers import make_recipe, trainer_for

    recipe = make_recipe(base, {**settings, "base": base}, task="language", data=records)
    (model,) = trainer_for(recipe).train(recipe, records, member[None], [seed], device=device)
    return model, recipe


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    lora = arguments.peft == "lora"
    rate = arguments.learning_rate or (5e-3 if lora else 1e-3)
    settings: dict[str, Any] = {"learning_rate": rate, "epochs": arguments.epochs, "batch_size": arguments.batch_size}
    settings["max_length"] = arguments.max_length
    if lora:
        settings["peft"] = {"type": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY, help="tiny-gpt2, or a folder with a checkpoint")
    parser.add_argument("--vocabulary", type=Path, help="folder with GPT-2's encoder.json and vocab.bpe")
    parser.add_argument("--base", type=Path, help="where the base of tiny-gpt2 is kept, or found")
    parser.add_argument("--peft", choices=["none", "lora"], default="none")
    parser.add_argument("--rows", type=int, default=600, help="of the pool; half of them are members")
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--width", type=int, default=128, help="of tiny-gpt2, a multiple of 64")
    parser.add_argument("--pretrain", type=int, default=3000, help="rows that only the base of tiny-gpt2 learns")
    parser.add_argument("--pretrain-epochs", type=int, default=2)
    parser.add_argument("--device", default="auto")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> Any:
    """Makes base and target, audits, prints; returns the audit's result."""
    import torch
    import transformers

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.pipeline import audit
    from mlflow_privacy.types import AuditedModel, AuditTarget

    stages: dict[str, float] = {}
    started = time.perf_counter()
    tiny = arguments.model == TINY
    base = tiny_base(arguments, arguments.device) if tiny else load(Path(arguments.model), arguments.max_length)
    stages["base (trained or loaded)"] = time.perf_counter() - started
    pool = as_records(texts(arguments.rows))
    member = np.arange(arguments.rows) < arguments.rows // 2
    started = time.perf_counter()
    model, recipe = fine_tuned(base, settings_of(arguments), pool, member, 0, arguments.device)
    stages["target"] = time.perf_counter() - started
    live = AuditedModel("benchmark", None, None, None, None, "transformers", model)
    target = AuditTarget(live, pool, member, "language", recipe=recipe)
    attacks = [name for name in ATTACKS if arguments.references or name not in NEED_REFERENCES]
    options = AuditOptions(
        num_ref_models=arguments.references, attacks=attacks, device=arguments.device, progress=False, fprs=(0.01, 0.1)
    )
    started = time.perf_counter()
    result = audit(target, options)
    stages["audit"] = time.perf_counter() - started
    show(result, stages, arguments, base)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, GPU: {where}"
    )
    return result


def show(result: Any, stages: dict[str, float], arguments: argparse.Namespace, base: Any) -> None:
    """The tables of `benchmarks/README.md`."""
    size = sum(parameter.numel() for parameter in base.model.parameters()) / 1e6
    print(
        f"{Path(arguments.model).name}, {size:.1f} M parameters, peft {arguments.peft}: {arguments.rows} rows, "
        f"{int(result.membership.sum())} members, {arguments.references} references, {arguments.epochs} epochs, "
        f"batch {arguments.batch_size}, {arguments.max_length} tokens\n"
    )
    print("| attack | AUC | TPR at 1 % FPR |\n|---|---|---|")
    for attack in result.attacks:
        print(f"| {attack.title} | {attack.metrics['auc']} | {attack.metrics['tpr_at_fpr_0.01']} |")
    print(f"\nBlind baseline: AUC {result.blind}")
    print("\n| loss on | members | non-members |\n|---|---|---|")
    for name, means in (("target", result.fidelity.target), ("references (mean)", result.fidelity.reference)):
        if means:
            print(f"| {name} | {means['member_loss']:.3f} | {means['nonmember_loss']:.3f} |")
    print("\n| stage | s |\n|---|---|")
    parts = {f"of the audit: {stage}": seconds for stage, seconds in result.timings.items()}
    for stage, seconds in {**stages, **parts}.items():
        print(f"| {stage} | {seconds:.1f} |")
    for warning in result.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main()
