"""The comparison's panels without scripts: verdict, statistics, summary, settings, CSV, from a real web process."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest

from app import results
from app.compare import facts_of, judge
from app.compare.matching import plan_match
from app.db import Database
from app.models import Run
from app.results import direction_of, epoch_seconds, first_at, read_results
from app.runs import NewRun, create_run
from app.series import append_chunks, make_block
from app.spreadsheet import harmless
from app.web.figures import compare, seconds
from app.web.specs import make_specs, odd_ones
from ml.spec import RunSpec
from tests import processes

NAN = "NaN"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web process without any worker: what is started stays queued."""
    directory = tmp_path_factory.mktemp("panels")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        with processes.web_process(env, directory=directory) as web:
            yield web.url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"accept": "text/html", "origin": url}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


def external(
    http: httpx.Client,
    name: str,
    values: dict[str, list[Any]] | None = None,
    *,
    finish: bool = True,
    **params: Any,
) -> str:
    """A run that measured `values` at steps 10, 20, ..., one second apart."""
    run: str = http.post("/api/v1/runs", json={"external": True, "name": name, "params": params}).json()["id"]
    if values:
        count = len(next(iter(values.values())))
        began = time.time()
        body = {
            "step": [10 * (i + 1) for i in range(count)],
            "time": [began + 1 + i for i in range(count)],
            "values": values,
        }
        answer = http.post(f"/api/v1/runs/{run}/metrics", json=body)
        assert answer.status_code in (200, 202), answer.text
    if finish:
        http.post(f"/api/v1/runs/{run}/finish", json={"state": "finished"})
    return run


def training(http: httpx.Client, name: str, **spec: Any) -> str:
    spec = {"dataset": "digits", "epochs": 1} | spec
    answer = http.post("/api/v1/runs", json={"spec": spec, "name": name, "experiment": "matching"})
    assert answer.status_code == 201, answer.text
    run: str = answer.json()["id"]
    return run


def address(runs: list[str], **more: Any) -> str:
    pairs: list[tuple[str, Any]] = [("run", run) for run in runs]
    for name, value in more.items():
        pairs += [(name, one) for one in (value if isinstance(value, list) else [value])]
    return f"/compare?{httpx.QueryParams(pairs)}"


