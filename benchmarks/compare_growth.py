"""How the cost of our audit grows with records, references and the size of the model: a helper of compare.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compare import call, machine, median_of, one_run
from compare_workloads import WORKLOADS, configs, make_arrays

ROWS, REFERENCES, WIDTH, EPOCHS = 13_334, 4, 128, 5
STEPS = (
    *({"rows": rows} for rows in (ROWS, 2 * ROWS, 4 * ROWS)),
    *({"references": k} for k in (1, 8, 16)),
    *({"width": width} for width in (512, 2048)),
)


def growth(folder: Path, *, repeats: int, threads: int | None) -> dict[str, Any]:
    """Prints a table: one thing changes a row, from `ROWS` records, `REFERENCES` references, `WIDTH` hidden units."""
    print(f"purchase-mlp, {EPOCHS} epochs, one audit with all defaults. {machine()}")
    names = ("training", "signals", "attack", "blind baseline", "total", "peak MB")
    print("| pool | OUT references | hidden units | " + " | ".join(n if "MB" in n else f"{n}, s" for n in names) + " |")
    print("| --- " * (3 + len(names)) + "|", flush=True)
    found: dict[str, Any] = {}
    for i, step in enumerate(STEPS):
        size = {"rows": ROWS, "references": REFERENCES, "width": WIDTH, **step}
        place = folder / str(i)
        place.mkdir()
        made = make_arrays("purchase-mlp", size["rows"], place)
        config = configs(WORKLOADS["purchase-mlp"], epochs=EPOCHS, references=size["references"], device="cpu", seed=0)[
            "ours"
        ]
        config["train"]["model_options"]["hidden"] = [size["width"]]
        runs = []
        for repeat in range(repeats):
            spec = {**made, "config": config, "folder": str(place / str(repeat)), "log_dir": "r"}
            call("compare_ours.py", "prepare", spec, threads)
            runs.append(one_run("ours", spec, threads))
        figures = median_of(runs)
        found[str(size)] = figures
        cells = [f"{made['rows']:,}", str(size["references"]), str(size["width"])]
        cells += [f"{figures[name]:.0f}" if "MB" in name else f"{figures[name]:.2f}" for name in names]
        print("| " + " | ".join(cells) + " |", flush=True)
    return found
