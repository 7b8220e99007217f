"""Augmentation of image batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mlflow_privacy.trainers.torch.augment import apply, draw

IMAGES = torch.arange(1, 2 * 3 * 5 * 6 + 1).reshape(2, 3, 5, 6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crop_equals_a_naive_crop_of_the_padded_image(dtype, mode):
    images = IMAGES.to(dtype)
    offset = torch.tensor([[0, 4], [3, 1]])
    out = apply(images, {"crop": 2, "crop_mode": mode}, {"crop": offset})
    assert out.shape == images.shape
    assert out.dtype == dtype
    for i, (dy, dx) in enumerate(offset.tolist()):
        padded = F.pad(images[i : i + 1].float(), (2, 2, 2, 2), mode="reflect" if mode == "reflect" else "constant")
        assert torch.equal(out[i].float(), padded[0, :, dy : dy + 5, dx : dx + 6])


def test_crop_in_the_middle_changes_nothing():
    assert torch.equal(apply(IMAGES, {"crop": 2}, {"crop": torch.full((2, 2), 2)}), IMAGES)


def test_flip_mirrors_only_the_drawn_images():
    out = apply(IMAGES, {"flip": 0.5}, {"flip": torch.tensor([True, False])})
    assert torch.equal(out[0], IMAGES[0].flip(-1))
    assert torch.equal(out[1], IMAGES[1])


def test_cutout_blanks_a_square_that_the_border_may_cut():
    out = apply(IMAGES, {"cutout": 2}, {"cutout": torch.tensor([[2, 3], [0, 0]])})
    expected = IMAGES.clone()
    expected[0, :, 1:3, 2:4] = 0
    expected[1, :, :1, :1] = 0
    assert torch.equal(out, expected)


def test_draws_have_the_asked_distribution_and_come_from_the_generator():
    options = {"crop": 2, "flip": 0.25, "cutout": 3}
    device = torch.device("cpu")
    drawn = draw(options, 20_000, (3, 5, 6), torch.Generator().manual_seed(1), device)
    assert drawn["crop"].unique().tolist() == [0, 1, 2, 3, 4]
    assert abs(float(drawn["flip"].float().mean()) - 0.25) < 0.015  # five standard errors
    assert drawn["cutout"].amax(0).tolist() == [4, 5]
    assert drawn["cutout"].amin(0).tolist() == [0, 0]
    again = draw(options, 20_000, (3, 5, 6), torch.Generator().manual_seed(1), device)
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
    assert draw({}, 5, (7,), torch.Generator(), device) == {}


def pixel_by_pixel(batch, offset, padding, mode):
    """The crop by an index of every single pixel: what `apply` did first, slow and plain."""
    around = (padding,) * 4
    padded = F.pad(batch.float(), around, mode="reflect" if mode == "reflect" else "constant").to(batch.dtype)
    b, channels, height, width = batch.shape
    image = torch.arange(b)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    row = (offset[:, :1] + torch.arange(height))[:, None, :, None]
    column = (offset[:, 1:] + torch.arange(width))[:, None, None, :]
    return padded[image, channel, row, column]


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(17, 3, 12, 12), (5, 1, 9, 14), (1, 2, 6, 5)])
def test_whole_windows_equal_pixel_by_pixel(shape, dtype, mode):
    generator = torch.Generator().manual_seed(2)
    batch = torch.randint(0, 256, shape, generator=generator).to(dtype)
    drawn = draw({"crop": 4}, shape[0], shape[1:], generator, torch.device("cpu"))
    for given in (batch, batch.contiguous(memory_format=torch.channels_last)):
        out = apply(given, {"crop": 4, "crop_mode": mode}, drawn)
        assert torch.equal(out, pixel_by_pixel(batch, drawn["crop"], 4, mode))


def test_all_three_act_in_their_order_on_bytes_and_floats_alike():
    options = {"crop": 2, "flip": 0.5, "cutout": 3}
    drawn = draw(options, 2, (3, 5, 6), torch.Generator().manual_seed(3), torch.device("cpu"))
    out = apply(IMAGES.to(torch.uint8), options, drawn)
    assert torch.equal(out.float(), apply(IMAGES.float(), options, drawn))
    step = IMAGES
    for name in ("crop", "flip", "cutout"):
        step = apply(step, options, {name: drawn[name]})
    assert torch.equal(out.long(), step)
