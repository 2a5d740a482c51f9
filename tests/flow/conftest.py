# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the flow tests: servers that are stopped, and looked after, when a test or a file is over."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import flow  # noqa: E402


def _maker(folder, running):
    def serve(conf="", name=None, start=True, **kw):
        at = folder / (name or f"server{len(running)}")
        s = flow.Server(at, conf, **kw)
        running.append(s)
        return s.start() if start else s

    return serve


def _stop_all(running):
    wrong = []
    for s in running:
        try:
            s.stop()
        except AssertionError as e:
            wrong.append(e)
    if wrong:
        raise wrong[0]


@pytest.fixture
def serve(tmp_path):
    """serve(weir.yaml's text) starts a server; at the end it must stop with status 0 and leave nothing."""
    running = []
    yield _maker(tmp_path, running)
    _stop_all(running)


@pytest.fixture(scope="module")
def module_serve(tmp_path_factory):
    """The same for a server that all tests of a file share."""
    running = []
    yield _maker(tmp_path_factory.mktemp("flow"), running)
    _stop_all(running)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for s in flow.LIVE:
            report.sections.append((f"log of {s.folder.name}", s.log()[-6000:]))