class _Table(HTMLParser):
    """The rows of the first table inside the section with this id, cells as texts without spaces around them."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self.section, self.depth, self.rows, self.cell = section, 0, [], False
        self.sorts: list[str] = []

    rows: list[list[str]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self.depth = 1 if given.get("id") == self.section else 0
        if not self.depth:
            return
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
            if "aria-sort" in given:
                self.sorts.append(given["aria-sort"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False
        if tag == "section":
            self.depth = 0

    def handle_data(self, data: str) -> None:
        if self.depth and self.cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def table(html: str, section: str) -> _Table:
    parser = _Table(section)
    parser.feed(html)
    return parser


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val/accuracy", "higher"),
        ("val_acc", "higher"),
        ("train/loss", "lower"),
        ("test/f1-score", "higher"),
        ("val/perplexity", "lower"),
        ("train/lr", None),
        ("glossary", None),
        ("accuracy_loss", "lower"),
    ],
)
def test_the_name_of_a_metric_tells_which_way_is_better(metric: str, direction: str | None) -> None:
    assert direction_of(metric) == direction


def test_a_target_is_reached_at_the_first_evaluation_at_or_above_it() -> None:
    block = make_block([10, 20, 30, 40], [101.0, 102.0, 103.0, 104.0], [0.5, np.nan, 0.95, 0.90])
    assert first_at(block, 0.95, 100.0) == (30, 3.0)
    assert first_at(block, 0.90, 100.0) == (30, 3.0), "not the last, and not NaN"
    assert first_at(block, 0.98, 100.0) is None


def test_an_epochs_time_is_a_median_that_a_pause_does_not_change() -> None:
    block = make_block([10, 20, 30, 40, 50], [102.0, 104.0, 906.0, 908.0, 910.0], [0.0] * 5)
    assert epoch_seconds(block, 10, 100.0) == 2.0
    assert epoch_seconds(block, 5, 100.0) == 1.0, "two epochs between evaluations"
    one = make_block([10], [103.0], [0.5])
    assert epoch_seconds(one, 10, 100.0) == 3.0
    assert epoch_seconds(one, None, 100.0) is None


def test_of_long_evaluations_only_what_is_needed_is_opened(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy = np.concatenate([np.linspace(0.0, 0.97, 400), np.linspace(0.9, 0.96, 100)])
    with db.begin() as s:
        run, _is_new = create_run(s, NewRun(None, "long", params={"steps_per_epoch": 50}), max_queued=10)
        for seq in range(10):
            steps = np.arange(50 * seq + 1, 50 * seq + 51)
            block = make_block(steps, run.created_at + steps / 2, accuracy[steps - 1])
            append_chunks(s, run.id, seq + 1, {"val/accuracy": block})
    with db.read() as s:
        whole = read_results(s, [run])[run.id]
        monkeypatch.setattr(results, "LONG", 100)
        parts = read_results(s, [run])[run.id]
    assert parts.reached == whole.reached
    reached = whole.reached[0.90]
    assert reached is not None
    assert (reached.step, round(reached.elapsed_s)) == (372, 186)
    assert whole.reached[0.98] is None
    assert parts.epoch_s == pytest.approx(25.0)
    assert whole.epoch_s == pytest.approx(25.0)


def test_deltas_are_points_differences_and_ratios() -> None:
    assert compare(0.9842, 0.98, "points", "higher") == ("+0.42 points", "better")
    assert compare(0.25, 0.5, "difference", "lower") == ("−0.25", "better")
    assert compare(30.0, 20.0, "ratio", "lower") == ("×1.5", "worse")
    assert compare(10.0, 20.0, "ratio", None) == ("×0.5", "")
    assert compare(0.5, 0.5, "points", "higher") == ("=", "same")
    assert compare(1.0, 0.0, "ratio", "lower") == ("", ""), "no ratio to nothing"
    assert [seconds(v) for v in (0.837, 12.34, 125.0)] == ["0.84 s", "12.3 s", "2 min 5 s"]


def test_odd_values_are_those_that_most_do_not_have_or_the_baseline_does_not() -> None:
    assert odd_ones([64, 64, 256], None) == [False, False, True]
    assert odd_ones([64, 256], None) == [False, False], "none of two is the odd one"
    assert odd_ones([64, 256, 256], 0) == [False, True, True]
    assert odd_ones([[1], [1], None], None) == [False, False, True]


def test_formulas_in_names_are_made_harmless_and_numbers_stay() -> None:
    assert [harmless(cell) for cell in ("=1+1", "+a", "-a", "@a", "\ta", "a=1", -0.5, None)] == [
        "'=1+1", "'+a", "'-a", "'@a", "'\ta", "a=1", -0.5, None,
    ]  # fmt: skip


# -- summary and CSV --------------------------------------------------------------------------------------------------


def test_the_summary_has_best_and_last_with_their_steps(http: httpx.Client) -> None:
    values = {"val/accuracy": [0.5, 0.96, 0.94], "val/loss": [1.5, 0.2, 0.25], "grad/norm": [3.0, 1.0, 2.0]}
    runs = [external(http, "one", values, parameters=1234), external(http, "silent")]
    found = table(http.get(address(runs, cols="all")).text, "summary")
    one, silent = found.rows[2], found.rows[3]
    assert "96.00 % step 20" in one
    assert "94.00 % step 30" in one
    assert "0.2 step 20" in one
    assert "0.25 step 30" in one
    assert "1 step 20" in one, "a metric whose name tells nothing shows its lowest"
    assert "3 step 10" in one, "and its highest"
    assert "1,234" in one
    reached = [cell for cell in one if re.fullmatch(r"2\.\d\d s step 20", cell)]
    assert len(reached) == 2, "90 and 95 % were reached at the second evaluation"
    assert "– not reached" in one
    assert set(silent[2:]) == {"–"} or set(silent[2:]) <= {"–", silent[-5]}, "nothing measured: dashes"


def test_the_summary_sorts_from_its_address_with_missing_values_last(http: httpx.Client) -> None:
    accuracies: dict[str, list[Any]] = {"low": [0.2], "none": [NAN], "high": [0.9], "mid": [0.5]}
    runs = [external(http, name, {"val/accuracy": values}) for name, values in accuracies.items()]
    names = ("low", "none", "high", "mid")

    def order(sort: str) -> tuple[list[str], list[str]]:
        found = table(http.get(address(runs, sort=sort)).text, "summary")
        return [next(n for n in names if row[0].endswith(n)) for row in found.rows[2:]], found.sorts

    assert order("") == (list(names), [])
    assert order("-val/accuracy:best") == (["high", "mid", "low", "none"], ["descending"])
    assert order("val/accuracy:best") == (["low", "mid", "high", "none"], ["ascending"])
    assert order("name") == (["high", "low", "mid", "none"], ["ascending"])


def test_a_baseline_is_compared_with(http: httpx.Client) -> None:
    runs = [
        external(http, "base", {"val/accuracy": [0.90], "val/loss": [0.4]}, batch_size=64),
        external(http, "other", {"val/accuracy": [0.92], "val/loss": [0.5]}, batch_size=256),
    ]
    html = http.get(address(runs, baseline=runs[0])).text
    base, other = table(html, "summary").rows[2:]
    assert any("better: +2.00 points" in cell for cell in other)
    assert any("worse: +0.1" in cell for cell in other)
    assert not any("points" in cell for cell in base)
    assert "256 ×4 (differs)" in text_of(html)


def test_the_csv_has_every_figure_and_nothing_that_a_spreadsheet_runs(http: httpx.Client) -> None:
    values = {"val/accuracy": [0.5, 0.1 + 0.2]}
    plain = [external(http, "=HYPERLINK(1)", values, lr=0.1, note="-x")]
    answer = http.get(address(plain).replace("/compare?", "/compare.csv?"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert rows[0]["name"] == "'=HYPERLINK(1)"
    assert rows[0]["spec.note"] == "'-x"
    assert float(rows[0]["val/accuracy.min"]) == 0.1 + 0.2, "at full precision"
    assert (rows[0]["val/accuracy.best"], rows[0]["val/accuracy.best_step"]) == ("0.5", "10")
    assert rows[0]["seconds_to_90_percent"] == ""
    assert not answer.text.startswith("\ufeff")
    named = http.get(address([external(http, "学习率")]).replace("/compare?", "/compare.csv?"))
    assert named.content.startswith("\ufeff".encode()), "so that a spreadsheet reads the name"
    assert http.get("/compare.csv?run=gone").text.count("\n") == 1


# -- settings ---------------------------------------------------------------------------------------------------------


def test_only_what_differs_is_shown_and_the_rest_is_one_click_away(http: httpx.Client) -> None:
    runs = [external(http, f"r{i}", lr=lr, width=64) for i, lr in enumerate((0.1, 0.1, 0.3))]
    html = http.get(address(runs)).text
    rows = table(html, "settings").rows
    assert [row[0] for row in rows[1:]] == ["Learning rate"]
    assert rows[1][1:] == ["0.1", "0.1", "0.3 (differs)"]
    rest = html[html.index("The same everywhere") :]
    assert "width" in text_of(rest)
    assert http.get(address(runs[:1])).text.count("Settings that differ") == 1


def test_many_runs_turn_the_table_of_settings(http: httpx.Client) -> None:
    runs = [external(http, f"n{i}", lr=i + 1) for i in range(8)]
    rows = table(http.get(address(runs)).text, "settings").rows
    assert rows[0] == ["Run", "Learning rate"]
    assert [row[1] for row in rows[1:]] == [str(i + 1) for i in range(8)]


# -- statistics -------------------------------------------------------------------------------------------------------


def seeded(http: httpx.Client, model: str, accuracies: list[float], **more: Any) -> list[str]:
    return [
        external(http, f"{model} {seed}", {"val/accuracy": [value]}, model=model, seed=seed, **more)
        for seed, value in enumerate(accuracies)
    ]


def test_the_seeds_decide_in_one_sentence(http: httpx.Client) -> None:
    runs = seeded(http, "small", [0.90, 0.91, 0.90, 0.92]) + seeded(http, "large", [0.97, 0.98, 0.97, 0.98])
    html = http.get(address(runs)).text
    assert re.search(r"large is 6\.75 points better than small \[.*n = 4 \+ 4", text_of(html))
    assert html.count('<circle class="run-colour') == 8, "each run is a point"
    words = text_of(html)
    assert "97.50 ± 0.58 %, n = 4" in words
    assert "permutation test" in words


def test_one_seed_each_decides_nothing_and_a_training_run_is_left_out(http: httpx.Client) -> None:
    runs = seeded(http, "a", [0.9]) + seeded(http, "b", [0.8])
    runs.append(external(http, "still at it", {"val/accuracy": [0.7]}, finish=False, model="b", seed=1))
    words = text_of(http.get(address(runs)).text)
    assert "chance cannot be told from a difference" in words
    assert "Not counted, still training: still at it." in words


def test_the_metric_of_the_statistics_is_chosen_in_the_address(http: httpx.Client) -> None:
    runs = [
        external(http, name, {"val/accuracy": [0.9, 0.8], "val/loss": [loss, 2.0]}, model=name, seed=0)
        for name, loss in (("a", 0.5), ("b", 0.25))
    ]
    html = http.get(address(runs, metric="val/loss", at="best")).text
    assert '<option value="val/loss" selected>' in html
    assert "b is ahead of a by 0.250" in text_of(html)
    assert "are equal" in text_of(http.get(address(runs, metric="val/loss", at="last")).text)


# -- the verdict and the way out --------------------------------------------------------------------------------------


def test_a_confounded_comparison_names_each_confounder_with_its_values(http: httpx.Client) -> None:
    runs = [
        external(http, "a", model="lenet", batch_size=64, lr=0.01, seed=0),
        external(http, "b", model="resnet8", batch_size=256, lr=0.1, seed=0),
    ]
    words = text_of(http.get(address(runs)).text)
    assert "Confounded by batch size 64 → 256, learning rate 0.01 → 0.1" in words
    assert "An outside script drove b" in words, "only the script can start it again"
    assert 'action="/compare/match"' not in http.get(address(runs)).text


def form_of(html: str) -> dict[str, str]:
    form = html[html.index('action="/compare/match"') :]
    form = form[: form.index("</form>")]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


def test_the_odd_one_runs_again_with_the_settings_of_the_others(http: httpx.Client) -> None:
    kept = training(http, "kept", model="lenet", batch_size=64, lr=0.01)
    odd = training(http, "odd", model="resnet8", batch_size=256, lr=0.1, weight_decay=0.0)
    html = http.get(address([kept, odd])).text
    words = text_of(html)
    assert "Re-run the odd one with matched settings" in words
    assert "odd: batch size 256 → 64, learning rate 0.1 → 0.01" in words
    form = form_of(html)
    assert (
        http.post("/compare/match", data=form, headers={"origin": "http://evil.example"}).status_code == 403
    )
    answer = http.post("/compare/match", data=form)
    assert answer.status_code == 303, answer.text
    runs = [value for name, value in parse_qsl(urlsplit(answer.headers["location"]).query) if name == "run"]
    assert runs[0] == kept
    assert odd not in runs
    new = http.get(f"/api/v1/runs/{runs[1]}").json()
    assert (new["name"], new["experiment"], new["tags"]) == ("odd · matched", "matching", ["matched"])
    assert (new["spec"]["model"], new["spec"]["batch_size"], new["spec"]["lr"]) == ("resnet8", 64, 0.01)
    assert odd in new["notes"]
    again = http.post("/compare/match", data=form)
    assert again.headers["location"] == answer.headers["location"], "twice pressed, once started"
    assert "only the model differs" in text_of(http.get(answer.headers["location"]).text)
    nothing = http.post("/compare/match", data=form | {"runs": ",".join(runs), "key": "0" * 32})
    assert nothing.status_code == 409
    assert "not confounded" in nothing.text


def test_no_subject_asks_for_one(http: httpx.Client) -> None:
    runs = [training(http, "x", lr=0.1, batch_size=64), training(http, "y", lr=0.2, batch_size=128)]
    html = http.get(address(runs)).text
    assert "Several settings differ" in html
    assert 'name="group" value="lr"' in html
    chosen = text_of(http.get(address(runs, group="lr")).text)
    assert "Confounded by batch size 64 → 128" in chosen
    assert "y: batch size 128 → 64" in chosen


def run_of(run_id: str, **spec: Any) -> Run:
    full = RunSpec.model_validate({"dataset": "digits"} | spec).model_dump()
    return Run(
        id=run_id,
        name=run_id,
        spec=full,
        model=full["model"],
        dataset="digits",
        created_at=0,
        queued_at=0,
        updated_at=0,
    )


def test_a_match_pairs_seeds_and_follows_the_baseline() -> None:
    runs = [run_of(f"l{s}", model="lenet", batch_size=64, seed=s) for s in range(3)]
    runs += [run_of(f"r{s}", model="resnet8", batch_size=256, seed=s) for s in range(2)]
    facts = [facts_of(run) for run in runs]
    verdict = judge(facts)
    plan = plan_match(facts, verdict)
    assert [(r.odd, r.spec.seed, r.spec.batch_size) for r in plan.reruns] == [
        ("r0", 0, 64), ("r1", 1, 64), ("r0", 2, 64),
    ]  # fmt: skip
    assert plan.odd == ("r0", "r1")
    turned = plan_match(facts, verdict, baseline="r1")
    assert [(r.odd, r.spec.model, r.spec.batch_size) for r in turned.reruns] == [
        ("l0", "lenet", 256), ("l1", "lenet", 256),
    ]  # fmt: skip


def test_a_match_keeps_what_is_crossed_and_what_fits_already() -> None:
    runs = [run_of(f"l{lr}", model="lenet", lr=lr) for lr in (0.1, 0.2)]
    runs += [run_of("r0.1", model="resnet8", lr=0.1), run_of("r0.2", model="resnet8", lr=0.2, epochs=9)]
    facts = [facts_of(run) for run in runs]
    plan = plan_match(facts, judge(facts, ["model"]))
    assert [(r.odd, r.spec.lr, dict(r.changes)) for r in plan.reruns] == [("r0.2", 0.2, {"epochs": (9, 3)})]
    assert plan.odd == ("r0.2",), "the other one is as it should be"


def test_a_match_follows_the_words_of_an_outside_script() -> None:
    script = Run(
        id="s", name="s", kind="external", created_at=0, queued_at=0, updated_at=0,
        spec={"model": "theirs", "batch_size": "32", "learning_rate": 0.5, "seed": 0},
    )  # fmt: skip
    facts = [facts_of(script), facts_of(run_of("ours", model="lenet", batch_size=64, lr=0.1))]
    plan = plan_match(facts, judge(facts))
    assert [(r.odd, r.spec.model, r.spec.batch_size, r.spec.lr) for r in plan.reruns] == [
        ("ours", "lenet", 32, 0.5)
    ]


def test_a_match_of_what_is_already_fair_or_cannot_be_set_is_refused() -> None:
    fair = [facts_of(run_of("a", model="lenet")), facts_of(run_of("b", model="resnet8"))]
    assert plan_match(fair, judge(fair)).obstacle == "nothing"
    runs = [run_of("a", model="lenet"), run_of("b", model="resnet8")]
    runs[0].resolved, runs[1].resolved = {"code": "aaa"}, {"code": "bbb"}
    facts = [facts_of(run) for run in runs]
    plan = plan_match(facts, judge(facts))
    assert (plan.obstacle, plan.keys) == ("not_settable", ("code",))


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_hand_edited_address_is_named_and_the_rest_is_shown(http: httpx.Client) -> None:
    runs = [external(http, f"x{i}", {"val/accuracy": [0.5 + i / 10]}, lr=i + 1) for i in range(3)]
    wrong = address(
        [*runs, "gone"],
        metric="nonsense",
        at="middle",
        baseline="nobody",
        group="nothing",
        sort="-nix",
        sx="nowhere",
        brush=["lr", "lr,a,b", "nix,1,2"],
        stranger="1",
    )
    html = http.get(wrong).text
    for word in (
        "nonsense",
        "middle",
        "nobody",
        "nothing",
        "nix",
        "nowhere",
        "stranger",
        "<code>gone</code>",
    ):
        assert word in html
    assert len(table(html, "summary").rows) == 2 + 3
    assert "50.00 %" in html


def test_without_runs_there_are_runs_and_experiments_to_choose(http: httpx.Client) -> None:
    training(http, "one of them")
    html = http.get("/compare?run=").text
    assert "Which runs?" in html
    assert 'href="/compare?experiment=matching"' in html


def test_runs_with_nothing_in_common_show_dashes(http: httpx.Client) -> None:
    runs = [
        external(http, "a", {"bleu": [0.1]}),
        external(http, "b", {"other": [3.0]}),
        external(http, "c", {"val/accuracy": [NAN, NAN]}),
    ]
    html = http.get(address(runs)).text
    rows = table(html, "summary").rows[2:]
    assert all("–" in row for row in rows)
    assert "The scripts of these runs gave no settings: a, b, c." in html


def test_more_than_a_hundred_runs_say_so(http: httpx.Client) -> None:
    spec = {"dataset": "digits"}
    body = {"name": "big one", "spec": spec, "vary": {"seed": list(range(60)), "lr": [0.1, 0.2]}}
    answer = http.post("/api/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    shown = http.get("/compare?experiment=big+one&x=epoch", follow_redirects=True)
    assert "x=epoch" in str(shown.url)
    assert "The experiment “big one” has 120 runs; this page shows 100 of them." in shown.text
    assert len(table(shown.text, "summary").rows) == 2 + 100
    ids = re.findall(r'"id": "(\w+)"', shown.text)[:100]
    many = http.get(address([*ids, *(f"more{i}" for i in range(5))]))
    assert "The address names 105 runs; this page shows the first 100." in many.text


def test_what_a_run_has_not_told_yet_is_no_difference() -> None:
    waiting = Run(id="a", name="a", spec={"lr": 0.1}, created_at=0, queued_at=0, updated_at=0)
    begun = waiting.model_copy(update={"id": "b", "resolved": {"precision": "fp32", "threads": 1}})
    other = waiting.model_copy(update={"id": "c", "resolved": {"precision": "fp32", "threads": 2}})
    alike = make_specs([waiting, begun], ["a", "b"], None)
    assert alike.ran == []
    assert "FP32" in {common.value for common in alike.common}
    [threads] = make_specs([waiting, begun, other, other, other], list("abcde"), None).ran
    assert [value.odd for value in threads.values] == [False, True, False, False, False]
