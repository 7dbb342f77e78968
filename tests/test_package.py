"""What the package is made of, and what importing it loads."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import aiosocketserver.compat

ROOT = Path(__file__).parent.parent


def test_import_of_the_core_loads_neither_deploy_nor_compat() -> None:
    code = (
        "import sys, aiosocketserver; "
        "print([name for name in sys.modules "
        "if name.startswith(('aiosocketserver.deploy', 'aiosocketserver.compat'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compat_is_a_module_of_the_package() -> None:
    assert aiosocketserver.compat.__name__ == "aiosocketserver.compat"


def test_wheel_and_sdist_hold_compat_as_real_files(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"aiosocketserver-{aiosocketserver.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    assert {"aiosocketserver/py.typed", "aiosocketserver/compat/__init__.py"} <= in_wheel
    assert not any(name.startswith(("compat", "tests")) for name in in_wheel)

    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2]: tar.getmember(name) for name in tar.getnames()}
    assert in_sdist["aiosocketserver/compat/__init__.py"].isfile()
    assert in_sdist["tests/conftest.py"].isfile()
