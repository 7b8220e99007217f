"""AG News."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.zoo import hub
from mlflow_privacy.zoo.data import DataSet
from mlflow_privacy.zoo.registry import data_folders, dataset

AG_NEWS_CLASSES = ("World", "Sports", "Business", "Sci/Tech")
AG_NEWS_HUB = "fancyzhx/ag_news"
_FOLDERS = ("", "ag_news", "agnews", "ag-news")


@dataset("agnews")
def agnews(
    *,
    split: str = "train",
    population_split: str | None = None,
    download: bool = True,
    data_dir: str | Path | None = None,
    folders: Sequence[str | Path] = (),
) -> DataSet:
    """120,000 and 7,600 news in English, 4 topics (Zhang, Zhao and LeCun 2015, https://arxiv.org/abs/1509.01626).

    From files with the columns `text` and `label` (0 World, 1 Sports, 2 Business, 3 Sci/Tech), else from the hub.

    Args:
      split: whose records are the pool: "train" or "test".
      population_split: default "test" if there is one and it is not the pool.
      download: whether to ask the hub if there are no files.
      data_dir: only where to look; the hub's own cache keeps what is downloaded.
      folders: where to look, before data_dir.

    Raises:
      ConfigError: there are no files and the hub cannot be reached.
    """
    places = [Path(f) for f in folders] or data_folders(data_dir)
    for folder in [place / sub for place in places for sub in _FOLDERS]:
        pool = _news(folder, split)
        if pool is None:
            continue
        other = _news(folder, population_split or "test") if population_split or split != "test" else None
        if population_split and other is None:
            raise ConfigError(hub.no_split(folder, population_split))
        source = f"folder {folder.name}, split {split}"
        break
    else:
        layouts = (
            f"Save {split}-00000-of-00001.parquet, {split}.jsonl or {split}.csv with the columns text and label, or "
            f"what Dataset.save_to_disk writes, as ag_news below one of {', '.join(map(str, places))}."
        )
        if not download:
            raise ConfigError(f"data set 'agnews' is not there, and data.options.download is off. {layouts}")
        try:
            pool, other = hub.hub_parts(AG_NEWS_HUB, split, population_split, None)
        except ConfigError as error:
            raise ConfigError(f"data set 'agnews' is not there and cannot be downloaded. {layouts} {error}") from error
        source = f"Hugging Face hub {AG_NEWS_HUB}, split {split}"
    return hub.from_parts(
        "agnews", source, pool, other, text="text", targets="label", task="classification", classes=AG_NEWS_CLASSES
    )


def _news(folder: Path, split: str) -> hub.Part | None:
    """A split of the folder if its columns are those of AG News: data_dir itself may hold something else."""
    if not folder.is_dir():
        return None
    files = hub.split_files(folder, split)
    part = hub.read_part(files) if files else hub.local_part(folder, split)
    return part if part is not None and {"text", "label"} <= set(part.table.column_names) else None
