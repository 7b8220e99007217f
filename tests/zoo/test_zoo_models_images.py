"""Networks for images: published shapes and counts, fresh starts, names, pixel scaling."""

import io
import subprocess
import sys

import numpy as np
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.types import Records

torch = pytest.importorskip("torch")
nn = torch.nn

SMALL = {
    "lenet": {},
    "alexnet": {},
    "wrn28-1": {"dropout": 0.3},
    "vgg11": {"batch_norm": True, "pool": 1},
    "cnn": {},
    "wrn": {"depth": 10, "width": 1},
}
VISION = ("torchvision:shufflenet_v2_x0_5", "mobilenet_v3_small")


def build(name, shape=(3, 32, 32), outputs=10, options=None):
    return zoo.build_model(name, shape, outputs, options or {}, task="classification")


def meta(name, outputs=10, options=None, shape=(3, 32, 32)):
    with torch.device("meta"):
        return build(name, shape, outputs, options)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 32, 48)])
@pytest.mark.parametrize("name", [*SMALL, "wrn28-2", "wrn28-10", "vgg16", "vgg19"])
def test_every_network_maps_images_of_any_usual_size_to_logits_and_can_train(name, shape):
    # Shapes alone: the widest of these nets would take minutes and gigabytes.
    net = meta(name, outputs=7, options=SMALL.get(name), shape=shape).train()
    assert net(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["lenet", "wrn", "vgg11", "alexnet"])
def test_outputs_are_finite_and_differ_between_images(name):
    net = build(name, (1, 28, 28), options=SMALL[name]).eval()
    with torch.no_grad():
        out = net(torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert out.isfinite().all()
    assert not torch.equal(out[0], out[1])


def assert_starts_afresh(net):
    from mlflow_privacy.trainers.torch.reinit import kept_buffers, reinitialise

    one, same, other = (reinitialise(net, seed).state_dict() for seed in (1, 1, 2))
    assert all(value.isfinite().all() for value in one.values() if value.is_floating_point())
    assert all(torch.equal(one[key], same[key]) for key in one)
    random = [key for key, p in net.named_parameters() if p.min() < p.max()]
    assert random
    assert all(not torch.equal(one[key], other[key]) for key in random)
    assert all(not torch.equal(one[key], net.state_dict()[key]) for key in random)
    assert kept_buffers(net) == []


@pytest.mark.parametrize("name", ["lenet", "wrn28-1", "vgg11", *VISION])
def test_networks_start_afresh_from_a_seed(name):
    assert_starts_afresh(build(name, options=SMALL.get(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("alexnet", 32), ("wrn28-2", 32), ("resnet18", 32), ("googlenet", 64), ("inception_v3", 96)),
        *(("vit_b_32", 64), ("convnext_tiny", 32), ("swin_t", 32), ("swin_v2_t", 64), ("densenet121", 32)),
        ("regnet_x_400mf", 32),
    ],
)
def test_large_networks_start_afresh_from_a_seed(name, side):
    assert_starts_afresh(build(name, (3, side, side)))


def tiny_vision_models():
    from functools import partial

    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.swin_transformer import SwinTransformer
    from torchvision.models.vision_transformer import VisionTransformer

    def vit(*, weights, **options):
        return VisionTransformer(patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, **options)

    def convnext(*, weights, **options):
        blocks = [CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)]
        return ConvNeXt(blocks, layer_scale=1e-6, **options)

    swin = partial(SwinTransformer, patch_size=[4, 4], embed_dim=8, depths=[2], num_heads=[2], window_size=[4, 4])
    return {"vit_tiny": vit, "convnext_tiny": convnext, "swin_t": lambda *, weights, **options: swin(**options)}


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_tiny", "swin_t"])
def test_parameters_that_torchvisions_modules_own_directly_start_afresh(name, monkeypatch):
    models = pytest.importorskip("torchvision.models")
    from mlflow_privacy.zoo.torchvision_models import TorchvisionModel

    tiny = tiny_vision_models()[name]
    monkeypatch.setattr(models, "get_model", lambda asked, **options: tiny(**options))
    net = TorchvisionModel(name, (3, 32, 32), 5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)  # as if it had learned
    from mlflow_privacy.trainers.torch.reinit import reinitialise

    fresh = reinitialise(net, 3)
    torch.manual_seed(0)
    template = TorchvisionModel(name, (3, 32, 32), 5)
    for (key, value), made in zip(fresh.named_parameters(), template.parameters(), strict=True):
        assert not (value == 7).any(), key
        # The same distribution as the constructor's: constants are equal, the rest is of the same size.
        if made.min() == made.max():
            assert torch.equal(value, made), key
        elif made.numel() > 50:
            assert 0.5 < float(value.detach().std() / made.detach().std()) < 2, key
    assert_starts_afresh(template)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("wrn28-10", 36.48), ("wrn28-2", 1.47), ("wrn28-1", 0.37)],  # Zagoruyko & Komodakis, and Oliver et al. for 28-2
)
def test_wide_residual_networks_have_the_published_number_of_parameters(name, millions):
    assert round(count(meta(name)) / 1e6, 2) == millions


