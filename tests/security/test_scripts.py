"""R6: words of a run, whoever wrote them, stay words on every page, in charts, in tables and in what is saved."""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page

from app import runs
from app.db import Database
from app.images import save_images
from app.models import FAILED
from app.runs import NewRun
from app.settings import Settings
from app.workers import say_present
from ml.spec import RunSpec
from tests import tour
from tests.processes import ROOT, migrate, redis_server, trainyard_env, web_process
from tests.test_wrong import DIGEST, answers, pixels
from tests.test_wrong import Yard as Predictions

SCRIPT = "</script><img src=x onerror=\"window.__pwned='a'\">"
WORDS = (
    SCRIPT + "{{7*7}}${7*7}<%= 7*7 %>",
    "javascript:window.__pwned='b'",
    "\"'><svg onload=\"window.__pwned='c'\"><a href=\"javascript:window.__pwned='d'\">x</a>",
    "<b onmouseover=\"window.__pwned='e'\">bold</b><iframe srcdoc=\"<script>parent.__pwned='f'</script>\">",
    "=HYPERLINK(\"javascript:window.__pwned='g'\")&amp;lt;script&amp;gt;\\u003cscript\\u003e",
    "<a href='javascript:alert(1)'>plotly takes some of HTML</a><br><sup>sup</sup>%{x}$\\href{javascript:alert(1)}{a}$",
)
METRICS = ("javascript:alert(1)", "train/loss", "val/accuracy", "a/b @ (c) % 100")
WATCH = """
window.__violations = [];
addEventListener("securitypolicyviolation", e =>
  window.__violations.push([e.effectiveDirective, e.blockedURI, e.sourceFile, e.lineNumber].join(" ")));
"""


@dataclass
class Evil:
    """A web process where every word that an outsider can write is one of WORDS, and a browser that looks at it."""

    url: str
    runs: dict[str, str]
    directory: Path


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evil]:
    directory = tmp_path_factory.mktemp("evil")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url)
        migrate(env)
        settings = Settings(data_dir=directory)
        save_images(settings.images_dir, DIGEST, pixels)
        database = Database(settings.database_url)
        with web_process(env, directory=directory) as web:
            yield Evil(web.url, _fill(web.url, Predictions(web.url, database, settings)), directory)
        database.dispose()


