"""Torch modules that differ in one argument, attribute or hook have different keys, whoever wrote their class."""

import copy
import dataclasses
import functools
import types

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from mlflow_privacy.fingerprint import digest
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.trainers.torch.reinit import describe


def key(module):
    walk = Walk()
    told = describe(module, walk)
    return digest([told, walk.code()])


@dataclasses.dataclass
class Config:
    scale: float = 1.0
    act: object = torch.relu


class Own(nn.Module):
    """A module of the user's that keeps whatever it is given."""

    def __init__(self, **attributes):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        vars(self).update(attributes)

    def forward(self, x):
        return self.layer(x)


class Plain:
    def __init__(self, value):
        self.value = value


def hooked(function):
    module = nn.Sequential(nn.Linear(3, 2))
    module[0].register_forward_hook(function)
    return module


def pre_hooked(function):
    module = nn.Linear(3, 2)
    module.register_forward_pre_hook(function)
    return module


def patched(function):
    module = nn.Linear(3, 2)
    module.forward = types.MethodType(function, module)
    return module


def marked(**attributes):
    module = nn.Linear(3, 2)
    vars(module).update(attributes)
    return module


def buffered(values, persistent=True):
    module = nn.Linear(3, 2)
    module.register_buffer("table", torch.tensor(values), persistent=persistent)
    return module


def frozen(scale):
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    nn.init.constant_(module[0].weight, scale)
    module[0].requires_grad_(False)
    return module


def stochastic(p):
    return nn.Sequential(nn.Linear(3, 2), torchvision.ops.StochasticDepth(p, "row"))


def densenet(rate):
    return torchvision.models.DenseNet(4, (1, 1), 8, drop_rate=rate, num_classes=2)


def attention(heads=2, **options):
    return nn.MultiheadAttention(4, heads, **options)


def encoder(heads=2, **options):
    return nn.TransformerEncoderLayer(4, heads, 8, **options)


def decoder(**options):
    return nn.TransformerDecoderLayer(4, 2, 8, **options)


def stack(depth=2, **options):
    return nn.TransformerEncoder(encoder(), depth, **{"enable_nested_tensor": False, **options})


def conv(*args, **options):
    return nn.Conv2d(4, 4, *(args or (3,)), **options)


def traced(activation):
    return nn.Sequential(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), activation)))


