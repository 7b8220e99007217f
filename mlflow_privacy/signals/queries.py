r"""Several queries per record: the record and augmentations of it, as the model was trained on them.

.. math:: \phi(x) = \frac1q \sum_{i<q} \phi(t_i(x))

Carlini et al. (2022), https://arxiv.org/abs/2112.03570, average the logit-scaled confidences over augmentations;
Zarifzadeh et al. (2024), https://arxiv.org/abs/2312.03262, use up to 18. The queries are the same for every model:

| query | what |
|---|---|
| 0 | the record itself |
| 1 | its mirror image, if training flips |
| then | shifted by the padding of training's random crop, up, down, left, right, and along the four diagonals; where training flips, each also mirrored |
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import ModelOutputs, Records

_logger = logging.getLogger(__name__)
_DIRECTIONS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))  # (rows, columns)


class Query(NamedTuple):
    """Content moves `down` and `right` by so many pixels, then the image is mirrored or not."""

    down: int
    right: int
    mirror: bool


def image_queries(augmentation: Mapping[str, Any]) -> list[Query]:
    """All queries that a recipe's augmentation makes meaningful, in their order; the first changes nothing.

    Args:
      augmentation: {"crop": padding, "flip": probability, ...} as in the recipe; other keys add none.

    >>> image_queries({"flip": 0.5})
    [Query(down=0, right=0, mirror=False), Query(down=0, right=0, mirror=True)]
    >>> len(image_queries({"flip": 0.5, "crop": 4})), len(image_queries({"crop": 4})), len(image_queries({"cutout": 8}))
    (18, 9, 1)
    """
    padding = int(augmentation.get("crop") or 0)
    mirrors = (False, True) if float(augmentation.get("flip") or 0) > 0 else (False,)
    directions = _DIRECTIONS if padding > 0 else _DIRECTIONS[:1]
    return [Query(padding * a, padding * b, mirror) for (a, b), mirror in itertools.product(directions, mirrors)]


def effective_queries(
    records: Records, num_queries: int, augmentation: Mapping[str, Any], *, asked_for: bool = True
) -> int:
    """How many queries a record gets: as asked, but no more than the recipe's augmentation makes meaningful.

    A model that was trained without flips was never shown a mirror image, so that its answer says nothing about the
    record's membership. Records that are no images get one. Where it is less than asked, the log says why.

    Args:
      num_queries: at least 1.
      augmentation: of the recipe; {} if it has none.
      asked_for: whether somebody chose `num_queries`; of a default that does not apply nothing is said.

    Raises:
      ConfigError: num_queries is not a positive whole number.

    >>> table = Records(np.zeros((2, 5)), np.zeros(2), np.array(["a", "b"]))
    >>> images = Records(np.zeros((2, 3, 8, 8)), np.zeros(2), np.array(["a", "b"]))
    >>> [effective_queries(r, 8, {"flip": 0.5}) for r in (table, images)], effective_queries(images, 1, {"crop": 4})
    ([1, 2], 1)
    """
    if isinstance(num_queries, bool) or not isinstance(num_queries, (int, np.integer)) or num_queries < 1:
        raise ConfigError(f"num_queries must be a positive whole number, got {num_queries!r}.")
    if num_queries == 1:
        return 1
    tell = _logger.info if asked_for else _logger.debug
    if not _are_images(records):
        tell("One query a record instead of num_queries=%d: the records are no images.", num_queries)
        return 1
    most = len(image_queries(augmentation))
    if most < num_queries:
        known = ", ".join(key for key in ("flip", "crop") if augmentation.get(key)) or "neither flip nor crop"
        tell(
            "%d quer%s a record instead of num_queries=%d: the models were trained with %s, which has no more.",
            most,
            "y" if most == 1 else "ies",
            num_queries,
            known,
        )
    return min(int(num_queries), most)


def augmented_outputs(
    outputs_of: Callable[[Records], ModelOutputs],
    records: Records,
    num_queries: int,
    *,
    augmentation: Mapping[str, Any],
) -> ModelOutputs:
    """What a model says about records and augmentations of them: the mean signal, the rest of the records themselves.

    Correctness and loss are of the record as it is, because they say how well the model fits the records, and so are
    further signals. One query's images are in memory at a time, beside the records.

    Args:
      outputs_of: one model's outputs on some records.
      records: images (n, channels, height, width) of any number type; others get the plain outputs.
      num_queries: at most as many as `image_queries` of the augmentation are used; 1 is the plain outputs.
      augmentation: of the recipe: {"crop": padding, "crop_mode": "zeros" or "reflect", "flip": probability}.

    Raises:
      ConfigError: num_queries is not a positive whole number.

    Example:
      >>> def left_pixel(records):  # a model whose signal is the first pixel
      ...     return ModelOutputs(np.float32(records.x[:, 0, 0, 0]), None, np.zeros(len(records)), "logit")
      >>> images = Records(np.array([[[[1.0, 3.0]]]]), np.zeros(1), np.array(["a"]))
      >>> augmented_outputs(left_pixel, images, 2, augmentation={"flip": 0.5}).signal.tolist()
      [2.0]
    """
    count = effective_queries(records, num_queries, augmentation)
    own = outputs_of(records)
    if count == 1:
        return own
    total = np.asarray(own.signal, np.float64).copy()
    mode = augmentation.get("crop_mode", "zeros")
    for query in image_queries(augmentation)[1:count]:
        total += outputs_of(dataclasses.replace(records, x=transform(records.x, query, mode=mode))).signal
    return dataclasses.replace(own, signal=(total / count).astype(np.asarray(own.signal).dtype))


def transform(images: np.ndarray, query: Query, *, mode: str = "zeros") -> np.ndarray:
    """The images as a query shows them: a new array (n, channels, height, width) of the same type.

    Args:
      mode: what comes in at the border: "zeros", or "reflect" for the image's own pixels, without its outermost.

    >>> transform(np.array([[[[1, 2, 3]]]]), Query(0, 1, mirror=False)).tolist()
    [[[[0, 1, 2]]]]
    >>> transform(np.array([[[[1, 2, 3]]]]), Query(0, 1, mirror=True), mode="reflect").tolist()
    [[[[2, 1, 2]]]]
    """
    (_, _, height, width), (down, right, mirror) = images.shape, query
    if down or right:
        around = ((0, 0), (0, 0), (abs(down), abs(down)), (abs(right), abs(right)))
        padded = np.pad(images, around, mode="reflect" if mode == "reflect" else "constant")
        top, left = abs(down) - down, abs(right) - right
        images = padded[:, :, top : top + height, left : left + width]
    # Copied along the lines of memory; a reversed view would be refused by torch.
    return (images[..., ::-1] if mirror else images).copy()


def _are_images(records: Records) -> bool:
    """Whether the records are an array (n, channels, height, width) of numbers."""
    return isinstance(records.x, np.ndarray) and records.x.ndim == 4 and records.x.dtype.kind in "biuf"