def _fill(url: str, yard: Predictions) -> dict[str, str]:
    """Runs in the states of the tour, under evil names, with evil settings, metrics, notes, errors and workers."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        found = {
            "external": _external(http, 0),
            "odd": _external(http, 1),
            "more": " ".join(_external(http, number) for number in range(2, 6)),
        }
        for number, name in enumerate(("finished", "second", "third")):
            found[name] = yard.run(WORDS[number], {1: answers(1, 2), 2: answers(number + 3)})
            edit = {"tags": [WORDS[1], WORDS[3][:90]], "notes": "\n".join(WORDS), "experiment": WORDS[number]}
            http.patch(f"/api/v1/runs/{found[name]}", json=edit).raise_for_status()
    with yard.db.begin() as s:
        for number, name in enumerate(("failed", "running", "queued", "paused")):
            run, _ = runs.create_run(
                s, NewRun(RunSpec(dataset="digits"), WORDS[number], WORDS[0]), max_queued=99
            )
            found[name] = run.id
            if name == "queued":
                continue
            assert runs.claim_run(s, run.id, WORDS[number], 3600) is not None
            if name == "failed":
                runs.end_run(
                    s, run.id, 1, FAILED, WORDS[0], " ".join(WORDS), tail="\n".join(WORDS) + "\x1b[31m"
                )
        say_present(s, WORDS[0], 2, list(WORDS), [found["running"]], WORDS[2])
    return found


def _external(http: httpx.Client, number: int) -> str:
    word = WORDS[number % len(WORDS)]
    params = {word: WORDS[0], "model": WORDS[2][:60], "nested": {word: [word]}, "lr": word}
    body = {
        "external": True,
        "name": word,
        "experiment": WORDS[1],
        "tags": [word[:90]],
        "notes": word,
        "params": params,
    }
    run = str(
        http.post("/api/v1/runs", json=body, headers={"idempotency-key": f"{number}{word}"}).json()["id"]
    )
    values = {metric: [1.0, 0.5, 0.25, number + 0.125] for metric in METRICS}
    sent = http.post(
        f"/api/v1/runs/{run}/metrics", json={"batch": word, "step": [1, 2, 3, 4], "values": values}
    )
    sent.raise_for_status()
    http.post(
        f"/api/v1/runs/{run}/finish", json={"state": "failed", "error": "\n".join(WORDS)}
    ).raise_for_status()
    return run


@dataclass
class Look:
    page: Page
    troubles: list[str] = field(default_factory=list)

    def hear_dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def judge(self, where: str) -> None:
        """Raises: AssertionError when anything ran, or was about to."""
        found = self.page.evaluate(
            """() => ({
              pwned: window.__pwned ?? null,
              violations: window.__violations,
              elements: [...document.querySelectorAll("*")].filter(element =>
                [...element.attributes].some(a => a.name.startsWith("on")
                  || (/^\\s*(javascript|vbscript):/i.test(a.value)
                    && ["href", "src", "action", "formaction", "xlink:href"].includes(a.name)))
                || ["IFRAME", "OBJECT", "EMBED", "BASE"].includes(element.tagName)
                || element.getAttribute("src") === "x").map(element => element.outerHTML.slice(0, 200)),
            })"""
        )
        assert found == {"pwned": None, "violations": [], "elements": []}, where
        assert self.troubles == [], where


@pytest.fixture
def look(browser: Browser) -> Iterator[Look]:
    context: BrowserContext = browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    looking = Look(page)
    page.on("dialog", looking.hear_dialog)
    page.on("pageerror", lambda error: looking.troubles.append(str(error)))
    page.on("popup", lambda popup: looking.troubles.append(f"popup {popup.url}"))

    def hear(message: Any) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            looking.troubles.append(message.text)

    page.on("console", hear)
    yield looking
    context.close()


def stops(evil: Evil) -> list[tour.Stop]:
    """Every page of the tour, and pages whose address itself is evil."""
    word = httpx.QueryParams({"q": SCRIPT, "text": SCRIPT})
    more = [
        tour.Stop(
            "runs-evil-query", f"/?{word}&sort={SCRIPT}&cols={SCRIPT}&tag={SCRIPT}&experiment={SCRIPT}"
        ),
        tour.Stop("runs-columns", "/?cols=lr,spec.nested,metric.javascript:alert(1).last"),
        tour.Stop("new-evil", f"/new?model={SCRIPT}&lr={SCRIPT}&{SCRIPT}=1"),
        tour.Stop(
            "compare-evil",
            f"/compare?run={SCRIPT}&run={evil.runs['odd']}&x={SCRIPT}&metric={SCRIPT}&find={SCRIPT}",
        ),
        tour.Stop("login-evil", f"/login?next=javascript:alert(1){SCRIPT}"),
        tour.Stop("nowhere-evil", f"/{SCRIPT.replace('/', '')}"),
    ]
    listed = [stop for url, stop in tour.Yard(evil.url, evil.url, evil.runs).stops]
    return list({stop.path: stop for stop in [*listed, *more]}.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_evil_words_stay_words_on_every_page(evil: Evil, look: Look) -> None:
    seen = 0
    for stop in stops(evil):
        look.page.goto(evil.url + stop.path)
        tour.settle(look.page)
        look.judge(stop.name)
        seen += look.page.content().count("{{7*7}}")
    assert seen > 100, "the words are on the pages, as they were written"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_charts_take_no_name_for_markup(evil: Evil, look: Look) -> None:
    """Legends, titles, tips, full screen, and the pictures that charts save."""
    page = look.page
    ids = "&".join(f"run={evil.runs[name]}" for name in ("external", "odd", "finished"))
    page.goto(f"{evil.url}/compare?{ids}&run={evil.runs['more'].replace(' ', '&run=')}")
    plot = page.locator(".js-plotly-plot").first
    plot.locator(".scatterlayer path.js-line[d]").first.wait_for(state="attached")
    box = plot.bounding_box()
    assert box is not None
    for x in (0.3, 0.5, 0.7):
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * 0.5)
        page.wait_for_timeout(100)
    look.judge("hover")
    for button in page.locator(".legend button, [data-legend] button").all()[:4]:
        if button.is_visible():
            button.hover()
            button.click()
    tour.settle(page)
    look.judge("legend")
    svg = page.evaluate(
        "() => Plotly.toImage(document.querySelector('.js-plotly-plot'), {format: 'svg', width: 600, height: 400})"
    )
    saved = httpx.QueryParams(f"a={svg.split(',', 1)[1]}")["a"]
    assert "<script" not in saved
    assert not re.search(r"\son\w+=|(href|src)=.javascript:", saved)
    look.judge("saved picture")


# -- what may be written ---------------------------------------------------------------------------------------------

HIDING = ["a\u202eb", "a\u2066b", "a\nb", "a\x1b[31mb", "a\x00b", "a\x9bb", "a\u2028b", "\u202d"]


@pytest.mark.parametrize("text", HIDING)
def test_a_label_cannot_disguise_what_stands_beside_it(evil: Evil, text: str) -> None:
    with httpx.Client(base_url=evil.url, trust_env=False, timeout=60) as http:
        for name, value in (("name", text), ("experiment", text), ("tags", [text])):
            answer = http.post("/api/v1/runs", json={"external": True, name: value})
            assert answer.status_code == 422, name
            assert answer.json()["error"]["field"].startswith(name)
            assert http.patch(f"/api/v1/runs/{evil.runs['odd']}", json={name: value}).status_code == 422
        given = {"name": text, "experiment": "", "tags": text, "notes": ""}
        page = http.post(f"/runs/{evil.runs['odd']}/edit", data=given)
        assert page.status_code == 422
        assert "must not contain" in page.text


@pytest.mark.parametrize(
    "text", ["学习率 0.1 · ResNet", "שלום", "مرحبا ١٢٣", "e\u0301", "👩‍🔬 run", "a b  c"]
)
def test_labels_of_every_script_are_taken(evil: Evil, text: str) -> None:
    with httpx.Client(base_url=evil.url, trust_env=False, timeout=60) as http:
        made = http.post("/api/v1/runs", json={"external": True, "name": text})
        assert made.json()["name"] == text
        http.post(f"/api/v1/runs/{made.json()['id']}/finish", json={})
        assert http.delete(f"/api/v1/runs/{made.json()['id']}").status_code == 204


# -- what is saved ---------------------------------------------------------------------------------------------------


def test_no_cell_of_a_csv_is_a_formula(evil: Evil) -> None:
    ids = "&".join(f"run={run}" for run in (evil.runs["odd"], *evil.runs["more"].split()))
    with httpx.Client(base_url=evil.url, trust_env=False, timeout=60) as http:
        for text in ("=1+1", "+1", "-1+1|cmd", "@SUM(A1)", "=1"):
            body = {"external": True, "name": text, "experiment": text, "params": {text: text}}
            ids += "&run=" + http.post("/api/v1/runs", json=body).json()["id"]
        for path in (
            f"/compare.csv?{ids}", f"/api/v1/series.csv?{ids}&metric=javascript:alert(1)",
            f"/api/v1/runs/{evil.runs['odd']}/export?format=csv",
        ):  # fmt: skip
            answer = http.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["x-content-type-options"] == "nosniff"
            rows = list(csv.reader(io.StringIO(answer.text)))
            assert len(rows) > 1
            for cell in (cell for row in rows for cell in row):
                number = re.fullmatch(r"-?(\d+(\.\d+)?(e[+-]\d+)?|inf)", cell)
                assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell


def test_every_csv_is_written_by_the_one_writer() -> None:
    """app.spreadsheet makes texts harmless; whoever writes CSV otherwise would forget."""
    for path in (ROOT / "app").rglob("*.py"):
        code = path.read_text()
        if path.name != "spreadsheet.py":
            assert "csv.writer" not in code, path.name
        if "text/csv" in code and path.parent.name in ("api", "web"):
            assert "csv_line" in code or "summary_csv" in code, path.name


def test_artifacts_are_saved_and_never_shown(evil: Evil) -> None:
    with httpx.Client(base_url=evil.url, trust_env=False, timeout=60) as http:
        run = evil.runs["finished"]
        listed = http.get(f"/api/v1/runs/{run}/artifacts").json()["artifacts"]
        assert len(listed) >= 2
        for one in listed:
            answer = http.get(one["url"])
            assert answer.headers["content-disposition"].startswith("attachment"), one["name"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in ("application/octet-stream", "application/vnd.trainyard.predictions"), kind
        image = http.get(f"/api/v1/validation/{DIGEST}/1.png")
        assert image.headers["content-type"] == "image/png"


def test_there_is_nothing_to_upload(evil: Evil) -> None:
    """R4.3: no route takes a file; a form with one loses it."""
    boundary = secrets.token_hex(8)
    head = 'content-disposition: form-data; name="name"; filename="a.pt"'
    part = f"--{boundary}\r\n{head}\r\n\r\nweights\r\n--{boundary}--\r\n"
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    with httpx.Client(base_url=evil.url, trust_env=False, timeout=60) as http:
        for path in (
            "/new",
            "/login",
            "/language",
            f"/runs/{evil.runs['odd']}/edit",
            "/bulk",
            "/compare/match",
        ):
            assert http.post(path, content=part, headers=kind).status_code in (400, 401, 404, 422, 303), path


# -- how pages are written -------------------------------------------------------------------------------------------


def test_scripts_make_no_code_and_no_markup_of_text() -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|srcdoc|"
        r"\beval\(|new Function|setTimeout\(\s*['\"]|javascript:"
    )
    for path in (ROOT / "static" / "js").glob("*.js"):
        assert not re.search(forbidden, path.read_text()), path.name


def test_templates_escape_everything_and_hold_no_code() -> None:
    forbidden = r"\|\s*safe\b|Markup\(|autoescape|\son[a-z]+\s*=|\sstyle\s*=|<style|javascript:|srcdoc"
    for path in (ROOT / "templates").iterdir():
        assert path.suffix == ".html", "Jinja escapes by the file's name"
        assert not re.search(forbidden, path.read_text(), re.IGNORECASE), path.name
    for path in (ROOT / "app").rglob("*.py"):
        assert not re.search(r"\bMarkup\(|autoescape=False|markupsafe", path.read_text()), path.name


def test_the_policy_allows_no_code_and_no_style_in_pages(evil: Evil) -> None:
    for path in ("/", "/api/v1/runs", "/nowhere", "/docs", "/static/js/main.js"):
        policy = httpx.get(evil.url + path, trust_env=False).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "nonce" not in policy
        told = dict(part.split(" ", 1) for part in policy.split("; "))
        assert told["script-src"] == "'self'"
        assert told["object-src"] == told["base-uri"] == told["frame-ancestors"] == "'none'"
        assert told["form-action"] == "'self'"
