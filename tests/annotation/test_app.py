"""The server as a browser and as others may speak to it."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from rlstep.annotation.app import create_app
from rlstep.annotation.desk import Desk
from rlstep.annotation.items import Item
from tests.annotation.conftest import rows


@pytest.fixture
def desk(items, out):
    desk = Desk(items, out, ("ada", "ben"))
    yield desk
    desk.close()


@pytest.fixture
def serve(desk):
    def make(**options) -> TestClient:
        return TestClient(
            create_app(desk, **options), base_url="http://127.0.0.1:8800", raise_server_exceptions=False
        )  # fmt: skip

    return make


@pytest.fixture
def client(serve):
    return serve()


VISIT = {"labeller": "ada", "browser": "tab"}


def save(client, screen, ratings, reason=None, **changes):
    body = {
        **VISIT, "item": screen["item"]["id"], "revision": screen["item"]["revision"] + 1, "ratings": ratings,
        "finish_reason": reason, "milliseconds": 900,
    }  # fmt: skip
    return client.post("/api/save", json=body | changes)


def reopen(client, id, revision):
    return client.post("/api/reopen", json={**VISIT, "item": id, "revision": revision + 1})


def test_labelling_one_solution(client, out):
    screen = client.post("/api/open", json=VISIT).json()
    assert screen["item"] == {
        "id": screen["item"]["id"], "number": 1, "problem": "What is $2 + 3 \\cdot 4$?", "reference": "14",
        "steps": ["3 * 4 = 12", "2 + 12 = 15", "Answer: 15"], "revision": 0, "ratings": [], "milliseconds": 0,
    }  # fmt: skip
    assert screen["progress"] == {"needed": 4, "done": 0, "mine": 0, "open": 0}
    screen = save(client, screen, [1]).json()
    assert (screen["item"]["number"], screen["item"]["ratings"], screen["item"]["revision"]) == (1, [1], 1)
    screen = save(client, screen, [1, -1], "found_error").json()
    assert (screen["item"]["number"], screen["progress"]["mine"]) == (2, 1)
    assert rows(out)[0]["label"]["finish_reason"] == "found_error"
    screen = reopen(client, **screen["finished"]).json()
    assert (screen["item"]["number"], screen["item"]["ratings"], screen["finished"]) == (1, [1], None)
    assert rows(out) == []


def test_an_undo_that_is_asked_for_twice_takes_one_solution_up_again(client, out):
    screen = save(client, client.post("/api/open", json=VISIT).json(), [-1], "found_error").json()
    before = screen["finished"]
    last = save(client, screen, [1, 1], "solution").json()["finished"]
    once, again = (reopen(client, **last).json() for _ in range(2))
    assert (once["item"]["number"], once["finished"]) == (2, before)
    assert again == once
    assert [row["label"]["finish_reason"] for row in rows(out)] == ["found_error"]


def test_the_reference_stays_on_the_server_where_it_is_hidden(serve):
    reply = serve(show_reference=False).post("/api/open", json=VISIT)
    assert reply.json()["item"]["reference"] is None


def test_what_is_unseen_or_turns_the_text_around_is_shown_by_its_code(tmp_path):
    turned = "7 \u202e= 8"
    item = Item("i", f"Q{turned}", (turned, "Answer:\u200b 8 \ud83d"), reference=turned, answer=None)
    desk, out = Desk([item], tmp_path / "o.jsonl", ("ada",)), tmp_path / "o.jsonl"
    client = TestClient(create_app(desk), base_url="http://127.0.0.1:8800")
    screen = client.post("/api/open", json=VISIT).json()
    shown = "7 \u27e8U+202E\u27e9= 8"
    assert (screen["item"]["problem"], screen["item"]["reference"]) == (f"Q{shown}", shown)
    assert screen["item"]["steps"] == [shown, "Answer:\u27e8U+200B\u27e9 8 \\ud83d"]
    save(client, screen, [-1], "found_error")
    assert rows(out)[0]["question"]["pre_generated_steps"] == list(item.steps)
    desk.close()


def test_refusals_say_why(client):
    screen = client.post("/api/open", json=VISIT).json()
    stranger = client.post("/api/open", json=VISIT | {"labeller": "eve"})
    assert (stranger.status_code, stranger.json()["why"]) == (403, "labeller")
    assert "started for ada, ben" in stranger.json()["error"]
    other = save(client, screen, [1], browser="other tab")
    assert (other.status_code, other.json()["why"]) == (409, "browser")
    late = save(client, screen, [1], revision=7)
    assert (late.status_code, late.json()["why"]) == (409, "revision")
    against = save(client, screen, [-1, 1])
    assert (against.status_code, against.json()["why"]) == (422, "marks")
    assert reopen(client, "some item", 0).json()["why"] == "nothing"
    assert client.post("/api/reopen", json=VISIT).json() == {"error": "item: Field required", "why": "malformed"}
    assert client.get("/api/nowhere").json() == {"error": "there is no /api/nowhere here."}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ratings": [2]}, "ratings.0"),
        ({"ratings": [True]}, "ratings.0"),
        ({"ratings": [0.5]}, "ratings.0"),
        ({"ratings": "1"}, "ratings"),
        ({"finish_reason": "done"}, "finish_reason"),
        ({"milliseconds": -1}, "milliseconds"),
        ({"revision": 0}, "revision"),
        ({"labeller": ""}, "labeller"),
        ({"text": "<script>"}, "text"),
    ],
)
def test_a_malformed_request_is_refused_by_field(client, out, changes, field):
    screen = client.post("/api/open", json=VISIT).json()
    reply = save(client, screen, **({"ratings": [1]} | changes))
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(f"{field}")
    assert client.post("/api/open", json=VISIT).json()["item"]["ratings"] == []


def test_what_is_no_json_and_what_is_too_long(client):
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/open", content=b"{", headers=headers).status_code == 400
    assert client.post("/api/open", content=b" " * (1 << 20) + b"{}", headers=headers).status_code == 413
    assert client.post("/api/open", content=iter([b"{}"]), headers=headers).status_code == 413


def test_another_site_cannot_post_a_form(client):
    form = client.post("/api/open", content=json.dumps(VISIT), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    asked = client.options("/api/save", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"})
    assert not any(name.lower().startswith("access-control") for name in asked.headers)


@pytest.mark.parametrize(
    "name",
    ["evil.example", "127.0.0.1.evil.example:8800", "", "[::1", "[evil]:8800", "[::1].evil.example", "evil@127.0.0.1"],
)
def test_another_sites_name_for_this_address_is_refused(client, name):
    reply = client.get("/api/labellers", headers={"Host": name})
    assert reply.status_code == 403
    assert "answers to localhost" in reply.json()["error"]


@pytest.mark.parametrize("name", ["localhost:8800", "127.0.0.1", "[::1]:8800"])
def test_this_machines_names_are_answered(client, name):
    assert client.get("/api/labellers", headers={"Host": name}).json() == {"labellers": ["ada", "ben"]}


def test_a_token_is_asked_for_where_there_are_data(serve):
    client = serve(token="secret")
    assert client.get("/", headers={"Host": "gpu7:8800"}).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        for reply in (
            client.get("/api/labellers", headers=headers),
            client.get("/api/agreement", headers=headers),
            client.post("/api/open", json=VISIT, headers=headers),
            client.post("/api/reopen", json=VISIT, headers=headers),
        ):
            assert reply.status_code == 401
            assert "asks for its token" in reply.json()["error"]
    right = {"Authorization": "Bearer secret", "Host": "gpu7:8800"}
    assert client.post("/api/open", json=VISIT, headers=right).json()["item"]["number"] == 1


@pytest.mark.parametrize(
    "path", ["/", "/static/annotate.js", "/static/katex/katex.min.js", "/api/labellers", "/nowhere"]
)
def test_every_answer_forbids_what_is_not_of_this_server(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "font", "img", "connect")} == {"'self'"}
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_everything_that_the_page_loads_is_there(client):
    html = client.get("/").text
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', html)
    script = client.get("/static/annotate.js").text
    named += [f"static/{name}" for name in re.findall(r'from "\./([^"]+)"', script)]
    style = client.get("/static/katex/katex.min.css").text
    named += [f"static/katex/{font}" for font in re.findall(r"url\((fonts/[^)]+\.woff2)\)", style)]
    assert len(named) == 5 + 2 + 20
    for name in named:
        assert client.get(f"/{name}").status_code == 200, name
    assert not re.search(r"""["'(]\s*(https?:)?//""", html + script)


def test_agreement(client):
    for labeller in ("ada", "ben"):
        screen = client.post("/api/open", json=VISIT | {"labeller": labeller}).json()
        save(client, screen, [-1], "found_error", labeller=labeller)
    reply = client.get("/api/agreement").json()
    assert reply["pairs"] == []
    assert reply["labellers"][0] == {"labeller": "ada", "solutions": 1, "steps": 1, "seconds_per_step": 0.9}


def test_a_file_that_others_have_changed_is_told(client, out):
    screen = client.post("/api/open", json=VISIT).json()
    reply = save(client, screen, [-1], "found_error")
    out.write_text(out.read_text() + "\n")
    changed = save(client, reply.json(), [-1], "found_error")
    assert changed.status_code == 507  # as for a full disk: the page keeps its marks and sends them again
    assert "labels.jsonl was changed by another program" in changed.json()["error"]


def test_a_disk_that_is_full_is_told(client, desk, monkeypatch):
    screen = client.post("/api/open", json=VISIT).json()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        reply = save(client, screen, [1])
    assert (reply.status_code, reply.json()) == (
        507, {"error": "the server cannot write its file: No space left on device."}
    )  # fmt: skip
    assert save(client, screen, [1]).status_code == 200
