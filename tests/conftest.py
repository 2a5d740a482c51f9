# SPDX-License-Identifier: Apache-2.0
"""Lets pytest run the C test programs beside the Python tests.

Every tests/**/NAME_test.c is a cmocka program that make has built as $WEIR_BUILD/tests/**/NAME_test. Each of its tests
is one pytest item, named as in the C file; the program runs once, when the first of them is asked for, and the others
read its report. One item more, "(exit)", says that the program came to its end with status 0 and as many results as
planned: it is what catches a crash in a fixture, a leak that a sanitizer reports at exit, and tests that a macro made.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("WEIR_BUILD") or ROOT / "build").resolve()
LIMIT_S = float(os.environ.get("WEIR_TEST_LIMIT", "300"))
TEST_MACRO = re.compile(r"\bcmocka_unit_test(?:_setup_teardown|_setup|_teardown|_prestate\w*)?\s*\(\s*(\w+)")
TAP_LINE = re.compile(r"^(not ok|ok) (\d+)(?: - | # SKIP | )(\S+)")


def _sanitizer_options(env):
    """Reports name lines, and every finding ends the program; what the caller has set comes last and so wins."""
    defaults = {
        "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
    }
    for name, value in defaults.items():
        env[name] = value + (":" + env[name] if env.get(name) else "")


_sanitizer_options(os.environ)
os.environ["WEIR_BUILD"] = str(BUILD)


def _launcher():
    """ThreadSanitizer of gcc 12 and clang 14 can not start where addresses are random over more bits than it knows."""
    if "thread" in BUILD.name and shutil.which("setarch"):
        prefix = ["setarch", os.uname().machine, "-R"]
        if subprocess.run(prefix + ["true"], stderr=subprocess.DEVNULL).returncode == 0:
            return prefix
    return []


class Report:
    """What one run of a program said."""

    def __init__(self, program):
        self.results = {}  # name -> (ok | not ok | skip, text)
        self.planned = 0
        self.wrong = ""
        env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP")
        try:
            child = subprocess.Popen(
                _launcher() + [str(program)],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            self.output, self.wrong = "", f"{program} cannot be run ({e.strerror}); `make tests` builds it"
            return
        try:
            out, _ = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGABRT)
            try:
                out, _ = child.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                out, _ = child.communicate()
            self.wrong = f"did not end within {LIMIT_S:g} s"
        self.output = out.decode("utf-8", "replace")
        self._read()
        if not self.wrong and child.returncode < 0:
            self.wrong = f"died of {signal.Signals(-child.returncode).name}"
        elif not self.wrong and child.returncode > 0 and not any(r[0] == "not ok" for r in self.results.values()):
            self.wrong = f"ended with status {child.returncode}, though no test failed"
        elif not self.wrong and len(self.results) < self.planned:
            self.wrong = f"planned {self.planned} tests and reported {len(self.results)}"
        # A crash ends the program at the first test without a result.

    def _read(self):
        name = None
        for line in self.output.splitlines():
            plan = re.match(r"^1\.\.(\d+)", line)
            result = TAP_LINE.match(line)
            if plan:
                self.planned += int(plan.group(1))
            elif result:
                name = result.group(3)
                state = "skip" if "# SKIP" in line else result.group(1)
                self.results[name] = (state, "")
            elif name and line.startswith("#"):
                self.results[name] = (self.results[name][0], self.results[name][1] + line[1:].lstrip() + "\n")


class ProgramFailure(Exception):
    pass


class CProgram(pytest.File):
    _report = None

    def report(self):
        if self._report is None:
            self._report = Report(BUILD / self.path.relative_to(ROOT).with_suffix(""))
        return self._report

    def collect(self):
        source = re.sub(r"/\*.*?\*/|//[^\n]*", "", self.path.read_text(), flags=re.S)
        seen = dict.fromkeys(TEST_MACRO.findall(source))
        for name in seen:
            yield CTest.from_parent(self, name=name)
        yield CExit.from_parent(self, name="(exit)", known=frozenset(seen))


class CItem(pytest.Item):
    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, ProgramFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, f"{self.parent.name}::{self.name}"


class CTest(CItem):
    def runtest(self):
        report = self.parent.report()
        if self.name not in report.results:
            raise ProgramFailure(f"no result: the program {report.wrong or 'never ran it'}\n{report.output[-6000:]}")
        state, text = report.results[self.name]
        if state == "skip":
            pytest.skip(text.strip() or "skipped by the test")
        if state == "not ok":
            # The program's own output is where assert messages of helpers and sanitizers end up.
            raise ProgramFailure(text + ("" if text else report.output[-6000:]))


class CExit(CItem):
    def __init__(self, *, known, **kw):
        super().__init__(**kw)
        self.known = known

    def runtest(self):
        report = self.parent.report()
        bad = [f"{n}\n{t}" for n, (state, t) in report.results.items() if state == "not ok" and n not in self.known]
        if report.wrong or bad:
            raise ProgramFailure("\n".join([report.wrong] + bad + [report.output[-6000:]]).strip())


def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".c" and file_path.name.endswith("_test.c"):
        return CProgram.from_parent(parent, path=file_path)
    return None
