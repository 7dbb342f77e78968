"""Compiles the core (`native/`) for a wheel or an editable installation; hatchling calls it.

The environment variable AIOSOCKETSERVER_BUILD decides: `native` makes it an error when the core
cannot be compiled; `pure` compiles nothing; without it, what cannot be compiled is left out, and
the package runs in Python.
"""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "AIOSOCKETSERVER_BUILD"
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


class CustomBuildHook(BuildHookInterface[Any]):
    """A step of the build of each wheel, before it is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; what was made goes into the wheel, or beside the sources of an editable one."""
        chosen = os.environ.get(VARIABLE, "")
        if chosen not in ("", "native", "pure"):
            raise ValueError(f"{VARIABLE} must be native or pure, and is {chosen!r}")
        root, name = Path(self.root), f"aiosocketserver/_native{SUFFIX}"
        if version == "editable":
            # The package refuses one of other sources; this one is made again, or not to be.
            (root / name).unlink(missing_ok=True)
        if chosen == "pure":
            return
        # Held until the wheel is packed.
        self._folder = tempfile.TemporaryDirectory()
        try:
            built = compile_core(root, Path(self._folder.name))
        except Exception as error:
            # Whatever a compiler says, or the lack of one.
            if chosen == "native":
                raise
            self.app.display_warning(f"the core is not compiled, and runs in Python: {error}")
            return
        if version == "editable":
            # In one step: another process may be about to import it.
            new = root / f"{name}.{os.getpid()}"
            new.write_bytes(built.read_bytes())
            new.chmod(0o755)
            new.replace(root / name)
        else:
            build_data["force_include"][str(built)] = name
            build_data["infer_tag"] = True
            build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is packed."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compile_core(root: Path, folder: Path) -> Path:
    """Make the extension in `folder`, of the sources in the project `root`; its path."""
    if sys.implementation.name != "cpython":
        raise RuntimeError(f"it is written for CPython, and this is {sys.implementation.name}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("it needs the GIL, and this Python is built without one")
    if os.name != "posix":
        raise RuntimeError("it is written for POSIX systems")

    # Here, so that a pure build does not need it.
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    sources = root / "native"
    checksum = runpy.run_path(str(root / "aiosocketserver/compiled_sources.py"))["checksum"]
    extension = Extension(
        "aiosocketserver._native",
        sources=[str(path) for path in sorted(sources.glob("*.c"))],
        define_macros=[("CHECKSUM", f'"{checksum(str(sources))}"')],
        # No path of this machine in what is made.
        extra_compile_args=[
            "-std=c11",
            "-O3",
            "-fvisibility=hidden",
            f"-ffile-prefix-map={root}=.",
        ],
    )
    command = build_ext(Distribution({"name": "aiosocketserver", "ext_modules": [extension]}))
    command.build_temp, command.build_lib = str(folder / "objects"), str(folder)
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("aiosocketserver._native"))
