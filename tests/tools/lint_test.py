# SPDX-License-Identifier: Apache-2.0
"""tools/lint.py finds what it is there to find, and is silent about a file that is in order."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"
CLEAN = SPDX + "/* Adds. */\n#include \"base/sum.h\"\n\nint sum(int a, int b)\n{\n    return a + b;\n}\n"


@pytest.fixture
def lint(tmp_path):
    """Writes files into a little tree of its own, lints it and returns the findings as one text."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/lint.py", tmp_path / "tools")
    shutil.copy(ROOT / ".clang-format", tmp_path)
    clang_format = os.environ.get("CLANG_FORMAT", str(ROOT / ".deps/venv/bin/clang-format"))

    def run(files):
        files = {"src/base/sum.h": SPDX + "/* Sums. */\nint sum(int a, int b);\n"} | files
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run(
            [sys.executable, tmp_path / "tools/lint.py", *[tmp_path / f for f in files]],
            env=dict(os.environ, CLANG_FORMAT=clang_format),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == (1 if done.stdout else 0), done.stderr
        return done.stdout

    return run


def body(lines):
    return SPDX + "/* Long. */\nint f(int a)\n{\n" + "".join(f"    {line}\n" for line in lines) + "    return a;\n}\n"


def test_clean(lint):
    assert lint({"src/base/sum.c": CLEAN}) == ""


@pytest.mark.parametrize(
    "path, include, allowed",
    [
        ("src/base/a.c", "net/x.h", False),
        ("src/net/a.c", "base/x.h", True),
        ("src/net/a.c", "inference/x.h", False),
        ("src/inference/a.c", "net/loop.h", True),
        ("src/inference/a.c", "net/http.h", False),
        ("src/backends/onnx/a.c", "inference/engine.h", True),
        ("src/backends/onnx/a.c", "inference/queue.h", False),
        ("src/backends/onnx/a.c", "backends/worker/x.h", False),
        ("src/backends/onnx/a.c", "backends/onnx/x.h", True),
        ("src/store/a.c", "net/loop.h", False),
        ("src/control/a.c", "store/x.h", True),
        ("src/control/a.c", "api/x.h", False),
        ("src/api/a.c", "store/x.h", False),
        ("src/client/a.c", "inference/tensor.h", True),
        ("src/client/a.c", "inference/engine.h", False),
        ("src/cli/a.c", "net/x.h", False),
        ("src/house.c", "store/x.h", True),
        ("src/net/a.c", "base/x_priv.h", False),
        ("src/net/a.c", "net/x_priv.h", True),
    ],
)
def test_layers(lint, path, include, allowed):
    header = SPDX + "/* There. */\n"
    out = lint({f"src/{include}": header, path: SPDX + f'/* Here. */\n#include "{include}"\n'})
    assert ("layers: " not in out) if allowed else (f"{path}:3: layers: " in out), out


@pytest.mark.parametrize(
    "path, include, allowed",
    [
        ("api/a.c", '"business/business.h"', True),
        ("api/a.c", '"business/business_priv.h"', False),
        ("api/a.c", '"data/data.h"', False),
        ("api/a.c", "<weir.h>", False),
        ("business/a.c", '"inference/inference.h"', True),
        ("business/a.c", "<sqlite3.h>", False),
        ("data/a.c", '"inference/inference.h"', False),
        ("inference/a.c", "<weir.h>", True),
        ("inference/a.c", '"inference/own.h"', True),
        ("common/a.c", '"data/data.h"', False),
        ("main.c", '"data/data.h"', True),
        ("main.c", "<weir.h>", False),
        ("inference/a.c", '"net/http.h"', False),
        ("other/a.c", "<stdio.h>", False),
    ],
)
def test_walls_of_the_shop(lint, path, include, allowed):
    name = include.strip('<>"')
    files = {} if name.startswith("net/") else {f"examples/shop/{name}": SPDX + "/* There. */\n"}
    out = lint(files | {f"examples/shop/{path}": SPDX + f"/* Here. */\n#include {include}\n"})
    assert ("layers: " not in out) if allowed else (f"examples/shop/{path}:" in out and "layers: " in out), out


def test_an_include_that_is_not_there(lint):
    assert "src/net/a.c:3: layers: " in lint({"src/net/a.c": SPDX + '/* Here. */\n#include "gone.h"\n'})


def test_function_length(lint):
    assert "limits" not in lint({"src/base/a.c": body(["a++;"] * 96)})
    assert "src/base/a.c:3: limits: f has 101 lines" in lint({"src/base/a.c": body(["a++;"] * 97)})


def test_complexity(lint):
    assert "limits" not in lint({"src/base/a.c": body(["a += a ? 1 : 2;"] * 24)})
    assert "limits: f has complexity 26" in lint({"src/base/a.c": body(["a += a && a;"] * 25)})


def test_strings_and_comments_are_no_code(lint):
    text = body(['const char *s = "? && if } strcpy(";', "/* atoi() && ? { */", "a += s[0] == '{';"])
    assert lint({"src/base/a.c": text}) == ""


def test_file_length_and_columns(lint):
    long = CLEAN + "int sum(int a, int b);\n" * (1201 - CLEAN.count("\n"))
    assert "limits: 1201 lines" in lint({"src/base/a.c": long})
    assert "limits: 121 columns" in lint({"src/base/a.c": CLEAN + "/*" + "x" * 117 + "*/\n"})


@pytest.mark.parametrize("call", ["strcpy(a, b)", "sprintf (a, b)", "atoi(a)", "alloca(1)"])
def test_banned(lint, call):
    assert "banned: " in lint({"src/base/a.c": SPDX + f"/* Bad. */\nvoid f(void)\n{{\n    {call};\n}}\n"})


def test_headers(lint):
    assert "header: the first line" in lint({"src/base/a.c": "/* Bad. */\n"})
    assert "header: no comment" in lint({"src/base/a.c": SPDX + "int a;\n"})
    assert "header: the first line" in lint({"tools/a.py": "print(1)\n"})


@pytest.mark.parametrize("word", ["/" + "work/main", "https:" + "//mirror.some.org/x", "TO" + "DO", "/ho" + "me/me/"])
def test_words(lint, word):
    assert "a.txt:1: words: " in lint({"a.txt": f"see {word}\n"})


def test_python_tests_that_nobody_would_run(lint):
    text = "# SPDX-License-Identifier: Apache-2.0\ndef test_a():\n    pass\n"
    assert "names: " in lint({"tests/flow/push.py": text})
    assert "names: " not in lint({"tests/flow/push_test.py": text})


def test_format(lint):
    assert "format: " in lint({"src/base/sum.c": CLEAN.replace("a + b", "a+b")})
