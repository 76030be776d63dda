"""What runs got wrong: the counting, the API, the page in a real browser."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from app import mistakes, runs, series
from app.artifacts import LABELS, PREDICTIONS, NewArtifact
from app.db import Database
from app.images import save_images
from app.mistakes import Ballot
from app.predictions import LABELS_NAME, MEDIA_TYPE, Answers, Labels, predictions_name
from app.runs import NewRun
from app.settings import Settings
from ml.spec import RunSpec
from tests import processes

Ints = NDArray[np.int64]
Json = dict[str, Any]
DIGEST, OTHER_DIGEST = "0123456789abcdef", "fedcba9876543210"


def ballot_of(label: Sequence[int], *predicted: Sequence[int], confidence: float = 0.9) -> Ballot:
    answers = np.array(predicted)
    return Ballot(10, np.arange(len(label)), np.array(label), answers, np.full(answers.shape, confidence))


# -- counting ---------------------------------------------------------------------------------------------------------


def test_a_confusion_matrix_has_a_row_a_truth_and_a_column_an_answer() -> None:
    matrix = mistakes.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


@given(st.integers(2, 6), st.integers(1, 30), st.data())
def test_disagreement_is_the_share_of_pairs_that_differ(count: int, images: int, data: st.DataObject) -> None:
    answers = st.lists(st.integers(0, 9), min_size=images, max_size=images)
    ballot = ballot_of([0] * images, *(data.draw(answers) for _ in range(count)))
    pairs = list(combinations(range(count), 2))
    expected = [
        sum(ballot.predicted[i, n] != ballot.predicted[j, n] for i, j in pairs) / len(pairs)
        for n in range(images)
    ]
    np.testing.assert_allclose(mistakes.disagreement(ballot), expected)


def test_images_are_chosen_by_who_is_wrong_and_sorted_by_disagreement_then_confidence() -> None:
    ballot = ballot_of([1, 1, 1, 1, 1], [1, 2, 2, 1, 3], [1, 1, 2, 2, 4], [1, 1, 2, 1, 5])
    ballot.confidence[:, 3] = 0.99
    picked = {
        show: mistakes.order(ballot, mistakes.choose(ballot, show, 0, 1)).tolist()
        for show in ("disagree", "a_only", "b_only", "all_wrong", "any_wrong", "all")
    }
    assert picked["disagree"] == [4, 3, 1]
    assert (picked["a_only"], picked["b_only"], picked["all_wrong"]) == ([1], [3], [4, 2])
    assert picked["any_wrong"] == [4, 3, 1, 2]
    assert sorted(picked["all"]) == [0, 1, 2, 3, 4]
    ballot.confidence[0] = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert mistakes.order(ballot, mistakes.choose(ballot, "any_wrong", 0, 1), by=0).tolist() == [4, 3, 2, 1]


def test_runs_of_different_subsets_meet_on_the_images_that_both_saw() -> None:
    def evaluation(index: list[int]) -> tuple[Labels, Answers]:
        places = np.array(index)
        labels = Labels(DIGEST, 10, places, places % 10)
        return labels, Answers(places * 7 % 10, (places / 100).astype(np.float32))

    ballot = mistakes.hold_ballot([evaluation([9, 3, 5, 1]), evaluation([1, 2, 3, 4, 5])])
    assert ballot.index.tolist() == [1, 3, 5]
    assert ballot.label.tolist() == [1, 3, 5]
    assert ballot.predicted.tolist() == [[7, 1, 5], [7, 1, 5]]
    np.testing.assert_allclose(ballot.confidence, [[0.01, 0.03, 0.05]] * 2, rtol=1e-6)
    empty = mistakes.hold_ballot([evaluation([1, 2]), evaluation([3])])
    assert len(empty.label) == 0
    assert mistakes.order(empty, mistakes.choose(empty, "disagree", 0, 1)).tolist() == []


# -- the API ----------------------------------------------------------------------------------------------------------


@dataclass
class Yard:
    """A web process, and what stores runs behind it as a trainer would."""

    url: str
    db: Database
    settings: Settings

    def run(self, name: str, evaluations: dict[int, Ints], **more: Any) -> str:
        """A finished run with these answers by epoch; `more` as for `evaluate`."""
        with self.db.begin() as s:
            run, _ = runs.create_run(s, NewRun(RunSpec(dataset="digits", epochs=9), name), max_queued=1000)
            assert runs.claim_run(s, run.id, "w", 3600) is not None
        for seq, (epoch, predicted) in enumerate(evaluations.items(), 1):
            self.evaluate(run.id, seq, epoch, predicted, **more)
        if evaluations:
            with self.db.begin() as s:
                runs.end_run(s, run.id, 1, "finished", "w", "trained to the end")
        return run.id

    def evaluate(
        self,
        run_id: str,
        seq: int,
        epoch: int,
        predicted: Ints,
        *,
        label: Ints | None = None,
        val_digest: str = DIGEST,
        confidence: float = 0.75,
    ) -> None:
        truth = np.arange(len(predicted)) % 10 if label is None else label
        labels = Labels(val_digest, 10, np.arange(len(truth)), truth)
        answers = Answers(predicted, np.full(len(truth), confidence, np.float32)).pack(labels)
        step = epoch * 10
        files = [
            NewArtifact(LABELS_NAME, LABELS, 0, 0, MEDIA_TYPE, labels.pack()),
            NewArtifact(predictions_name(step), PREDICTIONS, step, epoch, MEDIA_TYPE, answers),
        ]
        right = float((predicted == truth).mean())
        points = {"val/accuracy": series.make_block([step], [1.0], [right])}
        with self.db.begin() as s:
            runs.report(s, run_id, 1, seq, points, lease_s=3600, step=step, epoch=epoch, files=files)

    def get(self, path: str, status: int = 200, **query: Any) -> Json:
        answer = httpx.get(f"{self.url}{path}", params=query, trust_env=False, timeout=60)
        assert answer.status_code == status, answer.text
        body: Json = answer.json()
        return body


def pixels() -> NDArray[np.uint8]:
    """A hundred small pictures, each of another grey."""
    return np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 8, 8, 1)).copy()


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    directory = tmp_path_factory.mktemp("wrong")
    with processes.redis_server(directory) as redis:
        env = processes.trainyard_env(directory, broker_url=redis.broker_url)
        processes.migrate(env)
        settings = Settings(data_dir=Path(env["TRAINYARD_DATA_DIR"]))
        save_images(settings.images_dir, DIGEST, pixels)
        db = Database(settings.database_url)
        with processes.web_process(env, directory=directory) as web:
            yield Yard(web.url, db, settings)
        db.dispose()


def answers(*wrong: int, count: int = 100) -> Ints:
    """The right answer for all but these images, which are taken for the next class."""
    predicted = np.arange(count) % 10
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % 10
    return predicted


def test_artifacts_are_listed_and_downloaded_as_attachments(yard: Yard) -> None:
    run_id = yard.run("LeNet", {1: answers(3), 2: answers()})
    listed = yard.get(f"/api/v1/runs/{run_id}/artifacts")["artifacts"]
    assert [one["name"] for one in listed] == [LABELS_NAME, "predictions-000010", "predictions-000020"]
    assert {one["media_type"] for one in listed} == {MEDIA_TYPE}
    for one in listed:
        answer = httpx.get(yard.url + one["url"], trust_env=False)
        assert answer.headers["content-disposition"] == f'attachment; filename="{one["name"]}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.content) == one["size_bytes"]


def test_checkpoints_are_listed_and_only_the_run_s_own_files_are_given_out(yard: Yard) -> None:
    run_id = yard.run("LeNet", {})
    folder = yard.settings.runs_dir / run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint-1-20.pt").write_bytes(b"weights")
    (folder / "log").write_text("secret")
    older = {"file": "checkpoint-1-10.pt", "sha256": "b" * 64, "step": 10, "epoch": 1}
    pointer = {"file": "checkpoint-1-20.pt", "sha256": "a" * 64, "step": 20, "epoch": 2, "previous": older}
    with yard.db.begin() as s:
        runs.report(s, run_id, 1, 1, {}, lease_s=3600, checkpoint=pointer)
    listed = yard.get(f"/api/v1/runs/{run_id}/artifacts")["artifacts"]
    assert [(one["name"], one["available"], one["size_bytes"]) for one in listed] == [
        ("checkpoint-1-20.pt", True, 7),
        ("checkpoint-1-10.pt", False, None),
    ]
    answer = httpx.get(yard.url + listed[0]["url"], trust_env=False)
    assert answer.content == b"weights"
    assert answer.headers["content-disposition"] == 'attachment; filename="checkpoint-1-20.pt"'
    for name in ("log", "checkpoint-1-10.pt", "..%2Flog", "%2e%2e", "..%2f..%2ftrainyard.db", "nothing"):
        answer = httpx.get(f"{yard.url}/api/v1/runs/{run_id}/artifacts/{name}", trust_env=False)
        assert answer.status_code == 404, name
        assert b"secret" not in answer.content
    assert yard.get("/api/v1/runs/none/artifacts", 404)["error"]["code"] == "not_found"


def test_the_matrix_of_an_evaluation_by_step_epoch_last_and_best(yard: Yard) -> None:
    run_id = yard.run("LeNet", {1: answers(3, 4, 13), 2: answers(), 3: answers(3)})
    path = f"/api/v1/runs/{run_id}/predictions"
    last = yard.get(path)
    assert (last["step"], last["epoch"], last["n"], last["accuracy"]) == (30, 3, 100, 0.99)
    assert last["matrix"][3][4] == 1
    assert last["per_class"][3] == {"n": 10, "right": 9, "accuracy": 0.9}
    assert last["evaluations"] == [{"epoch": e, "step": e * 10} for e in (1, 2, 3)]
    assert last["classes"] == [str(k) for k in range(10)]
    assert last["images"] is True
    assert yard.get(path, at="best")["step"] == 20
    assert yard.get(path, at="1")["matrix"][3][4] == 2
    assert yard.get(path, at="99")["step"] == 30
    assert yard.get(path, step=20)["accuracy"] == 1
    assert "999" in yard.get(path, 404, step=999)["error"]["message"]
    assert yard.get(path, 422, at="soon")["error"]["field"] == "at"


def test_disagreements_of_two_runs(yard: Yard) -> None:
    a, b = yard.run("LeNet", {1: answers(3, 14, 25)}), yard.run("ResNet", {1: answers(3)}, confidence=0.5)
    found = yard.get("/api/v1/disagreements", run=[a, b])
    assert (found["n"], found["total"], found["next_cursor"]) == (100, 2, None)
    assert [image["index"] for image in found["images"]] == [14, 25]
    assert found["images"][0] == {
        "index": 14,
        "truth": "4",
        "disagreement": 1,
        "url": f"/api/v1/validation/{DIGEST}/14.png",
        "answers": [
            {"run": a, "answer": "5", "confidence": pytest.approx(0.75, abs=0.005), "right": False},
            {"run": b, "answer": "4", "confidence": pytest.approx(0.5, abs=0.005), "right": True},
        ],
    }
    assert yard.get("/api/v1/disagreements", run=[a, b], show="b_only")["total"] == 0
    assert yard.get("/api/v1/disagreements", run=[a, b], show="b_only", a=b, b=a)["total"] == 2
    assert yard.get("/api/v1/disagreements", run=[a, b], show="all_wrong")["total"] == 1
    assert yard.get("/api/v1/disagreements", 404, run=[a, "none"])["error"]["field"] == "run"
    assert yard.get("/api/v1/disagreements", 422, run=[a, b], a="none")["error"]["field"] == "a"


def test_disagreements_come_in_pages_that_end_when_a_run_is_evaluated_anew(yard: Yard) -> None:
    a = yard.run("LeNet", {1: answers(*range(30))})
    with yard.db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec(dataset="digits")), max_queued=1000)
        assert runs.claim_run(s, run.id, "w", 3600) is not None
    yard.evaluate(run.id, 1, 1, answers())
    seen: list[int] = []
    cursor: dict[str, Any] = {}
    while True:
        page = yard.get("/api/v1/disagreements", run=[a, run.id], limit=7, **cursor)
        seen += [image["index"] for image in page["images"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == list(range(30))
    yard.evaluate(run.id, 2, 2, answers(1))
    refused = yard.get("/api/v1/disagreements", 422, run=[a, run.id], **cursor)
    assert refused["error"]["field"] == "cursor"
    assert yard.get("/api/v1/disagreements", 422, run=[a], cursor="!")["error"]["field"] == "cursor"


def test_runs_that_cannot_be_compared_are_left_out_with_the_reason(yard: Yard) -> None:
    a = yard.run("LeNet", {1: answers(1)})
    other = yard.run("elsewhere", {1: answers(2)}, val_digest=OTHER_DIGEST)
    waiting = yard.run("new", {})
    outside = httpx.post(f"{yard.url}/api/v1/runs", json={"external": True}, trust_env=False).json()["id"]
    found = yard.get("/api/v1/disagreements", run=[a, other, waiting, outside])
    assert {one["run"]: one["reason"] for one in found["left_out"]} == {
        other: "other_set",
        waiting: "not_yet",
        outside: "external",
    }
    assert [one["run"] for one in found["runs"]] == [a]
    assert yard.get("/api/v1/disagreements", run=[waiting])["total"] == 0
    assert "first evaluation" in yard.get(f"/api/v1/runs/{waiting}/predictions", 404)["error"]["message"]
    assert "outside script" in yard.get(f"/api/v1/runs/{outside}/predictions", 404)["error"]["message"]
    elsewhere = yard.get(f"/api/v1/runs/{other}/predictions")
    assert elsewhere["images"] is False


def test_validation_images_are_served_as_png_and_kept_by_the_browser(yard: Yard) -> None:
    answer = httpx.get(f"{yard.url}/api/v1/validation/{DIGEST}/42.png", trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert np.asarray(PIL.Image.open(io.BytesIO(answer.content))).tolist() == [[42] * 8] * 8
    for path, status in (
        (f"{DIGEST}/100.png", 404),
        (f"{OTHER_DIGEST}/0.png", 404),
        ("..%2f..%2fetc/0.png", 404),
        ("ABC/0.png", 422),
        (f"{DIGEST}/-1.png", 422),
        (f"{DIGEST}/1e3.png", 422),
    ):
        yard.get(f"/api/v1/validation/{path}", status)


# -- the page ---------------------------------------------------------------------------------------------------------


def html(yard: Yard, path: str, status: int = 200) -> str:
    answer = httpx.get(yard.url + path, headers={"accept": "text/html"}, trust_env=False, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.text


def test_the_page_works_without_scripts_and_forgives_a_hand_edited_address(yard: Yard) -> None:
    a, b = yard.run("LeNet", {1: answers(3, 14), 2: answers(3)}), yard.run("ResNet", {1: answers(14)})
    page = html(yard, f"/wrong?run={a}&run={b}&run=gone")
    assert "99.00 % of 100 images right, epoch 2" in page
    assert "gone" in page
    assert page.count('<figure class="matrix">') == 3
    assert page.count('<li class="picture">') == 2
    assert "style=" not in page.split("<main")[1]
    odd = "wrong_at=soon&wrong_a=nobody&wrong_b=&wrong_show=%3Cb%3E&wrong_of=x&wrong_truth=-1&wrong_first=9999999"
    odd += "&wrong_cell=x.1.2.3"
    assert (
        page.split("data-live")[1]
        == html(yard, f"/wrong?run={a}&run={b}&run=gone&{odd}").split("data-live")[1]
    )
    for cell in ("wrong_truth=999&wrong_answer=0", "wrong_truth=3&wrong_answer=4", f"wrong_cell={a}.x.1"):
        assert "matrix" in html(yard, f"/wrong?run={a}&wrong_show=cell&wrong_of={a}&{cell}")
    assert "none of the runs" in html(yard, "/wrong?run=gone", 404)
    html(yard, "/wrong", 404)


def test_one_cell_shows_the_images_of_its_own_run_even_beside_a_run_of_fewer_images(yard: Yard) -> None:
    a, b = yard.run("all", {1: answers(83, 93)}), yard.run("few", {1: answers(3, count=20)})
    page = html(yard, f"/wrong?run={a}&run={b}&wrong_show=cell&wrong_of={a}&wrong_truth=3&wrong_answer=4")
    assert page.count('<li class="picture">') == 2
    assert "they are compared on those that they share" in page
    assert html(yard, f"/wrong?run={a}&run={b}").count('<li class="picture">') == 1


def test_states_without_predictions_images_or_a_shared_validation_set(yard: Yard) -> None:
    waiting, ended = yard.run("waits", {}), yard.run("ended", {})
    with yard.db.begin() as s:
        runs.end_run(s, ended, 1, "failed", "w", "it failed")
    outside = httpx.post(f"{yard.url}/api/v1/runs", json={"external": True}, trust_env=False).json()["id"]
    page = html(yard, f"/wrong?run={waiting}&run={ended}&run={outside}")
    for words in (
        "There is nothing to show yet",
        "first evaluation is not done",
        "no answers are stored",
        "script",
    ):
        assert words in page
    elsewhere = yard.run("elsewhere", {1: answers(2)}, val_digest=OTHER_DIGEST)
    page = html(yard, f"/wrong?run={elsewhere}")
    assert "not on this server" in page
    assert "<img" not in page.split("<main")[1]
    page = html(yard, f"/wrong?run={yard.run('here', {1: answers(1)})}&run={elsewhere}")
    assert "validated on other data" in page


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    opened = context.new_page()
    troubles: list[str] = []
    opened.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    yield opened
    context.close()
    assert troubles == []


@pytest.mark.slow
def test_the_panel_of_a_comparison_is_changed_in_place_and_its_address_opens_the_same(
    yard: Yard, page: Page
) -> None:
    a = yard.run("LeNet", {1: answers(3, 14), 2: answers(3, 13)})
    b = yard.run("ResNet", {1: answers(14), 2: answers(14, 24)})
    page.goto(f"{yard.url}/compare?run={a}&run={b}")
    panel = page.locator("#wrong")
    panel.scroll_into_view_if_needed()
    expect(panel.locator(".matrix")).to_have_count(3)
    expect(panel.get_by_role("status")).to_have_text("4 images")
    panel.locator("select[name=wrong_show]").select_option(label="ResNet wrong, LeNet right")
    expect(panel.get_by_role("status")).to_have_text("2 images")
    panel.locator(".matrix").first.get_by_role("button", name="3 taken for 4: 2 of 10").click()
    expect(panel.locator(".picture img")).to_have_count(2)
    expect(panel.locator(".picture-truth").first).to_contain_text("3")
    expect(page).to_have_url(re.compile(f"wrong_cell={a}.3.4"))
    panel.get_by_label("The evaluation before").click()
    expect(panel.locator("figcaption").first).to_contain_text("98.00 % of 100 images right, epoch 1")
    expect(panel.locator(".picture")).to_have_count(1)
    panel.get_by_text("% of the class").click()
    expect(panel.locator(".matrix").first.locator("td.right").first).to_have_text("100")
    expect(page).to_have_url(re.compile("wrong_share=1"))
    page.goto(page.url)
    panel.scroll_into_view_if_needed()
    expect(panel.locator("select[name=wrong_at]")).to_have_value("1")
    expect(panel.locator(".picture")).to_have_count(1)
    assert panel.locator(".picture img").evaluate(
        "image => image.complete || image.decode().then(() => true)"
    )


@pytest.mark.slow
def test_each_matrix_is_one_stop_of_the_tab_key_and_arrows_move_in_it(yard: Yard, page: Page) -> None:
    run_id = yard.run("LeNet", {1: answers(0, 11)})
    page.goto(f"{yard.url}/wrong?run={run_id}")
    cells = page.locator("[data-matrix] button")
    expect(page.locator('[data-matrix] button[tabindex="0"]')).to_have_count(1)
    cells.first.focus()
    for key, name in (
        ("ArrowRight", "0 taken for 1: 1 of 10"),
        ("ArrowDown", "1 recognised: 9 of 10"),
        ("ArrowRight", "1 taken for 2: 1 of 10"),
        ("ArrowUp", "1 taken for 2: 1 of 10"),
        ("ArrowDown", "2 recognised: 10 of 10"),
    ):
        page.keyboard.press(key)
        expect(page.locator("button:focus")).to_have_attribute("aria-label", name)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").last).to_have_text("10 images")


@pytest.mark.slow
def test_a_new_evaluation_shows_itself_or_asks_first_when_someone_is_at_work(yard: Yard, page: Page) -> None:
    with yard.db.begin() as s:
        run, _ = runs.create_run(s, NewRun(RunSpec(dataset="digits", epochs=9)), max_queued=1000)
        assert runs.claim_run(s, run.id, "w", 3600) is not None
    page.goto(f"{yard.url}/runs/{run.id}")
    panel = page.locator("#wrong")
    panel.scroll_into_view_if_needed()
    expect(panel).to_contain_text("its first evaluation is not done yet")
    page.mouse.move(2, 2)
    yard.evaluate(run.id, 1, 1, answers(3))
    expect(panel.locator("figcaption")).to_contain_text("epoch 1", timeout=60_000)
    yard.evaluate(run.id, 2, 2, answers(3))
    expect(panel.locator("figcaption")).to_contain_text("epoch 2", timeout=60_000)
    panel.locator("figcaption").hover()
    yard.evaluate(run.id, 3, 3, answers(3))
    news = panel.get_by_role("button", name="There is a new evaluation: show it")
    expect(news).to_be_visible(timeout=60_000)
    expect(panel.locator("figcaption")).to_contain_text("epoch 2")
    news.click()
    expect(panel.locator("figcaption")).to_contain_text("epoch 3")
    expect(news).to_be_hidden()
    yard.evaluate(run.id, 4, 4, answers(4))
    page.mouse.move(2, 2)
    page.evaluate("document.activeElement.blur()")
    expect(panel.locator("figcaption")).to_contain_text("epoch 4", timeout=60_000)
