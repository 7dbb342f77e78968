"""How known faults are put into the code: by function, and not by line."""

from pathlib import Path

import pytest

from tools.mutants import Fault, UnusableError

CODE = """\
class Wheel:
    def turn(self):
        self.speed = 1
        return self.speed

    def stop(self):
        self.speed = 0
        return self.speed


def turn(wheel):
    return wheel.turn()
"""

HEAD = "# It turns backwards.\n# tests: test_wheel.py -k turn\n"


def faulty(tmp_path: Path, text: str, code: str = CODE) -> str:
    """The code with a fault."""
    (tmp_path / "wheel.py").write_text(code)
    mutant = tmp_path / "backwards.mutant"
    mutant.write_text(HEAD + text)
    Fault.read(mutant).put_into(tmp_path)
    return (tmp_path / "wheel.py").read_text()


def test_a_fault_is_read(tmp_path: Path) -> None:
    (tmp_path / "backwards.mutant").write_text(HEAD + "@@ wheel.py: turn\n-a\n+b\n c\n")
    fault = Fault.read(tmp_path / "backwards.mutant")
    assert (fault.name, fault.description) == ("backwards", "It turns backwards.")
    assert fault.targets == ["test_wheel.py -k turn"]
    (change,) = fault.changes
    assert (change.path, change.place) == ("wheel.py", "turn")
    assert (change.before, change.after) == (["a", "c"], ["b", "c"])


def test_a_line_is_changed_in_its_function_only(tmp_path: Path) -> None:
    text = "@@ wheel.py: Wheel.stop\n-        return self.speed\n+        return -1\n"
    assert faulty(tmp_path, text) == CODE.replace(
        "= 0\n        return self.speed", "= 0\n        return -1"
    )


def test_it_stays_where_it_is_when_the_file_grows(tmp_path: Path) -> None:
    text = "@@ wheel.py: turn\n-    return wheel.turn()\n+    return wheel.stop()\n"
    code = "import os\n\n\n\n" + CODE
    assert faulty(tmp_path, text, code) == code.replace("wheel.turn()", "wheel.stop()")


def test_lines_are_added_after_their_context(tmp_path: Path) -> None:
    text = "@@ wheel.py: Wheel.stop\n         self.speed = 0\n+        self.speed -= 1\n"
    assert "self.speed = 0\n        self.speed -= 1\n        return" in faulty(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("@@ wheel.py: Wheel.fly\n-a\n+b\n", "Wheel.fly in wheel.py has no longer: a"),
        ("@@ tyre.py: turn\n-a\n+b\n", "there is no tyre.py"),
        ("@@ wheel.py: turn\n-    return 1\n+b\n", "turn in wheel.py has no longer: return 1"),
        (
            "@@ wheel.py: Wheel\n-        return self.speed\n+b\n",
            "Wheel in wheel.py has more than once: return self.speed",
        ),
        ("@@ wheel.py: turn\n+b\n", "turn in wheel.py: a change needs a line that is there before"),
        (
            "@@ wheel.py: turn\n-    return wheel.turn()\n+    return (\n",
            "turn in wheel.py is no Python with it: '(' was never closed (<unknown>, line 12)",
        ),
        ("\n", "a description, '# tests:' and a change have to be there"),
        ("", "a description, '# tests:' and a change have to be there"),
    ],
)
def test_what_cannot_be_put_in_names_the_function(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableError) as caught:
        faulty(tmp_path, text)
    assert str(caught.value) == problem
