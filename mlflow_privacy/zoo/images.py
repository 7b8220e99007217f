"""Encoded images (JPEG, PNG, …) to one array of bytes, in parallel threads."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlflow_privacy.errors import ConfigError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # none that starts another program, as EPS does
MAX_PIXELS = 2**26
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I")
_CHUNK = 512


def decode_images(encoded: Sequence[bytes], *, name: str) -> np.ndarray:
    """Decodes images of one size.

    Args:
      encoded: n files as bytes.
      name: of the data set, for messages.

    Returns: (n, channels, height, width) uint8; one channel if every image is grey, else three (RGB).

    Raises:
      ConfigError: a file is no image, or they differ in size.
    """
    if not len(encoded):
        return np.empty((0, 3, 0, 0), np.uint8)
    with _open(encoded[0], 0, name) as first:
        (width, height), grey = first.size, first.mode in _GREY
    if width * height > MAX_PIXELS:
        raise ConfigError(f"the images of data set {name!r} are {width}×{height}, more than {MAX_PIXELS:,} pixels.")
    out, headers = _decoded(encoded, name, width, height, grey)
    sizes = Counter(size for size, _ in headers)
    if len(sizes) > 1:
        seen = ", ".join(f"{w}×{h} ({k})" for (w, h), k in sizes.most_common(5)) + (", …" if len(sizes) > 5 else "")
        raise ConfigError(
            f"the images of data set {name!r} have {len(sizes)} sizes, width × height (number): {seen}. All must be of "
            "one size: resize them, and save them again."
        )
    if grey and not all(mode in _GREY for _, mode in headers):  # some have colours after all
        out, _ = _decoded(encoded, name, width, height, False)
    return out


Header = tuple[tuple[int, int], str]


def _decoded(
    encoded: Sequence[bytes], name: str, width: int, height: int, grey: bool
) -> tuple[np.ndarray, list[Header]]:
    """Pixels of the images of that size, and size and mode of all; chunks in threads, as Pillow lets go of the lock."""
    out = np.empty((len(encoded), 1 if grey else 3, height, width), np.uint8)
    mode = "L" if grey else "RGB"

    def decode(start: int) -> list[Header]:
        headers: list[Header] = []
        for i, data in enumerate(encoded[start : start + _CHUNK], start):
            with _open(data, i, name) as image:
                headers.append((image.size, image.mode))
                if image.size != (width, height):
                    continue
                try:
                    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
                except (OSError, ValueError, SyntaxError) as error:  # Pillow's faults of truncated files
                    raise ConfigError(f"image {i} of data set {name!r} cannot be decoded: {error}") from error
            out[i] = pixels if grey else pixels.transpose(2, 0, 1)
        return headers

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(decode, range(0, len(encoded), _CHUNK)))
    return out, [header for part in parts for header in part]


def _open(data: bytes, index: int, name: str):  # type: ignore[no-untyped-def]
    from PIL import Image, UnidentifiedImageError

    if not isinstance(data, bytes):
        raise ConfigError(f"image {index} of data set {name!r} has no bytes. Save the images into the file.")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"image {index} of data set {name!r} cannot be decoded as {', '.join(FORMATS)}: {error}"
        ) from error