DIFFERENT = {
    # Layers of torch.
    "heads of an encoder layer": (encoder(2), encoder(4)),
    "where an encoder layer normalises": (encoder(norm_first=False), encoder(norm_first=True)),
    "activation of an encoder layer": (encoder(activation="relu"), encoder(activation="gelu")),
    "activation by function": (encoder(activation=torch.tanh), encoder(activation=torch.sigmoid)),
    "order of axes of an encoder layer": (encoder(batch_first=False), encoder(batch_first=True)),
    "dropout of an encoder layer": (encoder(dropout=0.1), encoder(dropout=0.2)),
    "epsilon of an encoder layer": (encoder(layer_norm_eps=1e-5), encoder(layer_norm_eps=1e-6)),
    "where a decoder layer normalises": (decoder(norm_first=False), decoder(norm_first=True)),
    "activation of a decoder layer": (decoder(activation="relu"), decoder(activation="gelu")),
    "fast path of an encoder": (stack(enable_nested_tensor=False), stack(enable_nested_tensor=True)),
    "masks of an encoder": (stack(mask_check=False), stack(mask_check=True)),
    "heads of attention": (attention(2), attention(4)),
    "dropout of attention": (attention(dropout=0.0), attention(dropout=0.5)),
    "order of axes of attention": (attention(batch_first=False), attention(batch_first=True)),
    "zero attention": (attention(add_zero_attn=False), attention(add_zero_attn=True)),
    "bias of keys": (attention(add_bias_kv=False), attention(add_bias_kv=True)),
    "stride": (conv(stride=1), conv(stride=2)),
    "padding": (conv(padding=0), conv(padding=1)),
    "padding by name": (conv(padding="same"), conv(padding="valid")),
    "mode of padding": (conv(padding=1), conv(padding=1, padding_mode="reflect")),
    "dilation": (conv(dilation=1), conv(dilation=2)),
    "groups": (conv(groups=1), conv(groups=2)),
    "indices of pooling": (nn.MaxPool2d(2), nn.MaxPool2d(2, return_indices=True)),
    "rounding of pooling": (nn.AvgPool2d(2), nn.AvgPool2d(2, ceil_mode=True)),
    "padding in an average": (nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, padding=1, count_include_pad=False)),
    "divisor of an average": (nn.AvgPool2d(2), nn.AvgPool2d(2, divisor_override=3)),
    "size of adaptive pooling": (nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(2)),
    "indices of adaptive pooling": (nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool2d(1, return_indices=True)),
    "power of pooling": (nn.LPPool2d(1, 2), nn.LPPool2d(2, 2)),
    "nonlinearity of a recurrent layer": (nn.RNN(3, 4, nonlinearity="tanh"), nn.RNN(3, 4, nonlinearity="relu")),
    "dropout of a recurrent layer": (nn.LSTM(3, 4, 2), nn.LSTM(3, 4, 2, dropout=0.5)),
    "order of axes of a recurrent layer": (nn.GRU(3, 4), nn.GRU(3, 4, batch_first=True)),
    "nonlinearity of a cell": (nn.RNNCell(3, 4), nn.RNNCell(3, 4, nonlinearity="relu")),
    "scale of upsampling": (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=3)),
    "mode of upsampling": (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")),
    "corners of upsampling": (
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    ),
    "norm of an embedding": (nn.Embedding(5, 3), nn.Embedding(5, 3, max_norm=1.0)),
    "padding of an embedding": (nn.Embedding(5, 3), nn.Embedding(5, 3, padding_idx=0)),
    "mode of a bag": (nn.EmbeddingBag(5, 3), nn.EmbeddingBag(5, 3, mode="sum")),
    "offsets of a bag": (nn.EmbeddingBag(5, 3), nn.EmbeddingBag(5, 3, include_last_offset=True)),
    "momentum of a normalisation": (nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.2)),
    "statistics of a normalisation": (nn.InstanceNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)),
    "size of local normalisation": (nn.LocalResponseNorm(2), nn.LocalResponseNorm(3)),
    "alpha of local normalisation": (nn.LocalResponseNorm(2), nn.LocalResponseNorm(2, alpha=0.1)),
    "epsilon of a root mean square": (nn.RMSNorm(3), nn.RMSNorm(3, eps=1e-3)),
    "dropout": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "approximation of GELU": (nn.GELU(), nn.GELU("tanh")),
    "slope": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "start of a learned slope": (nn.PReLU(init=0.25), nn.PReLU(init=0.5)),
    "bounds of a random slope": (nn.RReLU(0.1, 0.3), nn.RReLU(0.1, 0.4)),
    "threshold": (nn.Threshold(0.1, 1.0), nn.Threshold(0.2, 1.0)),
    "value below a threshold": (nn.Threshold(0.1, 1.0), nn.Threshold(0.1, 2.0)),
    "bounds of an activation": (nn.Hardtanh(-1, 1), nn.Hardtanh(-1, 2)),
    "beta of softplus": (nn.Softplus(1), nn.Softplus(2)),
    "axis of softmax": (nn.Softmax(0), nn.Softmax(1)),
    "axes that are flattened": (nn.Flatten(1), nn.Flatten(2)),
    "shape that is unflattened": (nn.Unflatten(1, (2, 3)), nn.Unflatten(1, (3, 2))),
    "factor of shuffled pixels": (nn.PixelShuffle(2), nn.PixelShuffle(3)),
    "groups of shuffled channels": (nn.ChannelShuffle(2), nn.ChannelShuffle(4)),
    "padding by zeros and by a constant": (nn.ConstantPad1d(1, 0.0), nn.ConstantPad1d(1, 1.0)),
    "width of folding": (nn.Unfold(2), nn.Unfold(3)),
    "eps of a similarity": (nn.CosineSimilarity(1), nn.CosineSimilarity(1, eps=1e-3)),
    "norm of a distance": (nn.PairwiseDistance(2.0), nn.PairwiseDistance(1.0)),
    "smoothing of a loss inside": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights of a loss inside": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
    ),
    "types of layers": (nn.ReLU(), nn.Tanh()),
    "order of layers": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "type of weights": (nn.Linear(3, 2), nn.Linear(3, 2).double()),
    # Layers of torchvision.
    "dropout of a densenet": (densenet(0.0), densenet(0.5)),
    "stochastic depth": (stochastic(0.1), stochastic(0.2)),
    "mode of stochastic depth": (
        torchvision.ops.StochasticDepth(0.1, "row"),
        torchvision.ops.StochasticDepth(0.1, "batch"),
    ),
    "size of dropped blocks": (torchvision.ops.DropBlock2d(0.1, 3), torchvision.ops.DropBlock2d(0.1, 5)),
    # Attributes of modules.
    "a dataclass": (Own(config=Config(1.0)), Own(config=Config(2.0))),
    "a function in a dataclass": (Own(config=Config(act=torch.relu)), Own(config=Config(act=torch.tanh))),
    "a dictionary": (Own(config={"p": 0.1}), Own(config={"p": 0.2})),
    "types of keys": (Own(config={0: 0.1}), Own(config={"0": 0.1})),
    "an attribute with an underscore": (Own(_x=1), Own(_x=2)),
    "a name": (Own(a=1), Own(b=1)),
    "none and zero": (Own(a=None), Own(a=0)),
    "a plain tensor": (Own(scale=torch.ones(2)), Own(scale=torch.zeros(2))),
    "a list of tensors": (Own(scales=[torch.ones(2)]), Own(scales=[torch.zeros(2)])),
    "an array": (Own(scale=torch.ones(2).numpy()), Own(scale=torch.zeros(2).numpy())),
    "a partial": (Own(f=functools.partial(torch.add, alpha=1)), Own(f=functools.partial(torch.add, alpha=2))),
    "a builtin": (Own(f=torch.relu), Own(f=torch.tanh)),
    "a builtin of a submodule": (Own(f=torch.nn.functional.gelu), Own(f=torch.nn.functional.silu)),
    "a pooling function": (Own(f=nn.functional.max_pool1d), Own(f=nn.functional.max_pool2d)),
    "a lambda": (Own(f=lambda x: x + 1), Own(f=lambda x: x + 2)),
    "an object": (Own(o=Plain(1)), Own(o=Plain(2))),
    "a class": (Own(c=nn.ReLU), Own(c=nn.Tanh)),
    "a type of torch": (Own(t=torch.float32), Own(t=torch.float16)),
    "a module in a list": (Own(m=[nn.Dropout(0.1)]), Own(m=[nn.Dropout(0.2)])),
    "an attribute of a library's layer": (marked(scale=1), marked(scale=2)),
    "none or an attribute of a library's layer": (marked(), marked(scale=2)),
    "a hook": (hooked(lambda m, i, o: o * 1), hooked(lambda m, i, o: o * 2)),
    "a hook or none": (nn.Sequential(nn.Linear(3, 2)), hooked(lambda m, i, o: o * 2)),
    "a hook before": (pre_hooked(lambda m, i: i), pre_hooked(lambda m, i: None)),
    "a method of one module": (patched(lambda self, x: x), patched(lambda self, x: x * 2)),
    "a buffer of numbers": (buffered([1.0, 2.0]), buffered([1.0, 3.0])),
    "a buffer of whole numbers": (buffered([1, 2]), buffered([1, 3])),
    "a mask": (buffered([True, False]), buffered([True, True])),
    "a complex buffer": (buffered([1j]), buffered([2j])),
    "a buffer that is not stored": (buffered([1, 2], False), buffered([1, 3], False)),
    "a frozen weight": (frozen(1.0), frozen(2.0)),
    "a traced graph inside": (traced(nn.ReLU()), traced(nn.Tanh())),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_modules_that_differ_in_one_thing_differ(name):
    one, other = DIFFERENT[name]
    assert key(one) != key(other)
    assert key(one) == key(one) == key(copy.deepcopy(one))


