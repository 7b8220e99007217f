"""Options of the game "range"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from mlflow_privacy.errors import nearest
from mlflow_privacy.games.game import GameOptions
from mlflow_privacy.games.range.functions import RANGE_FUNCTIONS
from mlflow_privacy.games.range.membership import Direction

Score = Literal["trimmed_mean", "max", "mean"]


class RangeOptions(GameOptions):
    """Options of the game "range".

    Attributes:
      function: a key of `RANGE_FUNCTIONS`. None: "word_replace" for texts, "geometric" for images, else "l2".
      n_samples: points drawn in each range.
      radius, clip: of "l2"; without a radius half the median distance between neighbours.
      flip, vertical_flip, rotate, shift: of "geometric".
      columns, num_missing: of "missing_values": the columns that are unknown, or how many are, drawn by the seed.
      col_ranges: by column, or one entry a column in their order: (low, high), or values with `categorical`.
      mask_model, mask_tokenizer, num_masks: of "word_replace": a masked language model by hub name or folder, its
        tokenizer if it is another one, and how many tokens are replaced.
      score: how sample scores become a range's.
      trim_ratio, trim_direction: of the trimmed mean; without a ratio both are tuned on the references.
      moved: also ask about ranges whose centre is not the record itself.
      attack: whose scores the samples get. None: RMIA where it runs, else the headline's.
    """

    function: str | None = None
    n_samples: int = Field(10, ge=1)
    radius: float | None = Field(None, gt=0)
    clip: Sequence[float] | None = Field(None, min_length=1)
    flip: bool = True
    vertical_flip: bool = False
    rotate: float = Field(15.0, ge=0)
    shift: int = Field(2, ge=0)
    columns: Sequence[Any] | None = Field(None, min_length=1)
    num_missing: int | None = Field(None, ge=1)
    col_ranges: Any = None
    categorical: bool = False
    mask_model: str | None = None
    mask_tokenizer: str | None = None
    num_masks: int = Field(5, ge=1)
    score: Score = "trimmed_mean"
    trim_ratio: float | None = Field(None, ge=0, lt=1)
    trim_direction: Direction = "low"
    moved: bool = True
    attack: str | None = None

    @field_validator("function")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in RANGE_FUNCTIONS:
            there_are = f"; there are {', '.join(RANGE_FUNCTIONS)}."
            raise ValueError(f"there is no range function {value!r}{nearest(value, RANGE_FUNCTIONS) or there_are}")
        return value
