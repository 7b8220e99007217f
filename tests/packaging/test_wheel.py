"""What is in the wheel, and what is not."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALIASES = ("evaluators", "trainers", "signals")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist of a clean copy of the source tree, the links included."""
    import shutil

    copy, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("dist")
    names = (".git", "*.egg-info", "build", "dist", "__pycache__", "mlruns", "*.db", ".venv", "docs")
    skip = shutil.ignore_patterns(*names)
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_installed_wheel_brings_no_top_level_aliases(built, tmp_path):
    environment = tmp_path / "fresh"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    target = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, str(built[0])]
    subprocess.run(install, check=True, capture_output=True)
    probe = (
        "import importlib.util as u, mlflow_privacy;"  # without its dependencies the package itself still imports
        f"assert all(u.find_spec('mlflow_privacy.' + name) for name in {ALIASES!r});"
        f"print([name for name in {ALIASES!r} if u.find_spec(name)], mlflow_privacy.__version__)"
    )
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert found.startswith("[] ")


def test_wheel_holds_the_package_and_its_entry_points_only(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
        tops = {name.split("/")[0] for name in names}
        entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlflow_privacy"}
    assert "mlflow_privacy/py.typed" in names
    for line in ("privacy_meter = ", "from_model_lineage = ", "mlflow-privacy = "):
        assert line in entry_points


def test_sdist_holds_no_second_copy_of_the_linked_folders(built):
    import tarfile

    with tarfile.open(built[1]) as sdist:
        second = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert second.isdisjoint(ALIASES)
    assert "mlflow_privacy" in second


@pytest.mark.parametrize("name", ALIASES)
def test_root_folders_are_links_to_the_nested_packages(name):
    link = ROOT / name
    if not link.exists():
        pytest.skip("links are not supported here")
    assert link.resolve() == (ROOT / "mlflow_privacy" / name).resolve()
