# SPDX-License-Identifier: Apache-2.0
"""The end of a server on which clients hang: requests that come byte by byte, a push that is never finished. The time
for draining is kept, and nobody can hold the server beyond it."""

import os
import signal
import threading
import time

import flow


def test_slow_clients_do_not_hold_the_server(serve):
    s = serve("threads: 2\ndrain: 1s\n")
    s.push_example("intent", 1)
    over = threading.Event()
    wires = [s.wire() for _ in range(6)]

    def dribble(wire):
        try:
            while not over.wait(0.1):
                wire.send(b" ")
        except OSError:
            pass

    for w in wires:
        w.send(b"POST /v2/models/intent/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
    push = flow.Wire(s.admin)
    push.send(b"POST /admin/models/half/versions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx")
    threads = [threading.Thread(target=dribble, args=(w,), daemon=True) for w in wires]
    for t in threads:
        t.start()
    flow.until("the version holds the requests",
               lambda: s.model("intent")["versions"][0]["stats"]["in_flight"] == len(wires))
    began = time.monotonic()
    os.kill(s.pid, signal.SIGTERM)
    s.process.wait(10 * flow.SLOWER)
    assert time.monotonic() - began >= 1, "they had a second to finish"
    s.stop()
    over.set()
    for t in threads:
        t.join()
    for w in (*wires, push):
        w.close()
