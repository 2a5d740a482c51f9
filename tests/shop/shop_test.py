# SPDX-License-Identifier: Apache-2.0
"""A browser in the shop: the same visit in each deployment, and what becomes of it when a host of (c) is gone."""

import json
import os
import signal
import struct
import subprocess
import zlib

import pytest
from playwright.sync_api import expect, sync_playwright

import flow

WAIT_MS = 30000 * flow.SLOWER


@pytest.fixture(scope="module")
def chromium(deployment):
    # Its own sandbox wants what a container often has not; it sees nothing but the shop.
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=deployment.browser, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page of a new customer. What the browser finds wrong fails the test."""
    context = chromium.new_context(viewport={"width": 1240, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    page.on("dialog", lambda d: wrong.append(f"a dialog: {d.message}"))
    yield page
    context.close()
    assert not wrong, wrong


def search(page, text):
    page.get_by_role("textbox", name="Search").fill(text)
    page.get_by_role("textbox", name="Search").press("Enter")
    page.wait_for_url("**/search?q=*")


def main_of(page):
    return page.locator("main")


def png(label):
    """A photo: the first sample with that label (of the watch the model is sure), as a PNG four times as large."""
    lines = (flow.EXAMPLES / "vision" / "1" / "samples.ndjson").read_text().splitlines()
    data = next(row["inputs"][0]["data"] for row in map(json.loads, lines) if row["label"] == label)
    while isinstance(data[0], list):
        data = [x for part in data for x in part]
    scale, side = 4, 32
    rows = b""
    for y in range(side):
        line = b"".join(bytes(data[(y * side + x) * 3:(y * side + x) * 3 + 3]) * scale for x in range(side))
        rows += (b"\0" + line) * scale

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side * scale, side * scale, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def send_photo(page, name, kind, data):
    page.get_by_label("Photo").set_input_files({"name": name, "mimeType": kind, "buffer": data})
    page.wait_for_url("**/photo")


def reads_photos():
    """Whether the vision model takes files: its model.yaml says so in a section `image`."""
    return "\nimage:" in (flow.EXAMPLES / "vision" / "1" / "model.yaml").read_text()


def joined(deployment, family):
    return deployment.models(family)["feedback"]["joined"]


def test_search_understands(deployment, page):
    page.goto(deployment.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Things that last.")
    expect(main_of(page)).to_have_attribute("data-degraded", "0")
    expect(page.locator(".shelf").first.locator(".card")).to_have_count(8)

    search(page, "where is my parcel")
    expect(page.get_by_role("heading", level=1)).to_have_text("Where your orders are")
    expect(page.locator(".order")).to_have_count(2)
    expect(page.locator(".order").first).to_contain_text("on its way")
    page.get_by_text("Who says so?").click()
    expect(page.locator(".thumbs small")).to_contain_text("track_order")

    search(page, "i want to return the shoes")
    expect(page.get_by_role("heading", level=1)).to_have_text("Send something back")
    page.get_by_role("button", name="Send it back").click()
    page.wait_for_url("**/orders?done=return")
    expect(page.get_by_role("status")).to_contain_text("return label")
    expect(page.locator(".badge", has_text="returned")).to_have_count(1)
    search(page, "when do i get my money back")
    expect(page.locator(".order")).to_have_count(1)

    search(page, "do you have a blue jacket")
    expect(main_of(page)).to_have_attribute("data-degraded", "0")
    expect(page.locator(".card").first).to_contain_text("blue")
    expect(page.locator(".card use").first).to_have_attribute("href", "/assets/kinds.svg#jacket")

    nasty = "<script>alert(1)</script>\"><img src=x onerror=alert(2)> lamp"
    search(page, nasty)
    expect(page.get_by_role("textbox", name="Search")).to_have_value(nasty)
    expect(page.locator("main script, main img")).to_have_count(0)


def test_products_and_recommendations(deployment, page):
    page.goto(deployment.url + "/kind/lamp")
    for at in range(3):
        page.goto(deployment.url + "/kind/lamp")
        page.locator(".card").nth(at).click()
        page.wait_for_url("**/p/*")
    expect(page.locator(".product h1")).to_be_visible()
    shelf = page.locator(".shelf", has=page.get_by_role("heading", name="Goes well with it"))
    expect(shelf.locator(".cards")).to_have_attribute("data-source", "model")
    expect(main_of(page)).to_have_attribute("data-degraded", "0")
    assert shelf.locator(".card").count() >= 6

    page.goto(deployment.url)
    expect(page.get_by_role("heading", name="Picked for you")).to_be_visible()
    expect(page.get_by_role("heading", name="You looked at")).to_be_visible()
    # Another customer gets something else.
    other = page.context.browser.new_page()
    other.goto(deployment.url)
    expect(other.get_by_role("heading", name="Picked for you")).to_have_count(0)
    other.close()

    page.locator(".card").first.click()
    page.get_by_role("button", name="Buy it").click()
    page.wait_for_url("**/orders?done=buy")
    expect(page.get_by_role("status")).to_contain_text("Thank you!")
    page.get_by_role("button", name="Cancel it").click()
    page.wait_for_url("**/orders?done=cancel")
    expect(page.locator(".badge", has_text="cancelled")).to_have_count(1)


def test_thumbs_reach_the_model(deployment, page):
    before = {family: joined(deployment, family) for family in ("intent", "recommend")}
    page.goto(deployment.url + "/p/1")
    page.locator(".thumbs").get_by_role("button", name="Yes").click()
    expect(page.locator(".thumbs > span")).to_have_text("Thank you!")
    search(page, "what are your opening hours")
    page.locator(".thumbs").get_by_role("button", name="No").click()
    expect(page.locator(".thumbs > span")).to_have_text("Thank you. We will do better.")
    assert {family: joined(deployment, family) for family in before} == {f: n + 1 for f, n in before.items()}


def test_one_trace(deployment, chromium):
    """The trace that a page's request belongs to is also the models', whatever stands between."""
    trace = os.urandom(16).hex()
    context = chromium.new_context(extra_http_headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    page = context.new_page()
    page.goto(deployment.url + "/search?q=where+is+my+parcel")
    page.get_by_text("Who says so?").click()
    request_id = page.locator(".thumbs code").inner_text()
    context.close()

    def kept():
        done = flow.weir("trace", trace, "--json", env={"WEIR_SERVER": deployment.admin["intent"]})
        return done.status == 0 and request_id in done.out

    flow.until("the request under its trace", kept)


def test_photo(deployment, page):
    page.goto(deployment.url)
    send_photo(page, "watch.png", "image/png", png("watch"))
    if reads_photos():
        expect(page.get_by_role("heading", level=1)).to_contain_text("watch")
        expect(page.locator(".card use").first).to_have_attribute("href", "/assets/kinds.svg#watch")
        page.locator(".thumbs").get_by_role("button", name="Yes").click()
        expect(page.locator(".thumbs > span")).to_have_text("Thank you!")
    else:
        # A model that takes pixels refuses a file, and that is the photo's matter, not a failure of the place.
        expect(main_of(page)).to_contain_text("That photo could not be read")
    send_photo(page, "words.png", "image/png", b"these are words")
    expect(main_of(page)).to_contain_text("That is no photo that we can read")
    if deployment.hosts is None or not deployment.hosts.real:
        large = page.request.post(deployment.url + "/photo", multipart={
            "photo": {"name": "x.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n" + bytes(9 << 20)}})
        assert large.status == 413
    page.goto(deployment.url)
    expect(main_of(page)).to_have_attribute("data-degraded", "0")


def test_nothing_at_an_address(deployment, page):
    for path in ("/p/201", "/p/x", "/kind/boat", "/nowhere", "/assets/shop.db", "/api/p/0"):
        assert page.goto(deployment.url + path).status == 404, path


def test_what_nobody_should_send(deployment):
    """Requests of no browser: refused or taken with a clear status, and the shop goes on."""
    if deployment.kind != "beside":
        pytest.skip("once is enough")
    with flow.Wire(flow.address_of(deployment.url)) as w:
        def status(method, path, body=None, **headers):
            return w.ask(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()}).status

        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert status("GET", "/search?q=" + "a" * 3000) == 400
        assert status("GET", "/search?" + "&".join(f"q{i}=1" for i in range(50))) == 200
        assert status("GET", "/search?q=%00%ff%fe") == 200
        assert status("GET", "/", Cookie="millpond=" + "z" * 4000) == 200
        assert status("HEAD", "/") == 200
        assert status("DELETE", "/") == 404
        assert status("GET", "/kind/%2e%2e") == 404
        assert status("GET", "/assets/../data.h") == 404
        for body in ("", "id=", "id=-5", "id=9" + "9" * 30, "id=201"):
            assert status("POST", "/buy", body, **form) == 404, body
        assert status("POST", "/buy", "id=1", Sec_Fetch_Site="cross-site", **form) == 403
        assert status("POST", "/thumb", "model=other&request_id=1&up=1", **form) == 400
        assert status("POST", "/thumb", "model=intent&up=1&request_id=" + "r" * 5000, **form) == 400
        assert status("POST", "/photo", "garbage--x--", Content_Type="multipart/form-data; boundary=x") == 400
        empty = '--x\r\nContent-Disposition: form-data; name="photo"; filename=""\r\n\r\n\r\n--x--\r\n'
        assert status("POST", "/photo", empty, Content_Type="multipart/form-data; boundary=x") == 400
        assert status("GET", "/healthz") == 200
    with flow.Wire(flow.address_of(deployment.url)) as w:
        w.send(b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert w.read().status == 413


def test_a_host_is_lost(deployment, page):
    """(c): the rules stand in while it is gone, and the models answer again when it is back."""
    if deployment.kind != "hosts":
        pytest.skip("only where families have hosts of their own")
    page.goto(deployment.url + "/p/8")
    expect(page.locator(".cards")).to_have_attribute("data-source", "model")
    for family in ("recommend", "vision"):
        lost = deployment.servers[family]
        lost.kill()
        deployment.processes.remove(lost)
    for _ in range(5):  # with the breaker open and before
        assert page.goto(deployment.url + "/p/8").status == 200
        expect(main_of(page)).to_have_attribute("data-degraded", "1")
        expect(page.get_by_role("heading", name="Others of its kind")).to_be_visible()
        expect(page.locator(".cards")).to_have_attribute("data-source", "rules")
        expect(page.locator(".card use").first).to_have_attribute("href", "/assets/kinds.svg#lamp")
    assert page.goto(deployment.url).status == 200
    expect(page.locator(".card").first).to_be_visible()
    send_photo(page, "watch.png", "image/png", png("watch"))
    expect(page.get_by_role("heading", level=1)).to_have_text("The photo search takes a break")
    expect(page.locator(".card").first).to_be_visible()
    search(page, "where is my parcel")  # the family that is at home does not notice
    expect(main_of(page)).to_have_attribute("data-degraded", "0")

    for family in ("recommend", "vision"):
        deployment.start_host(family)

    def back():
        page.goto(deployment.url + "/p/8")
        return page.locator("main").get_attribute("data-degraded") == "0"

    flow.until("recommendations again", back, 40, 0.2)
    expect(page.locator(".cards")).to_have_attribute("data-source", "model")

    def sees():
        page.goto(deployment.url)
        send_photo(page, "watch.png", "image/png", png("watch"))
        return "takes a break" not in page.locator("h1").inner_text()

    flow.until("the photo search again", sees, 40, 0.2)


def test_a_host_hangs(deployment, page):
    """(c): a host that takes connections and says nothing costs its deadline three times, and then nothing."""
    if deployment.kind != "hosts":
        pytest.skip("only where families have hosts of their own")
    hung = deployment.servers["recommend"]
    told = deployment.front.log().count("recommend is left alone")
    os.kill(hung.pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            page.goto(deployment.url + "/p/9")
            expect(main_of(page)).to_have_attribute("data-degraded", "1")
            expect(page.locator(".cards")).to_have_attribute("data-source", "rules")
        assert deployment.front.log().count("recommend is left alone") == told + 1
    finally:
        os.kill(hung.pid, signal.SIGCONT)

    def back():
        page.goto(deployment.url + "/p/9")
        return main_of(page).get_attribute("data-degraded") == "0"

    flow.until("recommendations again", back, 40, 0.2)


def test_the_business_module_is_lost(deployment, page):
    """(d): without it there is a page that says so, and no hang; with it again, the shop."""
    if deployment.kind != "apart":
        pytest.skip("only where the modules are apart")
    page.goto(deployment.url)
    lost = deployment.rules
    os.kill(lost.process.pid, 9)
    lost.process.wait(30)
    deployment.processes.remove(lost)
    assert page.request.get(deployment.url + "/").status == 503
    assert "A short break" in page.request.get(deployment.url + "/").text()
    assert page.request.get(deployment.url + "/healthz").status == 200
    again = deployment.shop("--role", "business", "--listen", lost.url.removeprefix("http://"), "--inference",
                            deployment.servers_url, name="business")
    deployment.rules = again
    assert page.goto(deployment.url).status == 200


def test_wrong_configuration(tmp_path):
    def said(*args):
        done = subprocess.run([flow.BUILD / "shop" / "shop", *args], capture_output=True, text=True,
                              timeout=60 * flow.SLOWER, cwd=tmp_path)
        return done.returncode, done.stderr

    (tmp_path / "bad.yaml").write_text("inference: {cheese: http://x}\n")
    (tmp_path / "worse.yaml").write_text("listen: [1, 2\n")
    assert said("--colour", "red") == (2, "shop: 'colour' is no key of it (shop --help lists them)\n")
    assert said("-c", "bad.yaml")[0] == 2 and "inference.cheese" in said("-c", "bad.yaml")[1]
    assert said("-c", "worse.yaml")[0] == 2 and "line " in said("-c", "worse.yaml")[1]
    assert said("-c", "none.yaml")[0] == 2
    assert said("--deadline.intent", "soon")[0] == 2
    assert said("--role", "king")[0] == 1 and said("--role", "api")[0] == 1
    status, text = said("--inference", "gopher://x")
    assert status == 1 and "gopher" in text
    assert said("--inference", "http://127.0.0.1:1", "--listen", "nowhere")[0] == 1
