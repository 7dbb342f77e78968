"""What the pages promise names the tests that see to it, and these tests exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "faults" / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))

NAME = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?")


def named_tests(text: str) -> list[tuple[Path, str]]:
    return [(ROOT / path, function) for path, function in NAME.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_test_that_a_page_names_exists(page: Path) -> None:
    for path, function in named_tests(page.read_text()):
        assert path.is_file(), path
        assert not function or re.search(rf"\bdef {function}\(", path.read_text()), function


def rows(text: str) -> list[str]:
    """The rows of all tables that have a column for tests."""
    found: list[str] = []
    tells = False
    for line in text.splitlines():
        if not line.startswith("| "):
            tells = False
        elif "tested in" in line or "| test |" in line:
            tells = True
        elif tells and "---" not in line:
            found.append(line)
    return found


def test_each_attack_names_a_test() -> None:
    attacks = rows((ROOT / "docs" / "security.md").read_text())
    assert len(attacks) > 20
    assert [attack for attack in attacks if not named_tests(attack)] == []


def test_each_chapter_of_what_happens_names_a_test() -> None:
    _, *chapters = re.split(
        r"^## ", (ROOT / "docs" / "behaviour.md").read_text(), flags=re.MULTILINE
    )
    assert [chapter[:40] for chapter in chapters if not named_tests(chapter)] == []


def test_each_fault_names_its_test() -> None:
    faults = rows(FAULTS.read_text())
    assert len(faults) > 20
    for fault in faults:
        names = re.findall(r"`([\w./]+\.py)`|(`make soak`)", fault)
        assert names, fault
        for path, _ in names:
            assert not path or (FAULTS.parent / path).is_file(), path