@pytest.mark.parametrize(("depth", "width", "millions"), [(40, 4, 8.9), (16, 8, 11.0), (28, 12, 52.5), (22, 8, 17.2)])
def test_other_depths_and_widths_have_the_published_number_of_parameters(depth, width, millions):
    assert round(count(meta("wrn", options={"depth": depth, "width": width})) / 1e6, 1) == millions


def test_a_wide_residual_network_has_its_depth_and_pre_activation():
    net = build("wrn28-2")
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    shortcuts = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert (len(convolutions), len(shortcuts)) == (25, 3)  # with the head and the two shortcuts that halve: 28
    assert len([m for m in build("wrn28-1").modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]) == 2
    assert type(next(net.blocks[0].children())).__name__ == "BatchNorm2d"


def test_batch_normalisation_has_pytorchs_momentum():
    for name in ("wrn28-2", "vgg11"):
        norms = [m for m in build(name, options=SMALL.get(name)).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {m.momentum for m in norms} == {0.1}
        assert norms


@pytest.mark.parametrize(("name", "channels"), [("wrn28-2", "in_channels"), ("vgg11", "out_channels")])
def test_convolutions_begin_with_variance_two_over_fan_before_and_after_a_fresh_start(name, channels):
    from mlflow_privacy.trainers.torch.reinit import reinitialise

    net = build(name, options=SMALL.get(name))
    for each in (net, reinitialise(net, 5)):
        for layer in each.modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
                fan = getattr(layer, channels) * layer.kernel_size[0] * layer.kernel_size[1]
                ratio = float(layer.weight.detach().var()) * fan / 2
                assert abs(ratio - 1) < 5 * (2 / layer.weight.numel()) ** 0.5  # five standard errors
                assert layer.bias is None or not layer.bias.any()


def test_dropout_of_a_wide_residual_network_acts_in_training_alone():
    net = build("wrn", options={"depth": 10, "width": 1, "dropout": 0.5})
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net.eval()(x), net(x))
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.0
        assert not torch.equal(net.train()(x), net(x))


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_is_torchvisions_layer_by_layer(depth, batch_norm):
    models = pytest.importorskip("torchvision.models")
    net = meta(f"vgg{depth}", 1000, {"batch_norm": batch_norm}, (3, 224, 224))
    with torch.device("meta"):
        theirs = models.get_model(f"vgg{depth}" + "_bn" * batch_norm, weights=None)
    assert [p.shape for p in net.parameters()] == [p.shape for p in theirs.parameters()]
    kept = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Linear, nn.Dropout)
    ours, other = ([type(m).__mro__ for m in tree.modules() if isinstance(m, kept)] for tree in (net, theirs))
    assert all(set(b) <= set(a) for a, b in zip(ours, other, strict=True))
    if depth == 16 and not batch_norm:
        assert round(count(net) / 1e6, 2) == 138.36


