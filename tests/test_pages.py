"""The pages as a browser without JavaScript gets them, from a real web process."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2 import meta, nodes

from app.main import create_app
from app.settings import ROOT, Settings
from app.web.contexts import PAGES
from app.web.formats import duration, number, percent
from app.web.login import local_path
from app.web.render import Page, make_environment
from app.web.words import script_words
from ml.catalog import MODELS
from ml.spec import RunSpec
from tests import processes

EVIL = "</script><img src=x onerror=alert(1)>\"'{{7*7}}"


@dataclass(frozen=True)
class Site:
    url: str

    def client(self) -> httpx.Client:
        headers = {"accept": "text/html", "origin": self.url}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A web process without any worker: what is submitted stays queued."""
    directory = tmp_path_factory.mktemp("pages")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        env["TRAINYARD_DATASETS"] = str(directory / "none")
        processes.migrate(env)
        with processes.web_process(env, directory=directory) as web:
            yield Site(web.url)


@pytest.fixture
def http(site: Site) -> Iterator[httpx.Client]:
    with site.client() as client:
        yield client


class _Inputs(HTMLParser):
    """Names and values of the inputs of one form, and what stands in its errors."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.action, self.inside = action, False
        self.values: dict[str, str] = {}
        self.invalid: list[str] = []
        self.focused: list[str] = []
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.inside = given.get("action") == self.action
        if not self.inside:
            return
        if tag in ("input", "select") and "name" in given:
            if "aria-invalid" in given:
                self.invalid.append(given["name"])
            if "autofocus" in given:
                self.focused.append(given["name"])
        if tag == "input" and "name" in given:
            self.values[given["name"]] = given.get("value", "")
        if tag == "select":
            self._select = given["name"]
        if tag == "option" and "selected" in given:
            self.values[self._select] = given["value"]


def read_form(html: str, action: str = "/new") -> _Inputs:
    parser = _Inputs(action)
    parser.feed(html)
    return parser


def external(http: httpx.Client, name: str = "outside", **params: Any) -> str:
    answer = http.post("/api/v1/runs", json={"external": True, "name": name, "params": params})
    assert answer.status_code == 201, answer.text
    run_id: str = answer.json()["id"]
    return run_id


# -- the rules of templates and scripts ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_a_template_uses_exactly_the_fields_of_its_dataclass(page: type[Page], tmp_path: Path) -> None:
    environment = make_environment(create_app(Settings(data_dir=tmp_path)))
    used = _variables(environment, page.template)
    given = {field.name for field in fields(page)} | {"layout"}
    assert used == given


def _variables(environment: Any, name: str) -> set[str]:
    """What a template and those that it extends or imports take from the context."""
    source = environment.loader.get_source(environment, name)[0]
    tree = environment.parse(source)
    found: set[str] = set(meta.find_undeclared_variables(tree)) - environment.globals.keys() - {"caller"}
    for macro in tree.find_all(nodes.Macro):
        found.discard(macro.name)
    for imported in tree.find_all(nodes.FromImport):
        for macro in imported.names:
            found.discard(macro[1] if isinstance(macro, tuple) else macro)
    for other in tree.find_all((nodes.Extends, nodes.FromImport)):
        found |= _variables(environment, other.template.value)
    return found


def test_templates_are_html_only_and_never_skip_escaping() -> None:
    for path in (ROOT / "templates").iterdir():
        assert path.suffix == ".html"
        text = path.read_text()
        assert not re.search(r"\|\s*safe\b|Markup\(|autoescape|\son\w+=|style=", text), path.name
        for script in re.findall(r"<script\b[^>]*>", text):
            assert "src=" in script or 'type="application/json"' in script, path.name


def test_scripts_never_write_html_from_text() -> None:
    scripts = list((ROOT / "static" / "js").glob("*.js"))
    assert scripts
    for path in scripts:
        code = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code), (
            path.name
        )
        assert len(code.splitlines()) < 300, path.name


def test_every_word_that_a_script_looks_up_is_there() -> None:
    known = script_words().keys()
    for path in (ROOT / "static" / "js").glob("*.js"):
        for name in re.findall(r"\bwords\.(?!js\b|py\b)(\w+)", path.read_text()):
            assert name in known, f"{path.name}: {name}"


def test_numbers_read_as_people_write_them() -> None:
    assert [number(v) for v in (None, 0.0, 0.12345, 2.302585, 123456.0, 1e-7)] == [
        "–", "0", "0.1235", "2.303", "123,456", "1e-07",
    ]  # fmt: skip
    assert [percent(v) for v in (None, 0.9871)] == ["–", "98.71 %"]
    assert [duration(v) for v in (None, 5.2, 61, 3700, 200_000)] == [
        "–",
        "5 s",
        "1 min 1 s",
        "1 h 1 min",
        "2 d 7 h",
    ]


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/new", "/compare", "/workers", "/models/lenet", "/docs", "/login", "/favicon.ico"]
)
def test_a_page_answers(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert "<script>" not in answer.text
    if path != "/favicon.ico":
        assert "<title>" in answer.text
        assert 'href="#main"' in answer.text


def test_every_local_address_in_the_pages_exists(http: httpx.Client) -> None:
    run = external(http)
    seen: set[str] = set()
    for path in ("/", "/new", f"/runs/{run}", f"/compare?run={run}", "/workers", "/models/resnet8", "/docs"):
        seen |= set(re.findall(r' (?:href|src)="(/[^"#]*)"', http.get(path).text))
    assert "/static/css/trainyard.css" in seen
    for address in sorted(seen):
        assert http.get(address.replace("&amp;", "&")).status_code in (200, 303), address


def test_modules_import_only_files_that_exist() -> None:
    for path in (ROOT / "static" / "js").glob("*.js"):
        for name in re.findall(r'from "\./([\w-]+\.js)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", ["/nothing", "/runs/none", "/models/none", "/static/none.js"])
def test_what_is_not_there_is_a_page_with_404(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    if not path.startswith("/static/"):
        assert answer.headers["content-type"].startswith("text/html")
        assert "404" in answer.text
    assert http.get(path, headers={"accept": "application/json"}).json()["error"]["code"] == "not_found"


def test_the_empty_yard_teaches(tmp_path: Path) -> None:
    with processes.redis_server(tmp_path) as redis:
        env = processes.trainyard_env(tmp_path, broker_url=redis.broker_url)
        processes.migrate(env)
        with processes.web_process(env, directory=tmp_path) as web, Site(web.url).client() as http:
            page = http.get("/").text
            assert 'action="/presets/demo"' in page
            assert 'action="/presets/homework"' in page
            assert "Nothing to compare yet" in http.get("/compare").text


# -- the form ---------------------------------------------------------------------------------------------------------


def test_the_form_has_every_field_of_a_spec_with_its_bounds(http: httpx.Client) -> None:
    html = http.get("/new").text
    form = read_form(html)
    assert RunSpec.model_fields.keys() - {"model_options"} <= form.values.keys()
    for model in MODELS.values():
        for option in model.options.model_fields:
            assert f"options.{model.name}.{option}" in form.values
    batch = re.search(r'<input id="field-batch_size"[^>]*>', html)
    assert batch is not None
    assert 'min="1"' in batch.group()
    assert 'max="65536"' in batch.group()
    assert "will be downloaded once, 12 MB" in html
    assert "bundled, needs no network" in html


def test_an_address_fills_the_form(http: httpx.Client) -> None:
    form = read_form(
        http.get("/new?model=lenet&lr=0.01&model_options.activation=tanh&dataset=digits&name=x").text
    )
    assert form.values["lr"] == "0.01"
    assert form.values["options.lenet.activation"] == "tanh"
    assert form.values["dataset"] == "digits"
    assert form.values["name"] == "x"
    assert form.invalid == []


def test_an_address_with_bad_values_shows_them_beside_their_fields(http: httpx.Client) -> None:
    html = http.get("/new?lr=abc&epochs=0&model_options.activation=blue&momentun=1").text
    form = read_form(html)
    assert form.values["lr"] == "abc"
    assert set(form.invalid) == {"lr", "epochs", "options.lenet.activation"}
    assert "must be a number" in html
    assert "must be at least 1" in html
    assert "momentun" in html


def test_a_run_starts_and_its_page_shows_it(http: httpx.Client) -> None:
    form = read_form(http.get("/new?model=alexnet").text).values
    form |= {
        "dataset": "digits",
        "epochs": "2",
        "name": "from the form",
        "experiment": "forms",
        "tags": "a, b,, a",
    }
    answer = http.post("/new", data=form)
    assert answer.status_code == 303, answer.text
    run = http.get(answer.headers["location"].replace("/runs/", "/api/v1/runs/")).json()
    assert (run["name"], run["experiment"], run["tags"], run["state"]) == (
        "from the form",
        "forms",
        ["a", "b"],
        "queued",
    )
    assert run["spec"]["model"] == "alexnet"
    assert run["spec"]["epochs"] == 2
    assert run["spec"]["train_size"] is None
    page = http.get(answer.headers["location"]).text
    assert "from the form" in page
    assert f'action="/runs/{run["id"]}/cancel"' in page
    again = http.post("/new", data=form)
    assert again.headers["location"] == answer.headers["location"], "the same page sent twice starts one run"
    changed = http.post("/new", data=form | {"epochs": "3"})
    assert changed.status_code == 303
    assert changed.headers["location"] != answer.headers["location"]


def test_an_error_stands_beside_its_field_and_everything_typed_stays(http: httpx.Client) -> None:
    before = http.get("/api/v1/runs").json()["runs"]
    form = read_form(http.get("/new").text).values
    form |= {
        "lr": "11",
        "batch_size": "",
        "epochs": "two",
        "name": EVIL,
        "options.alexnet.dropout": "3",
        "seeds": "0",
    }
    answer = http.post("/new", data=form)
    assert answer.status_code == 422
    shown = read_form(answer.text)
    for name in ("lr", "batch_size", "epochs", "name", "seeds", "options.alexnet.dropout"):
        assert shown.values[name] == form[name], name
    assert set(shown.invalid) == {"lr", "batch_size", "epochs", "seeds"}, (
        "another model's options do not count"
    )
    assert len(shown.focused) == 1
    for message in ("must be at most 10", "is required", "must be a whole number"):
        assert message in answer.text
    assert "<img" not in answer.text
    assert http.get("/api/v1/runs").json()["runs"] == before, "nothing was started"


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"options.lenet.activation": "blue"}, "options.lenet.activation", "must be"),
        ({"lr": "nan"}, "lr", "finite"),
        ({"lr": "1e999"}, "lr", "finite"),
        ({"model": "vgg"}, "model", "unknown model"),
        ({"dataset": "digits", "train_size": "5000"}, "train_size", "1437"),
        ({"seed": "-1"}, "seed", "at least 0"),
        ({"epochs": "1.5"}, "epochs", "whole number"),
        ({"name": "x" * 201}, "name", "at most 200"),
        ({"tags": ",".join(map(str, range(40)))}, "tags", "at most 32"),
        ({"seeds": "1000"}, "seeds", "from 1 to 20"),
    ],
)
def test_each_wrong_value_is_named(
    http: httpx.Client, change: dict[str, str], field: str, message: str
) -> None:
    answer = http.post("/new", data=read_form(http.get("/new").text).values | change)
    assert answer.status_code == 422
    shown = read_form(answer.text)
    assert field in shown.invalid
    assert message in answer.text
    assert shown.values[field] == change[field]


def test_several_seeds_start_an_experiment(http: httpx.Client) -> None:
    form = read_form(http.get("/new").text).values | {
        "dataset": "digits",
        "seed": "7",
        "seeds": "3",
        "name": "net",
    }
    answer = http.post("/new", data=form)
    assert answer.status_code == 303
    ids = re.findall(r"run=(\w+)", answer.headers["location"])
    found = [http.get(f"/api/v1/runs/{run}").json() for run in ids]
    assert [run["spec"]["seed"] for run in found] == [7, 8, 9]
    assert [run["name"] for run in found] == ["net · seed 7", "net · seed 8", "net · seed 9"]
    assert len({run["experiment"] for run in found}) == 1
    page = http.get(answer.headers["location"]).text
    assert "As far as is known, only the seed differs" in page


@pytest.mark.parametrize(
    ("name", "typed"), [("demo", {"demo.dataset": "digits"}), ("homework", {"homework.epochs": "1"})]
)
def test_a_preset_starts_three_runs_and_shows_their_comparison(
    http: httpx.Client, name: str, typed: dict[str, str]
) -> None:
    answer = http.post(f"/presets/{name}", data=typed)
    assert answer.status_code == 303
    ids = re.findall(r"run=(\w+)", answer.headers["location"])
    found = [http.get(f"/api/v1/runs/{run}").json() for run in ids]
    assert [run["model"] for run in found] == ["lenet", "alexnet", "resnet8"]
    assert len({run["experiment"] for run in found}) == 1
    page = http.get(answer.headers["location"]).text
    assert "As far as is known, only the model differs" in page, "data and code are known once they train"


@pytest.mark.parametrize(
    "typed",
    [{"demo.epochs": "zero"}, {"demo.dataset": "cats"}, {"demo.train_size": "70000"}, {"demo.epochs": "0"}],
)
def test_a_preset_with_a_wrong_value_says_so_and_starts_nothing(
    http: httpx.Client, typed: dict[str, str]
) -> None:
    before = http.get("/api/v1/runs").json()["runs"]
    answer = http.post("/presets/demo", data=typed)
    assert answer.status_code == 422
    shown = read_form(answer.text, "/presets/demo")
    assert list(typed) == shown.invalid
    assert http.get("/api/v1/runs").json()["runs"] == before
    assert http.post("/presets/none", data={}).status_code == 404


def test_the_homework_is_started_with_the_pixels_that_were_chosen(http: httpx.Client) -> None:
    assert read_form(http.get("/new").text, "/presets/homework").values["homework.input_scaling"] == "unit"
    typed = {"homework.input_scaling": "raw", "homework.epochs": "1", "homework.train_size": "64"}
    answer = http.post("/presets/homework", data=typed)
    assert answer.status_code == 303
    for run in re.findall(r"run=(\w+)", answer.headers["location"]):
        spec = http.get(f"/api/v1/runs/{run}").json()["spec"]
        assert (spec["input_scaling"], spec["lr"], spec["epochs"]) == ("raw", 0.01, 1)
        http.post(f"/runs/{run}/cancel")
    wrong = http.post("/presets/homework", data={"homework.input_scaling": "half"})
    assert wrong.status_code == 422
    assert read_form(wrong.text, "/presets/homework").invalid == ["homework.input_scaling"]


# -- a run and its buttons -------------------------------------------------------------------------------------------


def test_buttons_do_what_the_state_allows(http: httpx.Client) -> None:
    form = read_form(http.get("/new").text).values | {"dataset": "digits"}
    page = http.post("/new", data=form).headers["location"]
    assert 'action="' + page + '/delete"' not in http.get(page).text
    assert http.post(f"{page}/cancel").status_code == 303
    html = http.get(page).text
    assert "canceled before it ran" in html
    assert http.post(f"{page}/cancel").status_code == 409
    assert http.post(f"{page}/pause").status_code == 409
    assert http.post(f"{page}/resume").status_code == 303
    assert http.post(f"{page}/delete").status_code == 409
    clone = http.post(f"{page}/clone").headers["location"]
    assert clone != page
    http.post(f"{page}/cancel")
    assert http.post(f"{page}/delete").status_code == 303
    assert http.get(page).status_code == 404
    assert http.get(f"{page}/delete").status_code == 405, "nothing changes on GET"


def test_another_sites_form_is_refused(http: httpx.Client) -> None:
    answer = http.post("/new", data={}, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


def test_change_and_run_fills_the_form_with_the_runs_own_settings(http: httpx.Client) -> None:
    given = {
        "dataset": "digits",
        "lr": "0.003",
        "train_size": "100",
        "options.lenet.activation": "tanh",
        "tags": "t",
    }
    page = http.post("/new", data=read_form(http.get("/new").text).values | given).headers["location"]
    link = re.search(r'href="(/new\?[^"]+)"', http.get(page).text)
    assert link is not None
    form = read_form(http.get(link.group(1).replace("&amp;", "&")).text)
    assert form.invalid == []
    for name, value in given.items():
        assert form.values[name] == value, name


def test_a_failed_run_shows_why(http: httpx.Client) -> None:
    run = external(http)
    http.post(f"/api/v1/runs/{run}/finish", json={"state": "failed", "error": "CUDA ran out of <memory>"})
    page = http.get(f"/runs/{run}").text
    assert "CUDA ran out of &lt;memory&gt;" in page


def test_words_of_a_run_are_inert_on_every_page(http: httpx.Client) -> None:
    body = {
        "external": True,
        "name": EVIL,
        "experiment": EVIL,
        "tags": [EVIL[:90]],
        "params": {EVIL: EVIL, "model": EVIL[:60]},
    }
    run = http.post("/api/v1/runs", json=body).json()["id"]
    for path in ("/", f"/runs/{run}", f"/compare?run={run}&run=</script>", f"/?text={EVIL}", "/compare"):
        html = http.get(path).text
        assert "<img" not in html, path
        assert "{{7*7}}" in html or "%7B%7B7" in html or path == "/compare", path


# -- runs and comparison ----------------------------------------------------------------------------------------------


def test_runs_are_filtered_and_paged(http: httpx.Client) -> None:
    for i in range(55):
        external(http, f"paged {i}", model="paged-model")
    first = http.get("/?text=paged").text
    assert first.count("<tr data-run") == 50
    older = re.search(r'href="(/\?[^"]*cursor=[^"]*)"', first)
    assert older is not None
    assert http.get(older.group(1).replace("&amp;", "&")).text.count("<tr data-run") == 5
    assert "No run fits this filter" in http.get("/?text=there-is-no-such-run").text
    assert http.get("/?state=nonsense").status_code == 422
    assert http.get("/?cursor=nonsense").status_code == 422


def test_a_comparison_shows_what_it_can(http: httpx.Client) -> None:
    runs = [external(http, "twin", lr=lr, batch_size=64) for lr in (0.1, 0.01)]
    page = http.get(f"/compare?run={runs[0]}&run=gone&run={runs[1]}&run={runs[0]}").text
    assert "<code>gone</code>" in page
    assert "twin (2)" in page
    assert "twin (3)" not in page
    assert "learning rate" in page
    assert "Settings that differ" in page
    wrong = http.get(f"/compare?run={runs[0]}&x=furlongs&smooth=2&y=nonsense&zoom=9,1&smoth=0.9").text
    for word in ("furlongs", "from 0 to 0.999", "nonsense", "two rising numbers", "smoth"):
        assert word in wrong
    assert "twin" in wrong, "a hand-edited address is named, and shows what it can"
    assert "Which runs?" in http.get("/compare?run=gone").text


def test_an_experiment_has_an_address_for_its_comparison(http: httpx.Client) -> None:
    body = {"external": True, "experiment": "ex & periment"}
    ids = [http.post("/api/v1/runs", json=body).json()["id"] for _ in range(2)]
    answer = http.get("/compare", params={"experiment": "ex & periment"})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/compare?run={ids[0]}&run={ids[1]}"


# -- signing in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/runs/1", "/runs/1"),
        ("/compare?run=a&run=b", "/compare?run=a&run=b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\tx", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_only_to_this_server(path: str, kept: str) -> None:
    assert local_path(path) == kept


def test_signing_in_and_out(tmp_path: Path) -> None:
    token = "correct horse battery staple"
    with processes.redis_server(tmp_path) as redis:
        env = processes.trainyard_env(tmp_path, broker_url=redis.broker_url, TOKEN=token)
        processes.migrate(env)
        env |= {"TRAINYARD_HOST": "127.0.0.1", "TRAINYARD_PORT": str(port := processes.free_port())}
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "app"]
        with (
            processes.running("web", command, directory=tmp_path, env=env) as process,
            Site(url).client() as http,
        ):
            processes.wait_for(
                lambda: processes.answers(f"{url}/healthz"), "the web process", process=process
            )
            answer = http.get("/workers")
            assert answer.status_code == 303
            assert answer.headers["location"] == "/login?next=%2Fworkers"
            assert http.get("/api/v1/runs", headers={"accept": "application/json"}).status_code == 401
            wrong = http.post("/login", data={"token": "wrong", "next": "/workers"})
            assert wrong.status_code == 401
            assert "not a token" in wrong.text
            right = http.post("/login", data={"token": token, "next": "/workers"})
            assert (right.status_code, right.headers["location"]) == (303, "/workers")
            cookie = right.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert http.get("/workers").status_code == 200
            assert http.post("/logout").status_code == 303
            assert http.get("/workers").status_code == 303
            statuses = [http.post("/login", data={"token": f"guess {i}"}).status_code for i in range(25)]
            assert statuses[-1] == 429
