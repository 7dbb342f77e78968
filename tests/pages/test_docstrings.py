"""Every public name has a docstring, and so has every public member of a public class."""

import griffe

import aiosocketserver
from tests.page_support import ROOT
from tests.pages.test_reference import RENDERED
from tools.site_docstrings import undocumented

BARE = """
class Told:
    '''Told.

    Class variables:

    - a, b: described here
    '''
    a = 1
    b = 2
    c = 3
    _d = 4

    def e(self): ...

def untold(): ...
"""


def test_every_public_name_has_a_docstring() -> None:
    package = griffe.load("aiosocketserver", search_paths=[ROOT])
    assert isinstance(package, griffe.Module)
    # What this system lacks is not public here, and is on a page even so.
    names = {*aiosocketserver.__all__, *RENDERED}
    assert [each for name in sorted(names) for each in undocumented(package, name)] == []


def test_a_missing_docstring_is_found() -> None:
    with griffe.temporary_visited_package("bare", {"__init__.py": BARE}) as package:
        assert list(undocumented(package, "Told")) == ["Told.c", "Told.e"]
        assert list(undocumented(package, "untold")) == ["untold"]
