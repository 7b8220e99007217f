"""What we need of transformers' undocumented parts is still there, and without it the documented way is taken.

A test "transformers still ..." that fails says which entry of `trainers/text/private.py` needs a look.
"""

from types import SimpleNamespace

import pytest
import transformers

from mlflow_privacy.trainers.text.private import ignored_on_load, on_one_device


def test_transformers_still_takes_the_number_of_gpus_from_that_field(tmp_path):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4
    assert on_one_device(arguments).n_gpu == 1


@pytest.mark.parametrize("n", [0, 1])
def test_arguments_for_one_gpu_or_none_stay_as_they_are(n):
    arguments = SimpleNamespace(n_gpu=n)
    assert on_one_device(arguments) is arguments
    assert vars(arguments) == {"n_gpu": n}


def test_arguments_that_take_no_number_of_gpus_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"on 2 GPUs at once. Set CUDA_VISIBLE_DEVICES"):
        on_one_device(SimpleNamespace(n_gpu=2))


def test_transformers_still_names_what_checkpoints_may_hold_besides():
    assert hasattr(transformers.PreTrainedModel, "_keys_to_ignore_on_load_unexpected")
    assert ignored_on_load(SimpleNamespace(_keys_to_ignore_on_load_unexpected=["a", "b"])) == ("a", "b")
    assert ignored_on_load(SimpleNamespace(_keys_to_ignore_on_load_unexpected=None)) == ()
    assert ignored_on_load(SimpleNamespace()) == ()