@pytest.mark.slow
def test_vgg_with_torchvisions_weights_computes_what_torchvisions_does():
    models = pytest.importorskip("torchvision.models")
    ours, theirs = build("vgg11", outputs=10).eval(), models.vgg11(weights=None, num_classes=10).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_alexnet_and_lenet_have_their_layers():
    net = meta("alexnet")
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    assert [s[0] for s in shapes] == [64, 192, 384, 256, 256, 4096, 4096, 10]
    assert shapes[5] == (4096, 256 * 2 * 2)
    kinds = [type(m).__name__ for m in net]
    assert (kinds.count("MaxPool2d"), kinds.count("Dropout"), kinds.count("AdaptiveAvgPool2d")) == (3, 2, 0)
    assert [tuple(p.shape) for p in build("CNN").parameters() if p.ndim > 1] == [
        (6, 3, 5, 5),
        (16, 6, 5, 5),
        (120, 400),
        (84, 120),
        (10, 84),
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("CNN", "CNN"),
        ("cnn", "cnn"),
        ("Cnn", "cnn"),
        ("WRN28-2", "wrn28-2"),
        ("wrn28_10", "wrn28-10"),
        ("AlexNet", "alexnet"),
        ("LeNet", "lenet"),
        ("VGG16", "vgg16"),
        ("resnet18", "torchvision:resnet18"),
        ("ResNet18", "torchvision:resnet18"),
        ("torchvision:alexnet", "torchvision:alexnet"),
        ("vgg16_bn", "torchvision:vgg16_bn"),
        ("RandomForestClassifier", None),
        ("gpt2", None),
        ("fcn_resnet50", None),
        ("resnet-50", None),
        ("torchvision:os.system", None),
    ],
)
def test_names_mean_what_they_say(asked, found):
    pytest.importorskip("torchvision")
    entry = zoo.find_model(asked)
    assert (entry and entry.name) == found
    if found:
        assert zoo.model_inputs(asked) == "image"


def test_a_scikit_learn_class_wins_over_a_registered_name_in_another_case(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.zoo.registry.MODELS", dict(zoo.MODELS))
    zoo.model("ridge")(lambda input_shape, num_outputs: nn.Linear(input_shape[0], num_outputs))
    assert zoo.find_model("Ridge") is None
    assert zoo.find_model("RIDGE").name == "ridge"


def test_cnn_and_mlp_are_the_same_layers_as_ever():
    net = build("mlp", (4,), 3, {"hidden": [8], "dropout": 0.5})
    assert [type(m).__name__ for m in net] == ["Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    kinds = ["Conv2d", "ReLU", "MaxPool2d"] * 2 + ["Flatten", "Linear", "ReLU", "Linear"]
    assert [type(m).__name__ for m in build("cnn")] == kinds
    for name, kind in (("tanh", nn.Tanh), ("gelu", nn.GELU)):
        assert isinstance(build("mlp", (4,), 3, {"activation": name})[2], kind)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("mlp", (4,), {"activation": "selu"}, "activation must be one of relu, tanh, gelu, got 'selu'"),
        ("wrn", (3, 32, 32), {"depth": 27, "width": 0}, r"(?s)depth must be 6 n \+ 4 .*got 27.*width must be a pos"),
        ("wrn28-2", (3, 32, 32), {"dropuot": 0.1}, "did you mean 'dropout'?"),
        ("vgg16", (3, 32, 32), {"batch_norm": "yes"}, "batch_norm must be true or false, got 'yes'"),
        ("vgg16", (3, 32, 32), {"pool": 0}, "pool must be a positive integer, got 0"),
        ("alexnet", (3, 8, 8), {}, "at least 16×16 pixels, got 8×8"),
        ("lenet", (3, 8, 8), {}, "at least 16×16 pixels, got 8×8"),
        ("wrn28-2", (7,), {}, r"takes images .*got records of shape \(7,\)"),
        ("squeezenet1_1", (3, 4, 4), {}, "squeezenet1_1 does not take images of 4×4 pixels"),
        ("squeezenet1_1", (2, 32, 32), {}, "1 or 3 channels"),
        ("shufflenet_v2_x0_5", (3, 32, 32), {"dropout": 0.5}, "has no option dropout"),
        ("squeezenet1_1", (3, 32, 32), {"dropuot": 0.5}, "did you mean 'dropout'?"),
        ("torchvision:resnet81", (3, 32, 32), {}, "no classifier 'resnet81', did you mean 'resnet"),
        ("resnet81", (3, 32, 32), {}, "unknown model 'resnet81', did you mean 'resnet"),
    ],
)
def test_wrong_options_and_images_are_named(name, shape, options, message):
    pytest.importorskip("torchvision")
    with pytest.raises(ConfigError, match=message):
        zoo.build_model(name, shape, 10, options, task="classification")


