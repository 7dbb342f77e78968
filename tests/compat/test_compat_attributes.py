"""Attributes of compat that it takes from socketserver as they are."""

import socketserver
import subprocess
import sys
import types
import warnings
from typing import Any

import pytest

from aiosocketserver import compat

MESSAGE = "'old' is slated for removal"


@pytest.fixture
def _computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has socketserver compute a name that it warns of, as `__version__` from Python 3.15 on."""

    def compute(name: str) -> str:
        if name == "old":
            warnings.warn(MESSAGE, DeprecationWarning, stacklevel=2)
            return "computed"
        raise AttributeError(f"module 'socketserver' has no attribute {name!r}")

    monkeypatch.setattr(socketserver, "__getattr__", compute, raising=False)


def by_attribute(module: types.ModuleType) -> Any:
    return module.old


def by_import(module: types.ModuleType) -> Any:
    from aiosocketserver.compat import old  # type: ignore[attr-defined]

    return old


@pytest.mark.usefixtures("_computed")
@pytest.mark.parametrize("get", [by_attribute, by_import])
def test_a_deprecation_is_told_to_who_uses_it(get: Any) -> None:
    with pytest.warns(DeprecationWarning, match=MESSAGE) as caught:
        assert get(compat) == "computed"
    assert {each.filename for each in caught} == {__file__}
    # Where warnings are errors it is raised there as well.
    with pytest.raises(DeprecationWarning, match=MESSAGE):
        get(compat)


@pytest.mark.usefixtures("_computed")
def test_what_socketserver_has_is_there_without_a_word() -> None:
    assert compat._ServerSelector is socketserver._ServerSelector  # type: ignore[attr-defined]
    assert not hasattr(compat, "nonsense")


def test_what_nobody_has_is_told_in_the_name_of_compat() -> None:
    with pytest.raises(
        AttributeError, match=r"'aiosocketserver\.compat' has no attribute 'nothing'"
    ):
        _ = compat.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("install", ["", "from aiosocketserver import compat; compat.install()\n"])
def test_the_version(install: str) -> None:
    """Under socketserver's name and compat's, the same warning for the same line."""
    name = "socketserver" if install else "aiosocketserver.compat"
    program = f"{install}import {name} as module\nprint(module.__version__)\n"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "0.4\n"
    if sys.version_info >= (3, 15):
        line = program.count("\n")
        assert f"<string>:{line}: DeprecationWarning: '__version__'" in done.stderr
        assert done.stderr.count("DeprecationWarning") == 1
    else:
        assert done.stderr == ""