def trained(module):
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "num_batches_tracked")):
                buffer.add_(1)
    return module


def norms():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten()
    )


SHARED = Plain(3)
EQUAL = {
    "what it learned": (norms, lambda: trained(norms())),
    "what a recurrent layer learned": (lambda: nn.LSTM(3, 4, 2), lambda: trained(nn.LSTM(3, 4, 2))),
    "what an encoder learned": (stack, lambda: trained(stack())),
    "mode": (norms, lambda: norms().eval()),
    "memory layout": (norms, lambda: norms().to(memory_format=torch.channels_last)),
    "the device that it names": (lambda: Own(d=torch.device("cpu")), lambda: Own(d=torch.device("cuda"))),
    "order of an attribute's keys": (lambda: Own(c={"a": 1, "b": 2}), lambda: Own(c={"b": 2, "a": 1})),
    "order of attributes": (lambda: Own(a=1, b=2), lambda: Own(b=2, a=1)),
    "objects with the same content": (lambda: Own(o=Plain(1)), lambda: Own(o=Plain(1))),
    "parts that an attribute names too": (
        lambda: (lambda m: (vars(m).update(parts=[m.layer, m.layer.weight]), m)[1])(Own()),
        lambda: trained((lambda m: (vars(m).update(parts=[m.layer, m.layer.weight]), m)[1])(Own())),
    ),
    "wrapping": (norms, lambda: nn.DataParallel(norms())),
    "layout of a plain tensor": (
        lambda: Own(t=torch.arange(6.0).reshape(2, 3)),
        lambda: Own(t=torch.arange(6.0).reshape(2, 3).T.contiguous().T),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_modules_that_train_the_same_are_equal(name):
    one, other = EQUAL[name]
    assert key(one()) == key(other())


# Any two settings of a constructor.

small = st.integers(1, 3)
flags = st.booleans()
rates = st.sampled_from([0.0, 0.1, 0.25, 0.5])
epsilons = st.sampled_from([1e-5, 1e-6, 1e-3])
sizes = st.one_of(small, st.tuples(small, small))
CONV = {
    "in_channels": st.sampled_from([4, 8]),
    "out_channels": st.sampled_from([4, 8]),
    "kernel_size": st.sampled_from([1, 3, 5]),
    "stride": small,
    "dilation": small,
    "groups": st.sampled_from([1, 2, 4]),
    "bias": flags,
    "padding_mode": st.sampled_from(["zeros", "reflect", "circular", "replicate"]),
}
UP = {key: value for key, value in CONV.items() if key != "padding_mode"} | {"output_padding": st.sampled_from([0])}
NORM = {"num_features": small, "eps": epsilons, "momentum": st.sampled_from([None, 0.1, 0.2]), "affine": flags}
NORM |= {"track_running_stats": flags}
RECURRENT = {
    "input_size": small,
    "hidden_size": st.sampled_from([4, 5]),
    "num_layers": st.sampled_from([2, 3]),
    "bias": flags,
    "batch_first": flags,
    "dropout": rates,
    "bidirectional": flags,
}
POOL = {"kernel_size": sizes, "stride": small, "padding": st.sampled_from([0]), "ceil_mode": flags}
CONSTRUCTORS = {
    nn.Linear: {"in_features": small, "out_features": small, "bias": flags},
    nn.Bilinear: {"in1_features": small, "in2_features": small, "out_features": small, "bias": flags},
    nn.Conv1d: CONV | {"padding": st.sampled_from([0, 1, 2])},
    nn.Conv2d: CONV | {"padding": st.sampled_from([0, 1, (1, 2)])},
    nn.Conv3d: CONV | {"padding": st.sampled_from([0, 1])},
    nn.ConvTranspose1d: UP | {"padding": small},
    nn.ConvTranspose2d: UP | {"padding": small},
    nn.BatchNorm1d: NORM,
    nn.BatchNorm2d: NORM,
    nn.BatchNorm3d: NORM,
    nn.InstanceNorm1d: NORM,
    nn.InstanceNorm2d: NORM,
    nn.LayerNorm: {"normalized_shape": st.sampled_from([2, 3, (2, 3)]), "eps": epsilons, "elementwise_affine": flags},
    nn.GroupNorm: {
        "num_groups": st.sampled_from([1, 2]),
        "num_channels": st.sampled_from([2, 4]),
        "eps": epsilons,
        "affine": flags,
    },
    nn.RMSNorm: {"normalized_shape": small, "eps": epsilons, "elementwise_affine": flags},
    nn.LocalResponseNorm: {"size": small, "alpha": epsilons, "beta": rates, "k": rates},
    nn.Embedding: {
        "num_embeddings": st.sampled_from([4, 5]),
        "embedding_dim": small,
        "padding_idx": st.sampled_from([None, 0, 1]),
        "max_norm": st.sampled_from([None, 1.0, 2.0]),
        "norm_type": st.sampled_from([1.0, 2.0]),
        "scale_grad_by_freq": flags,
        "sparse": flags,
    },
    nn.EmbeddingBag: {
        "num_embeddings": st.sampled_from([4, 5]),
        "embedding_dim": small,
        "mode": st.sampled_from(["sum", "mean", "max"]),
        "norm_type": st.sampled_from([1.0, 2.0]),
        "include_last_offset": flags,
        "padding_idx": st.sampled_from([None, 0]),
    },
    nn.LSTM: RECURRENT | {"proj_size": st.sampled_from([0, 2, 3])},
    nn.GRU: RECURRENT,
    nn.RNN: RECURRENT | {"nonlinearity": st.sampled_from(["tanh", "relu"])},
    nn.LSTMCell: {"input_size": small, "hidden_size": small, "bias": flags},
    nn.RNNCell: {"input_size": small, "hidden_size": small, "nonlinearity": st.sampled_from(["tanh", "relu"])},
    nn.MultiheadAttention: {
        "embed_dim": st.sampled_from([4, 8]),
        "num_heads": st.sampled_from([1, 2, 4]),
        "dropout": rates,
        "bias": flags,
        "add_bias_kv": flags,
        "add_zero_attn": flags,
        "batch_first": flags,
    },
    nn.TransformerEncoderLayer: {
        "d_model": st.sampled_from([4, 8]),
        "nhead": st.sampled_from([1, 2, 4]),
        "dim_feedforward": small,
        "dropout": rates,
        "activation": st.sampled_from(["relu", "gelu", torch.tanh, torch.nn.functional.silu]),
        "layer_norm_eps": epsilons,
        "batch_first": flags,
        "norm_first": flags,
        "bias": flags,
    },
    nn.TransformerDecoderLayer: {
        "d_model": st.sampled_from([4]),
        "nhead": st.sampled_from([1, 2]),
        "dropout": rates,
        "activation": st.sampled_from(["relu", "gelu"]),
        "norm_first": flags,
        "batch_first": flags,
    },
    nn.MaxPool2d: POOL | {"dilation": small, "return_indices": flags},
    nn.AvgPool2d: POOL | {"count_include_pad": flags, "divisor_override": st.sampled_from([None, 2, 3])},
    nn.AdaptiveAvgPool2d: {"output_size": sizes},
    nn.AdaptiveMaxPool2d: {"output_size": sizes, "return_indices": flags},
    nn.LPPool2d: {"norm_type": rates, "kernel_size": small, "ceil_mode": flags},
    nn.FractionalMaxPool2d: {"kernel_size": small, "output_size": small, "return_indices": flags},
    nn.Dropout: {"p": rates, "inplace": flags},
    nn.Dropout2d: {"p": rates, "inplace": flags},
    nn.AlphaDropout: {"p": rates, "inplace": flags},
    nn.ReLU: {"inplace": flags},
    nn.LeakyReLU: {"negative_slope": rates, "inplace": flags},
    nn.ELU: {"alpha": rates, "inplace": flags},
    nn.CELU: {"alpha": st.sampled_from([0.5, 1.0]), "inplace": flags},
    nn.SELU: {"inplace": flags},
    nn.SiLU: {"inplace": flags},
    nn.Mish: {"inplace": flags},
    nn.GELU: {"approximate": st.sampled_from(["none", "tanh"])},
    nn.Hardtanh: {"min_val": rates, "max_val": st.sampled_from([1.0, 2.0]), "inplace": flags},
    nn.Softplus: {"beta": small, "threshold": small},
    nn.Softshrink: {"lambd": rates},
    nn.PReLU: {"num_parameters": small, "init": rates},
    nn.RReLU: {"lower": st.sampled_from([0.1, 0.2]), "upper": st.sampled_from([0.3, 0.4])},
    nn.Threshold: {"threshold": rates, "value": rates},
    nn.GLU: {"dim": st.integers(-2, 2)},
    nn.Softmax: {"dim": st.integers(-2, 2)},
    nn.LogSoftmax: {"dim": st.integers(-2, 2)},
    nn.Flatten: {"start_dim": st.integers(0, 2), "end_dim": st.integers(-3, -1)},
    nn.Unflatten: {"dim": small, "unflattened_size": st.tuples(small, small)},
    nn.Upsample: {"scale_factor": small, "mode": st.sampled_from(["nearest", "bilinear"])},
    nn.PixelShuffle: {"upscale_factor": small},
    nn.ZeroPad2d: {"padding": sizes.filter(lambda size: isinstance(size, int))},
    nn.ConstantPad2d: {"padding": small, "value": rates},
    nn.Unfold: {"kernel_size": sizes, "dilation": small, "padding": small, "stride": small},
    nn.CosineSimilarity: {"dim": small, "eps": epsilons},
    nn.CrossEntropyLoss: {"ignore_index": small, "label_smoothing": rates},
}  # fmt: skip


@pytest.mark.parametrize("cls", CONSTRUCTORS, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=8)
def test_any_other_argument_of_a_constructor_is_another_key(cls, data):
    strategies = CONSTRUCTORS[cls]
    arguments = data.draw(st.fixed_dictionaries(strategies))
    changed = data.draw(st.sampled_from(sorted(strategies)))
    value = data.draw(strategies[changed])
    try:
        one, same, other = (cls(**given) for given in (arguments, dict(arguments), {**arguments, changed: value}))
    except (ValueError, AssertionError, RuntimeError, TypeError):
        assume(False)
    assert key(one) == key(same)
    assert (key(one) == key(other)) is (repr(arguments[changed]) == repr(value))


def test_what_cannot_be_told_of_a_module_is_named():
    file, walk = open(__file__), Walk()  # noqa: SIM115
    describe(Own(log=lambda text: file.write(text)), walk)
    (reason,) = walk.code()["untold"]
    assert reason.startswith(
        "'file', which test_what_cannot_be_told_of_a_module_is_named.<locals>.<lambda> encloses: a "
    )
    assert "cannot pickle '_io.TextIOWrapper' object" in reason


def test_plain_layers_have_the_form_that_references_are_stored_under():
    """As the rule before this one told them: it could tell these apart."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    walk = Walk()
    layers = describe(net, walk)["layers"]
    assert [layer[4] for layer in layers] == [{}] * 6
    assert layers[5] == [
        *("4", "torch.nn.modules.linear.Linear", "in_features=4, out_features=2, bias=True"),
        {"weight": [[2, 4], "float32", True], "bias": [[2], "float32", True]},
        {},
    ]
    assert walk.code() == {}