def test_without_torchvision_its_models_say_what_is_missing(monkeypatch):
    from mlflow_privacy.zoo import torchvision_models

    torchvision_models.classifier_names.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    try:
        (fault,) = zoo.check_model("resnet18", {}, task="classification")
        assert "torchvision cannot be imported" in fault
        assert "pip install torchvision" in fault
        assert zoo.check_model("wrn28-2", {}, task="classification") == []
        assert zoo.find_model("gpt2") is None
    finally:
        torchvision_models.classifier_names.cache_clear()


def test_a_model_of_torchvision_takes_grayscale_as_three_equal_channels():
    pytest.importorskip("torchvision")
    net = build("squeezenet1_1", (1, 32, 32)).eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(x.repeat(1, 3, 1, 1)))


def test_names_and_checks_load_neither_torch_nor_torchvision():
    code = (
        "import sys; from mlflow_privacy import zoo;"
        "assert not zoo.check_model('wrn28-2', {'dropout': 0.1}, task='classification');"
        "assert zoo.find_model('gpt2') is None;"
        "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_installed_package_adds_a_model(monkeypatch):
    monkeypatch.setattr("mlflow_privacy.zoo.registry.MODELS", dict(zoo.MODELS))
    calls = []

    def entry_points(group):
        return {"their-net": lambda: calls.append(group) or (lambda shape, outputs: nn.Linear(shape[0], outputs))}

    monkeypatch.setattr("mlflow_privacy.zoo.building.load_entry_points", entry_points)
    assert build("Their_Net", (3,), 2).out_features == 2
    assert set(calls) == {"mlflow_privacy.models"}


# Pixel scaling


def images(n=64, side=16, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.integers(0, 128, (n, 3, side, side)) + 100 * y[:, None, None, None]
    return Records(x.astype(np.uint8), y, np.arange(n).astype(str))


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def test_scaled_pixels_equal_scaling_by_hand_for_bytes_and_floats():
    x = torch.from_numpy(images(4).x)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    layer = zoo.rescaled(nn.Identity(), MEAN, STD)
    expected = (x.double() / 255 - mean.double()) / std.double()
    for given in (x, x.float()):
        torch.testing.assert_close(layer(given), expected.float())
    wide = x.float().contiguous(memory_format=torch.channels_last)
    assert layer(wide).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer.double()(x.double()), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaling_follows_the_type_of_the_net_and_rounds_once(dtype):
    x = torch.from_numpy(images(4).x)
    layer = zoo.rescaled(nn.Identity(), 0.5, 0.25).to(dtype)
    out = layer(x.to(dtype))  # every byte is exact in both types
    assert out.dtype == dtype
    torch.testing.assert_close(out, ((x.float() / 255 - 0.5) / 0.25).to(dtype))


def test_a_net_that_scales_by_itself_is_told_raw_pixel_values():
    net = build("speedyresnet", (3, 32, 32), options={"width": 0.1})
    assert zoo.rescaled(net, MEAN, STD) is net
    np.testing.assert_allclose(net.mean.flatten().numpy(), 255 * np.array(MEAN), rtol=1e-6)
    np.testing.assert_allclose(net.std.flatten().numpy(), 255 * np.array(STD), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, 0.0, "std must be positive numbers"),
        (float("nan"), -1.0, "mean must be finite numbers.*std must be positive"),
        ([0.1, 0.2], [1.0, 1.0, 1.0], "mean has 2 channels and std 3"),
    ],
)
def test_wrong_scales_are_named(mean, std, message):
    with pytest.raises(ConfigError, match=message):
        zoo.rescaled(nn.Identity(), mean, std)


