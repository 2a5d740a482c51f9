# SPDX-License-Identifier: Apache-2.0
"""The servers of the fault tests: stopped, and looked after, when a test is over."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

import flow  # noqa: E402


@pytest.fixture
def serve(tmp_path):
    """serve(weir.yaml's text) starts a server; at the end it must stop with status 0 and leave nothing."""
    running = []

    def start(conf="", **kw):
        running.append(flow.Server(tmp_path / f"server{len(running)}", conf, **kw))
        return running[-1].start()

    yield start
    for s in running:
        s.stop()
