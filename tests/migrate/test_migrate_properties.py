"""Whatever a handler does: what comes out is Python, with all of its comments, and final."""

import ast
import io
import textwrap
import tokenize
import warnings
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiosocketserver.migrate.io_calls import AWAITED
from tests.deploy_support import ROOT
from tests.migrate_support import migrated

EXPRESSIONS = st.recursive(
    st.sampled_from(
        [
            "self.request.recv(10)",
            "self.rfile.readline()",
            "conn.recv(1)",
            "self.ask()",
            "self.data",
            "b'x'",
            "self.rfile",
            "self.request",
        ]
    ),
    lambda inner: st.one_of(
        st.builds("({})".format, inner),
        st.builds("({}).strip()".format, inner),
        st.builds("{}.strip()".format, inner),
        st.builds("not {}".format, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("[{} for _ in range(2)]".format, inner),
        st.builds("[each for each in {}]".format, inner),
        st.builds("list({} for _ in range(2))".format, inner),
        st.builds("(lambda: {})".format, inner),
        st.builds("self.reply({})".format, inner),
        st.builds("self.wfile.write({})".format, inner),
        st.builds("dump({})".format, inner),
        st.builds("({},)".format, inner),
        st.builds("({})[0]".format, inner),
        st.builds("(name := {})".format, inner),
        st.builds('f"{{{}}}"'.format, inner.filter(lambda text: '"' not in text)),
    ),
    max_leaves=4,
)

SIMPLE = st.one_of(
    EXPRESSIONS,
    st.builds("conn = {}".format, EXPRESSIONS),
    st.builds("self.data = {}".format, EXPRESSIONS),
    st.builds("data, sock = {}".format, EXPRESSIONS),
    st.builds("return {}".format, EXPRESSIONS),
    st.just("super().setup()"),
    st.just("time.sleep(1)"),
    st.just("pass"),
)


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


BLOCKS = st.recursive(
    st.lists(SIMPLE, min_size=1, max_size=3),
    lambda inner: st.one_of(
        st.builds(lambda e, b: [f"for line in {e}:", *indented(b)], EXPRESSIONS, inner),
        st.builds(lambda e, b: [f"while {e}:", *indented(b)], EXPRESSIONS, inner),
        st.builds(lambda e, b: [f"if {e}:", *indented(b)], EXPRESSIONS, inner),
        st.builds(lambda b: ["try:", *indented(b), "except:", "    pass"], inner),
        st.builds(lambda b: ["def inner():", *indented(b), "inner()"], inner),
        st.builds(lambda a, b: [*a, *b], inner, inner),
    ),
    max_leaves=5,
)

# How a source comes by socketserver's names, and what it writes before them.
IMPORTS = st.sampled_from(
    [
        (["import socketserver, time"], "socketserver."),
        (["import time", "from socketserver import *"], ""),
        (
            ["from socketserver import (", "    StreamRequestHandler,", "    TCPServer,", ")"],
            "",
        ),
        (
            [
                *("try:", "    import SocketServer"),
                *("except ImportError:", "    import socketserver as SocketServer"),
            ],
            "SocketServer.",
        ),
    ]
)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """A source with a handler, with a comment on each line that can have one."""
    imports, prefix = draw(IMPORTS)
    lines = [*imports, "", f"class Handler({prefix}StreamRequestHandler):"]
    for name in ("handle", "ask", "reply"):
        lines += [f"    def {name}(self, *args):", *indented(indented(draw(BLOCKS)))]
    if draw(st.booleans()):
        lines += [f"server = {prefix}TCPServer(('', 0), Handler)"]
    return "".join(f"{line}  # {number}\n" for number, line in enumerate(lines))


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def unawaited(source: str) -> list[str]:
    """The calls of methods that are awaited on a coroutine handler, and are not."""
    names = frozenset[str]().union(*AWAITED.values())
    tree = ast.parse(source)
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and id(node) not in awaited
    ]


def compiles(source: str) -> bool:
    with warnings.catch_warnings():
        # Such as that a tuple is called, which is none of our business.
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(source, "source", "exec")
        except SyntaxError:
            return False
    return True


# Finding the smallest source for a failure takes its time.
@pytest.mark.timeout(600)
@settings(max_examples=40, deadline=None, report_multiple_bugs=False)
@given(source=sources())
def test_what_comes_out_is_python_and_whole(source: str) -> None:
    assume(compiles(source))
    for force in (False, True):
        migration = migrated(source, force=force)
        text = migration.source.decode()
        assert compiles(text)
        assert comments(text) == comments(source)
        (report,) = migration.reports
        if report.converted:
            # The other sockets' calls, too, are found.
            assert report.blocking or unawaited(text) == []
            assert migrated(text).reports == ()
        else:
            assert text == source
            assert report.obstacles or report.blocking


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "compat").glob("test_compat_*.py")), ids=lambda path: path.stem
)
def test_sources_of_this_project_stay_whole(path: Path) -> None:
    source = path.read_text()
    text = migrated(source.encode(), force=True).source.decode()
    assert compiles(text)
    assert comments(text) == comments(source)
    assert migrated(text.encode(), force=True).source.decode() == text


def test_the_check_of_awaits_can_fail() -> None:
    source = textwrap.dedent("""
        async def handle(self):
            await self.wfile.write(self.rfile.readline())
        """)
    assert unawaited(source) == ["self.rfile.readline()"]