def references(net, data, **settings):
    from mlflow_privacy.trainers import make_recipe, trainer_for

    given = {"optimizer": "sgd", "learning_rate": 0.05, "epochs": 2, "batch_size": 16, **settings}
    recipe = make_recipe(net, given, task="classification", data=data)
    members = np.arange(len(data)) % 3 < 2
    return recipe, next(iter(trainer_for(recipe).train(recipe, data, members[None], [7], device="cpu")))


def test_training_on_raw_pixels_equals_training_on_pixels_scaled_before():
    data = images()
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    scaled = Records(((data.x / 255 - mean) / std).astype(np.float32), data.y, data.row_ids)
    options = {"channels": [4], "hidden": [8]}
    net = build("cnn", (3, 16, 16), 2, options)
    _, raw = references(zoo.rescaled(net, MEAN, STD), data)
    _, plain = references(net, scaled)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(raw.state_dict()[f"1.{key}"], value, atol=1e-4, rtol=1e-3)
    assert torch.equal(raw[0].mean.flatten(), torch.tensor(MEAN))


def test_the_scale_is_part_of_the_recipe_and_what_a_net_learned_is_not():
    from mlflow_privacy.trainers.torch.reinit import describe

    options = {"channels": [4], "hidden": []}
    one, again = (zoo.rescaled(build("cnn", (3, 16, 16), 2, options), MEAN, STD) for _ in range(2))
    other = zoo.rescaled(build("cnn", (3, 16, 16), 2, options), MEAN, [0.2, 0.25, 0.4])
    assert describe(one) == describe(again)
    assert describe(one) != describe(other)
    assert set(describe(one)["values"]) == {"0.mean", "0.std"}


@pytest.mark.parametrize("name", ["wrn", "squeezenet1_1"])
def test_networks_train_with_batches_of_raw_pixels_and_augmentation(name):
    data = images(32, side=32)
    net = zoo.rescaled(build(name, (3, 32, 32), 2, SMALL.get(name)), MEAN, STD)
    _, trained = references(net, data, augmentation=["flip", "crop"], learning_rate=0.01, epochs=1)
    with torch.no_grad():
        assert trained(torch.from_numpy(data.x).float()).isfinite().all()
    again = references(net, data, augmentation=["flip", "crop"], learning_rate=0.01, epochs=1)[1].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in trained.state_dict().items())


@pytest.mark.parametrize("name", ["wrn", "vgg11", "squeezenet1_1"])
def test_networks_survive_mlflow(name, tmp_path):
    import inspect

    import mlflow.pytorch

    options = SMALL.get(name)
    net = zoo.rescaled(build(name, (3, 32, 32), 2, options), MEAN, STD).eval()
    accepts = inspect.signature(mlflow.pytorch.save_model).parameters
    kind = {"serialization_format": "pickle"} if "serialization_format" in accepts else {}
    mlflow.pytorch.save_model(net, str(tmp_path / "model"), pip_requirements=["torch"], **kind)
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    x = torch.from_numpy(images(2, side=32).x).float()
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize("name", ["cnn", "wrn"])
def test_networks_can_be_exported(name):
    net = zoo.rescaled(build(name, (3, 16, 16), 2, SMALL.get(name)), MEAN, STD).eval()
    x = torch.from_numpy(images(4).x).float()
    batch = torch.export.Dim("batch", min=2, max=64)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: batch},)), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x[:3]), net(x[:3]))


def test_references_of_an_exported_net_keep_its_scale_and_take_raw_pixels():
    data = images(32)
    net = zoo.rescaled(build("cnn", (3, 16, 16), 2, {"channels": [4], "hidden": []}), MEAN, STD)
    x = torch.from_numpy(data.x[:4]).float()
    batch = torch.export.Dim("batch", min=2, max=64)
    traced = torch.export.export(net.eval(), (x,), dynamic_shapes=({0: batch},)).module()
    _, one = references(traced, data)
    _, plain = references(net, data)
    with torch.no_grad():
        torch.testing.assert_close(one(x), plain(x), atol=1e-4, rtol=1e-3)
