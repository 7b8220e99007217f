"""The plan of the references: pure, from a recipe and a machine."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import parse_options
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.executor.on_ray import task_options
from mlflow_privacy.executor.plan import (
    Work,
    after_first,
    describe_work,
    groups_of,
    make_plan,
    this_machine,
)
from mlflow_privacy.executor.pools import worker_environment
from mlflow_privacy.experiment.load import parse_config
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.trainers.machine import Machine, free_memory, usable_cores
from mlflow_privacy.types import Records

FOUR = Machine(cores=4, threads=4, memory=2**35)
GPUS = Machine(8, 8, 2**36, ("cuda:0", "cuda:1", "cuda:2"))


@pytest.mark.parametrize(
    ("work", "machine", "why"),
    [
        (Work("torch", 8, together=8), FOUR, "stacked"),
        (Work("torch", 8, at_once=4, convolutions=True, way="one by one in 4 threads"), FOUR, "in 4 threads"),
        (Work("callable", 8), FOUR, "train_fn"),
        (Work("transformers", 8), FOUR, "language model"),
        (Work("sklearn", 1), FOUR, "one reference"),
        (Work("sklearn", 8), Machine(1, 1), "one core"),
        (Work("torch", 8), Machine(8, 8, None, ("cuda:0",)), "one accelerator"),
        (Work("sklearn", 8, pool_bytes=2**33), Machine(4, 4, 2**34), "memory"),
    ],
)
def test_what_needs_no_workers_stays_in_this_process(work, machine, why):
    plan = make_plan(work, machine)
    assert (plan.executor, plan.measure) == ("local", False)
    assert why in str(plan)


def test_each_gpu_gets_one_worker_and_one_worker_one_gpu():
    plan = make_plan(Work("torch", 10, together=16), GPUS)
    assert (plan.executor, plan.workers, plan.devices) == ("loky", 3, GPUS.accelerators)
    groups = groups_of(list(range(10)), plan.together)
    assert [len(group) for group in groups] == [4, 4, 2]  # a stack a GPU, none of them idle
    assert make_plan(Work("torch", 2), GPUS).devices == ("cuda:0", "cuda:1")
    assert make_plan(Work("sklearn", 10), GPUS).measure  # a forest has no use for them
    seen = [worker_environment(1, device, {})["CUDA_VISIBLE_DEVICES"] for device in plan.devices]
    assert seen == ["0", "1", "2"]
    assert worker_environment(1, "cuda:1", {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"})["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(1, "", {})


@pytest.mark.parametrize("workers", range(1, 20))
@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_workers_never_have_more_threads_than_cores(workers, cores):
    plan = make_plan(Work("sklearn", 20), Machine(cores, cores), "loky", workers)
    assert plan.workers == workers  # the caller's word counts
    assert plan.threads == max(1, cores // workers)


def test_after_the_first_one_time_decides():
    work = Work("sklearn", 9)
    plan = make_plan(work, FOUR)
    assert plan.measure

    def decided(seconds, busy, **change):
        more = Work("torch", 9, convolutions=True) if change else work
        return after_first(plan, more, FOUR, None, seconds=seconds, cpu_seconds=busy * seconds)

    assert decided(0.1, 1).executor == "local"  # 0.8 s of work are not worth 2 s of imports
    assert decided(10, 1).executor == "loky"
    assert decided(10, 1).workers == 4
    assert decided(10, 1).threads == 1
    assert decided(10, 4).executor == "local"  # a forest that keeps all cores busy gains nothing
    assert decided(10, 4, convolutions=True).executor == "loky"  # threads of convolutions wait for each other
    assert not decided(0.1, 1).measure
    # The time told is the one of the slowest worker: 2 rounds of 10 s and the start.
    assert "80 s here, 22 s there" in decided(10, 1).reason
    assert math.ceil(8 / 4) * 10 + 2 == 22


def test_n_workers_bounds_the_plan():
    assert make_plan(Work("sklearn", 9), FOUR, n_workers=1).executor == "local"
    plan = make_plan(Work("sklearn", 9), FOUR, n_workers=2)
    assert after_first(plan, Work("sklearn", 9), FOUR, 2, seconds=60, cpu_seconds=60).workers == 2
    assert len(make_plan(Work("torch", 9), GPUS, n_workers=2).devices) == 2
    with pytest.raises(ConfigError, match="executor='local' trains in this process.*n_workers=2"):
        make_plan(Work("sklearn", 9), FOUR, "local", 2)


def test_threads_of_one_process_are_refused_where_models_draw_from_global_generators():
    for kind in ("torch", "callable", "transformers", "fast_resnet"):
        with pytest.raises(
            ConfigError, match="executor='threading' cannot train references of a .* Use executor='loky'"
        ):
            make_plan(Work(kind, 4), FOUR, "threading")
    assert make_plan(Work("sklearn", 4), FOUR, "threading").executor == "threading"


def test_ray_asks_for_a_gpu_only_where_there_is_one_and_it_is_wanted():
    assert task_options(1, "cuda", {"GPU": 4.0})["num_gpus"] == 1
    assert task_options(1, "cpu", {"GPU": 4.0})["num_gpus"] == 0
    assert task_options(2, "auto", {"CPU": 4.0}) == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0}
    plan = make_plan(Work("torch", 12, together=16), FOUR, "ray", 3)
    assert (plan.workers, plan.together) == (3, 4)
    assert make_plan(Work("sklearn", 12), FOUR, "ray").workers == 0  # the cluster decides


def test_cores_are_those_of_affinity_quota_and_omp(tmp_path, monkeypatch):
    here = usable_cores(tmp_path / "nothing")
    assert here >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == here
    old = tmp_path / "v1" / "cpu"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("100000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path / "v1") == 1
    (old / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(tmp_path / "v1") == here
    recipe = make_recipe(LogisticRegression(), task="classification")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert this_machine(recipe).threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert this_machine(recipe).threads == this_machine(recipe).cores


def test_memory_is_the_less_of_machine_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16 kB\nMemAvailable: 8 kB\n")
    assert free_memory(meminfo, tmp_path) == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(meminfo, tmp_path) == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(meminfo, tmp_path) == 8192
    assert free_memory(tmp_path / "none") is None


def test_work_is_read_off_the_recipe():
    x = np.zeros((8, 1, 8, 8), np.float32)
    pool = Records(x, np.arange(8) % 2, np.arange(8).astype(str))
    settings = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "optimizer": "sgd", "loss": "cross_entropy"}
    dense = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    conv = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    dense, conv = (make_recipe(module, settings, task="classification", data=pool) for module in (dense, conv))
    assert describe_work(dense, pool, 5, "cpu").together > 1
    work = describe_work(conv, pool, 5, "cpu")
    assert (work.kind, work.n, work.together, work.pool_bytes, work.convolutions) == ("torch", 5, 1, x.nbytes, True)
    assert describe_work(dense, pool, 5, "cpu").way in str(make_plan(describe_work(dense, pool, 5, "cpu"), FOUR))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "lokky"}, r"executor: must be auto, local, loky.* did you mean 'loky'\?, got 'lokky'"),
        ({"executor": 3}, "executor: must be auto, local"),
        ({"n_workers": 0}, "n_workers: .*greater than or equal to 1, got 0"),
        ({"n_workers": True}, "n_workers: must be a whole number, got True"),
        ({"n_worker": 2}, "'n_worker', did you mean 'n_workers'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        parse_options(options)


def test_config_files_are_checked_and_a_registered_backend_is_known():
    import joblib

    with pytest.raises(ConfigError, match=r"audit\.executor must be auto, local.*did you mean 'ray'"):
        parse_config({"data": {"dataset": "digits"}, "audit": {"executor": "rai"}})
    with pytest.raises(ConfigError, match=r"audit\.n_workers must be at least 1, got 0"):
        parse_config({"data": {"dataset": "digits"}, "audit": {"n_workers": 0}})
    with pytest.raises(ConfigError):
        parse_options({"executor": "of-a-test"})
    joblib.register_parallel_backend("of-a-test", joblib.parallel.ThreadingBackend)
    try:
        assert parse_options({"executor": "of-a-test"}).executor == "of-a-test"
    finally:
        del joblib.parallel.BACKENDS["of-a-test"]
