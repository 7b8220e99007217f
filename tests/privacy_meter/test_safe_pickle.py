"""Hostile files are refused by name and run nothing; what a training script saves is read as it was."""

import io
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from mlflow_privacy.errors import StoreError, UnsafeError
from mlflow_privacy.privacy_meter.safe_pickle.reader import load_pickle, read_pickle, read_torch, read_weights

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.array([True, False]),
    np.array(["ab", "c"]),
    np.array([b"a", b"bc"]),
    np.array([1, "x", None], object),
    np.zeros((0, 3)),
    np.array(2.5),
    np.zeros(2, [("a", "f4"), ("b", "i2", (2,))]),
    np.arange(4, dtype=np.float16),
]
VALUES = [1, -(10**30), 2.5, "ä", b"\xff\x00", b"", None, True, {1, 2}, frozenset("a"), (1, (2,)), 3j, bytearray(b"ab")]


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def marker(tmp_path):
    """A file that no test may find afterwards."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def refused(data, name, marker):
    """Asserts that the pickle is refused with the name, and that Python itself would have executed it."""
    with pytest.raises(UnsafeError, match=name):
        load_pickle(data)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_containers_come_back_as_they_were(protocol):
    got = load_pickle(pickle.dumps({"arrays": ARRAYS, "values": VALUES, "scalar": np.float32(3)}, protocol))
    assert got["values"] == VALUES
    assert [type(value) for value in got["values"]] == [type(value) for value in VALUES]
    assert got["scalar"] == np.float32(3)
    assert type(got["scalar"]) is np.float32
    for before, after in zip(ARRAYS, got["arrays"], strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_state_dict_gives_its_tensors(protocol, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    module[0].weight.data = torch.arange(12.0).reshape(4, 3).T[:, 1:3].T  # a view with strides of its own
    path = tmp_path / "model_0.pkl"
    path.write_bytes(pickle.dumps(module.state_dict(), protocol))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_weights(path)
    assert list(state) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype
    parameters = load_pickle(pickle.dumps(dict(module.named_parameters()), protocol))
    assert torch.equal(parameters["0.bias"], module[0].bias)


def test_views_of_one_storage_are_still_the_same_numbers():
    base = torch.arange(10.0)
    got = load_pickle(pickle.dumps({"a": base[2:5], "b": base[::3], "c": base.reshape(2, 5).T}))
    assert [got[k].flatten().tolist() for k in "ab"] == [[2, 3, 4], [0, 3, 6, 9]]
    assert torch.equal(got["c"], base.reshape(2, 5).T)


@pytest.mark.parametrize("legacy", [True, False])
def test_both_torch_formats_are_read(legacy, tmp_path):
    for name in ("model.pt", "model.pkl"):  # by content, whatever the ending
        torch.save({"w": torch.eye(2)}, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert torch.equal(read_weights(tmp_path / name)["w"], torch.eye(2))
    assert torch.equal(read_torch(tmp_path / "model.pt")["w"], torch.eye(2))


def test_strings_of_python_2_are_decoded_as_asked():
    data = b"\x80\x02}q\x01(U\x04dataq\x02U\x03\xff\x00\x01u."  # {"data": "\xff\0\1"} as Python 2 pickled it
    assert load_pickle(data, encoding="bytes") == {b"data": b"\xff\x00\x01"}
    assert load_pickle(data, encoding="latin1") == {"data": "\xff\x00\x01"}
    with pytest.raises(StoreError, match="ascii"):
        load_pickle(data)


def test_an_array_of_python_2_is_read_with_bytes_and_latin1():
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02K\x02t"
        + dtype
        + b"\x89U\x04\x00\x01\xfe\xfftb."
    )
    for encoding in ("bytes", "latin1"):
        assert load_pickle(data, encoding=encoding).tolist() == [[0, 1], [254, 255]]


# --- hostile ones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open('{}', 'w')",), "builtins.eval"),
        (exec, ("open('{}', 'w')",), "builtins.exec"),
        (subprocess.Popen, (["touch", "{}"],), "Popen"),
        (open, ("{}", "w"), "open"),
        (getattr, (os, "system"), "getattr"),
        (__import__, ("os",), "__import__"),
    ],
)
def test_a_call_is_refused_by_name_and_not_made(function, arguments, name, protocol, marker):
    def filled(value):
        return [filled(v) for v in value] if isinstance(value, list) else value

    arguments = [
        [part.format(marker) for part in a] if isinstance(a, list) else a.format(marker) if isinstance(a, str) else a
        for a in arguments
    ]
    if os in arguments:
        arguments = ["os", "system"]  # a module cannot be pickled; the name is what counts
    refused(pickle.dumps({"w": [Call(function, *arguments)]}, protocol), name, marker)


def test_the_payload_of_these_tests_does_execute_in_python(tmp_path):
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Call(os.system, f"touch {path}")))
    assert path.exists()


def torch_file(payload, *, legacy):
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_payload_inside_a_storage_is_refused(legacy, marker):
    inner = torch_file(Call(os.system, f"touch {marker}"), legacy=legacy)
    outer = pickle.dumps({"w": Call(torch.storage._load_from_bytes, inner)})
    refused(outer, "system", marker)
    inner = pickle.dumps(Call(os.system, f"touch {marker}"))
    refused(pickle.dumps(Call(torch.storage._load_from_bytes, inner)), "torch.load", marker)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_payload_in_a_torch_file_is_refused(legacy, marker, tmp_path):
    path = tmp_path / "model_0.pt"
    path.write_bytes(torch_file({"w": Call(os.system, f"touch {marker}")}, legacy=legacy))
    with pytest.raises(UnsafeError, match="system"):
        read_weights(path)


def edited_torch_file(edit):
    """A torch file of one tensor of four numbers whose pickle is edited."""
    before, after = io.BytesIO(torch_file({"w": torch.zeros(4)}, legacy=False)), io.BytesIO()
    with zipfile.ZipFile(before) as source, zipfile.ZipFile(after, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, edit(data) if entry.filename.endswith("data.pkl") else data)
    return after.getvalue()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda pickled: pickled.replace(b"K\x04", b"M\xff\x7f", 1), "size"),  # more numbers than are stored
        (lambda pickled: pickled[:-2] + b"K\x00K\x00s" + pickled[-2:], "SETITEM"),  # writes into the tensor
    ],
    ids=["longer storage", "item of a tensor"],
)
def test_a_torch_file_that_would_corrupt_memory_is_refused(edit, message, tmp_path):
    path = tmp_path / "model_0.pt"
    path.write_bytes(edited_torch_file(lambda pickled: pickled))
    assert torch.equal(read_weights(path)["w"], torch.zeros(4))
    path.write_bytes(edited_torch_file(edit))
    with pytest.raises((UnsafeError, StoreError), match=message):
        read_weights(path)


def test_a_torch_whose_own_check_can_be_got_around_reads_no_torch_file(monkeypatch, tmp_path):
    torch.save({"w": torch.eye(2)}, tmp_path / "model_0.pt")
    for version in ("2.5.1", "2.9.1+cu128"):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
        with pytest.raises(UnsafeError, match=r"torch 2\.\d\.1.*Install torch 2\.10 or later, or save .* safetensors"):
            read_weights(tmp_path / "model_0.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.10.0"))
    assert torch.equal(read_weights(tmp_path / "model_0.pt")["w"], torch.eye(2))


def test_a_payload_in_an_object_array_is_refused(marker):
    array = np.empty(1, object)
    array[0] = Call(os.system, f"touch {marker}")
    refused(pickle.dumps(array), "system", marker)


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
FLOAT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR"
FLOAT_STATE = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x80\x04" + short("numpy.core.multiarray") + short("sys.modules") + b"\x93.", "multiarray.sys.modules"),
        (b"\x80\x04" + short("numpy") + short("core.multiarray.os.system") + b"\x93.", "os.system"),
        (b"\x80\x04" + short("numpy.core") + short("multiarray._reconstruct.__globals__") + b"\x93.", "__globals__"),
        (b"\x80\x04" + short("torch") + short("load") + b"\x93.", "torch.load"),
        (b"\x80\x04" + short("torch") + short("os.system") + b"\x93.", "torch.os.system"),
        (b"\x80\x04" + short("torch._utils") + short("_rebuild_tensor_v2.__call__") + b"\x93.", "__call__"),
        (b"\x80\x04K\x01K\x02\x93.", "name of a global"),
        (b"(ios\nsystem\n(S'touch x'\n.", "INST of os.system"),
        (b"(ios\nsystem\nS'touch x'\n.", "INST of os.system"),
        (b"(cos\nsystem\nS'touch x'\no.", "os.system"),
        (b"(cnumpy\nndarray\nK\x01o.", "OBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ of collections.OrderedDict"),
        (b"\x80\x02cnumpy\nndarray\n(K\x01t\x81.", "NEWOBJ of numpy.ndarray"),
        (b"\x80\x04" + short("numpy") + short("ndarray") + b"\x93)}\x92.", "NEWOBJ_EX of numpy.ndarray"),
        (b"Pos.system\n.", "PERSID"),
        (b"X\x01\x00\x00\x00aQ.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"cnumpy\nndarray\n(K\x01tR.", "calls numpy.ndarray"),
        (RECONSTRUCT + b"(cnumpy\nrecarray\n(K\x00tX\x01\x00\x00\x00btR.", "recarray"),
        (RECONSTRUCT + b"(ccollections\nOrderedDict\n(K\x00tX\x01\x00\x00\x00btR.", "collections.OrderedDict"),
        (RECONSTRUCT + b"(K\x01K\x02K\x03tR.", "_reconstruct"),
        (RECONSTRUCT + b"(tR.", "_reconstruct"),
        (RECONSTRUCT + b"}X\x08\x00\x00\x00__code__K\x01sb.", "sets the state of numpy.core.multiarray._reconstruct"),
        (RECONSTRUCT + b"N}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.", "sets the state"),
        (b"}}X\x0c\x00\x00\x00__setstate__K\x01sb.", "sets the state of a value of type dict"),
        (b"]K\x01b.", "sets the state of a value of type list"),
        (b"ccollections\nOrderedDict\n)R]b.", "sets the state"),
        (b"K\x01K\x02a.", "appends to"),
        (RECONSTRUCT + b"K\x01K\x02s.", "sets items of"),
        (b"cnumpy\nndarray\n.", "holds numpy.ndarray as a value"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR.", "holds numpy.dtype"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR0" + b"]" + FLOAT + b"q\x05h\x05a.", "before it is complete"),
        (FLOAT + b"K\x01b.", "state of another kind"),
        (b"cnumpy\ndtype\n(X\x05\x00\x00\x00i4,i8tR.", "calls numpy.dtype"),
        (b"cnumpy\ndtype\n(]tR.", "calls numpy.dtype"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "_codecs.encode"),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
        (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
        (b"cfunctools\npartial\n.", "functools.partial"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02))tR.", "_rebuild_tensor_v2"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.", "_rebuild_parameter"),
    ],
)
def test_tricks_of_the_machine_are_refused(data, name, marker):
    refused(data, name, marker)


def array_of(shape, dtype, data):
    return (
        RECONSTRUCT + b"(cnumpy\nndarray\n(K\x00tX\x01\x00\x00\x00btR(K\x01" + shape + dtype + b"\x89" + data + b"tb."
    )


@pytest.mark.parametrize(
    "data",
    [
        array_of(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", FLOAT + FLOAT_STATE, b"C\x08" + bytes(8)),  # huge shape
        array_of(b"(J\xff\xff\xff\xfft", FLOAT + FLOAT_STATE, b"C\x08" + bytes(8)),  # negative shape
        array_of(b"(K\x01t", b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR" + FLOAT_STATE, b"C\x08" + bytes(8)),  # a pointer
        array_of(b"(K\x01t", b"K\x07", b"C\x08" + bytes(8)),
    ],
)
def test_an_array_that_is_not_its_data_is_refused(data, marker):
    refused(data, "numpy|complete", marker)


def storage_of(n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Call(torch.storage._load_from_bytes, torch_file(torch.zeros(n).storage(), legacy=True))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (4, (1,), (1,)),
        (0, (2,), (10**12,)),
        (0, (10**6, 10**6), (0, 0)),
        (-1, (1,), (1,)),
        (0, (1,), (-1,)),
        (0, (1, 1), (1,)),
    ],
)
def test_a_tensor_cannot_leave_or_enlarge_its_storage(offset, size, stride, marker):
    call = Call(torch._utils._rebuild_tensor_v2, storage_of(4), offset, size, stride, False, OrderedDict())
    refused(pickle.dumps(call), "_rebuild_tensor_v2", marker)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04K\x01",
        b"h\x07.",  # never put
        b"(.",
        b"K\x01K\x02.",
        b"\x80\x04B\xff\xff\xff\x7fabc.",  # says two gigabytes
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x04\x8a\xffabc.",
        b"}]K\x01s.",  # a list as a key
        b"I" + b"9" * 5000 + b"\n.",
        pickle.dumps(ARRAYS)[:-40],
        b"not a pickle at all",
    ],
)
def test_what_is_cut_off_or_damaged_is_one_clean_error(data):
    with pytest.raises((StoreError, UnsafeError)):
        load_pickle(data)


def test_memo_bombs_cost_nothing():
    doubling = b"]q\x00" + b"".join(b"0]q%c(h%ch%ce" % (i + 1, i, i) for i in range(60)) + b"."
    depth, value = 0, load_pickle(doubling)
    while value:
        value, depth = value[0], depth + 1
    assert depth == 60
    far = b"r" + struct.pack("<I", 2**32 - 1)  # Python's own unpickler makes a table of that length
    assert load_pickle(b"K\x07" + far + b".") == 7
    tuples = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)) + b"q\x7f0}h\x7fNs."
    with pytest.raises((UnsafeError, StoreError)):
        load_pickle(tuples)  # hashing it would take 2^60 steps


def test_attributes_of_a_state_dict_are_not_set():
    state = OrderedDict(a=torch.zeros(1))
    state._metadata, state.__dict__["pop"] = {"version": 1}, None
    got = load_pickle(pickle.dumps(state))
    assert [name for name, _ in got.items()] == ["a"]
    assert not hasattr(got, "_metadata")
    assert torch.equal(got.pop("a"), torch.zeros(1))


def test_a_torch_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(UnsafeError, match="unpacks to"):
        read_weights(path)


def test_files_are_named_in_every_error(tmp_path):
    path = tmp_path / "model_7.pkl"
    with pytest.raises(StoreError, match=r"model_7.pkl cannot be read: No such file"):
        read_pickle(path)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(StoreError, match=r"model_7.pkl is not a state dict: its entries w"):
        read_weights(path)
    with pytest.raises(StoreError, match="more than the 3 that are read"):
        read_pickle(path, max_bytes=3)
    path.write_bytes(pickle.dumps(Call(os.system, "true")))
    with pytest.raises(UnsafeError, match=r"model_7.pkl: .*system"):
        read_pickle(path)
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    with pytest.raises(StoreError, match="m.safetensors is not a safetensors file"):
        read_weights(tmp_path / "m.safetensors")
    path.write_bytes(torch_file({"w": torch.zeros(3)}, legacy=False)[:-30])
    with pytest.raises(StoreError, match="cut off or damaged"):
        read_torch(path)
