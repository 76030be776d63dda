"""Chinese and English: nothing untranslated, in the catalogue and in the sources; on the pages: test_tour.py."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from app.settings import ROOT
from app.web import i18n, translations
from app.web.i18n import SENTENCE, choose, load, sentence
from tests import processes, tour

CHINESE = sorted(i18n.LANGUAGES.keys() - {i18n.DEFAULT})
PLACEHOLDER = re.compile(r"\{[^{}]*\}|%\(\w+\)s")


# -- the catalogues ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHINESE)
def test_every_text_of_the_sources_is_translated(name: str) -> None:
    catalog = translations.updated(name)
    assert len(catalog) > 300
    assert translations.missing(catalog) == [], (
        "run `python -m app.web.translations` and translate what it names"
    )
    stored = i18n.po_file(name).read_text()
    assert stored == translations.as_text(catalog), "run `python -m app.web.translations`"
    assert "fuzzy" not in stored


@pytest.mark.parametrize("name", CHINESE)
def test_a_translation_keeps_every_placeholder(name: str) -> None:
    for message in translations.read(name):
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        for text in strings:
            assert sorted(PLACEHOLDER.findall(str(text))) == sorted(PLACEHOLDER.findall(str(ids[-1]))), text


def test_chinese_is_written_with_chinese_punctuation() -> None:
    for message in translations.read("zh"):
        for text in message.string if isinstance(message.string, tuple) else (message.string,):
            plain = PLACEHOLDER.sub("□", str(text))
            assert not re.search(r"[\u4e00-\u9fff][,;:?!]|[,;:?!][\u4e00-\u9fff]|\.\.\.", plain), text
            assert not re.search(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]", str(text)), (
                f"a space belongs between Chinese and Latin: {text}"
            )


def test_the_words_of_the_field_are_used_throughout() -> None:
    words = {
        "Learning rate": "学习率",
        "Batch size": "批量大小",
        "Epochs": "训练轮数",
        "Smoothing": "平滑",
        "Validation accuracy": "验证准确率",
        "Weight decay": "权重衰减",
        "Momentum": "动量",
        "Optimizer": "优化器",
        "Seed": "随机种子",
    }
    messages = load("zh").messages
    assert {text: messages.gettext(text) for text in words} == words


# -- sentences from below the web -------------------------------------------------------------------------------------


@pytest.fixture
def chinese() -> Iterator[None]:
    before = i18n.language.set("zh")
    yield
    i18n.language.reset(before)


@pytest.mark.usefixtures("chinese")
def test_each_sentence_is_found_by_its_own_pattern() -> None:
    for message in translations.read("zh"):
        if message.context == SENTENCE:
            names = re.findall(r"\{(\w+)\}", str(message.id))
            values = {name: f"値{i}" for i, name in enumerate(names)}
            written = str(message.id).format(**values)
            assert sentence(written) == str(message.string).format(**values), message.id


@pytest.mark.usefixtures("chinese")
def test_a_sentence_inside_a_sentence_is_translated_too() -> None:
    said = "worker alpha stopped answering; gave up after 3 failed attempts"
    assert sentence(said) == "工作进程 alpha 已停止响应；失败 3 次后放弃"
    assert sentence("the run is running; cancel it before you delete it").startswith("该运行的状态为“运行中”")
    for unknown in ("", "CUDA error: device-side assert triggered", "{braces} {0} %(x)s", "x" * 5_000):
        assert sentence(unknown) == unknown


def test_sentences_stay_as_written_in_english() -> None:
    assert sentence("there is no run 'x'") == "there is no run 'x'"


def test_messages_are_read_from_their_source() -> None:
    code = (
        'raise NotFound(f"no run {run_id!r}")\nreason = "ran" + (f" to {at:,}" if at else "")\nx = "not this"'
    )
    assert list(translations.written(ast.parse(code))) == ["no run {run_id}", "ran to {at}", "ran"]
    code = 'def explain(e):\n    return f"must be at most {plain(c[\'le\'])}"\nself.end(FAILED, "trained")'
    assert list(translations.written(ast.parse(code))) == ["must be at most {le}", "trained"]


# -- texts that no catalogue could know -------------------------------------------------------------------------------

PROPER = {"Trainyard"}
SHOWN_ATTRIBUTES = {"title", "aria-label", "placeholder", "alt", "data-confirm", "data-title"}


class _Shown(HTMLParser):
    """Texts and shown attributes of a template; an expression of it has become a □."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in ("script", "code", "pre", "svg")
        self.texts += [value or "" for name, value in attrs if name in SHOWN_ATTRIBUTES]

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("script", "code", "pre", "svg")

    def handle_data(self, data: str) -> None:
        if not self._code:  # a macro may write attributes, as `aria-invalid="true"` or `autofocus`
            self.texts.append(re.sub(r'[a-z-]+="[^"]*"|\bautofocus\b', "", data))


@pytest.mark.parametrize("path", sorted((ROOT / "templates").rglob("*.html")), ids=lambda path: path.name)
def test_every_text_of_a_template_goes_through_gettext(path: Path) -> None:
    source = re.sub(r"\{% trans.*?endtrans %\}|\{#.*?#\}", "□", path.read_text(), flags=re.DOTALL)
    parser = _Shown()
    parser.feed(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "□", source, flags=re.DOTALL))
    texts = [re.sub(r"\w+[./]\S+|\w+=", "", text) for text in parser.texts]  # names are no words
    words = {word for text in texts for word in re.findall(r"[A-Za-z][\w.-]+", text)}
    assert words <= PROPER


def test_no_script_writes_a_text_of_its_own() -> None:
    for path in (ROOT / "static" / "js").glob("*.js"):
        places = r"(?:textContent|title|ariaLabel|placeholder|innerText)\s*[=:]\s*|\"aria-label\",\s*"
        found = re.findall(rf"(?:{places})([\"'`][^\"'`]*[A-Za-z]{{2}}[^\"'`]*[\"'`])", path.read_text())
        assert [text for text in found if not re.fullmatch(r"`(?:\$\{.*\}|[^A-Za-z])*`", text)] == [], (
            path.name
        )


# -- a request's language ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "zh-TW,zh;q=0.9", "zh"),
        (None, "zh-HK", "zh"),
        (None, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        (None, "de,fr;q=0.9", "en"),
        (None, "de, zh;q=0.3, en;q=0.2", "zh"),
        (None, "zh;q=0, en;q=0.1", "en"),
        (None, "zh;q=nonsense,en;q=0.1", "en"),
        (None, "*", "en"),
        ("zh", "en", "zh"),
        ("en", "zh", "en"),
        ("xx", "zh", "zh"),
        ("../../etc", "", "en"),
    ],
)
def test_the_switch_comes_before_the_browser_and_the_browser_before_english(
    cookie: str | None, accepted: str, language: str
) -> None:
    assert choose(cookie, accepted) == language


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tour.empty_server(tmp_path_factory.mktemp("i18n")) as url:
        yield url


def _client(url: str, **headers: str) -> httpx.Client:
    return httpx.Client(
        base_url=url, headers={"accept": "text/html", "origin": url, **headers}, trust_env=False, timeout=30
    )


def test_pages_errors_and_forms_speak_the_language_of_the_browser(url: str) -> None:
    with _client(url, **{"accept-language": "zh-CN,zh;q=0.9"}) as http:
        page = http.get("/")
        assert '<html lang="zh-Hans"' in page.text
        assert "还没有任何运行" in page.text
        assert page.headers["content-language"] == "zh-Hans"
        assert page.headers["vary"] == "Accept-Language, Cookie"
        assert "没有运行 &#39;gone&#39;" in http.get("/runs/gone").text
        assert "没有名为 &#39;gone&#39; 的模型" in http.get("/models/gone").text
        wrong = http.post("/new", data={"model": "lenet", "lr": "99", "epochs": "many"})
        assert wrong.status_code == 422
        assert "不能大于 10" in wrong.text
        assert "必须是整数" in wrong.text
        # The API is for scripts, in English whatever the browser is set to.
        error = http.get("/api/v1/runs/gone", headers={"accept": "application/json"}).json()["error"]
        assert error["message"] == "there is no run 'gone'"
    with _client(url) as http:
        assert '<html lang="en"' in http.get("/").text


def test_the_switch_is_kept_and_comes_back_to_the_page(url: str) -> None:
    with _client(url, **{"accept-language": "zh"}) as http:
        assert 'value="/new?model=alexnet"' in http.get("/new?model=alexnet").text
        answer = http.post("/language", data={"to": "en", "next": "/new?model=alexnet"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/new?model=alexnet")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert '<html lang="en"' in http.get("/new").text
        assert '<html lang="zh-Hans"' in http.get("/new", headers={"cookie": "trainyard_language=zh"}).text


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:1"]
)
def test_the_switch_leads_nowhere_else(url: str, target: str) -> None:
    with _client(url) as http:
        assert http.post("/language", data={"to": "zh", "next": target}).headers["location"] == "/"
        odd = http.post("/language", data={"to": "../../x", "next": "/new"})
        assert odd.status_code == 303
        assert "set-cookie" not in odd.headers
        foreign = http.post("/language", data={"to": "zh"}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403


def test_requests_at_the_same_time_keep_their_own_language(url: str) -> None:
    def ask(i: int) -> bool:
        language, tag = (("zh", "zh-Hans"), ("en", "en"))[i % 2]
        with _client(url, **{"accept-language": language}) as http:
            page = http.get(("/", "/new", "/nowhere")[i % 3]).text
        return f'<html lang="{tag}"' in page and ("跳到正文" in page) == (language == "zh")

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(120)))


def test_the_login_page_can_be_switched_before_signing_in(tmp_path: Path) -> None:
    with processes.redis_server(tmp_path) as redis:
        env = processes.trainyard_env(tmp_path, broker_url=redis.broker_url)
        env["TRAINYARD_TOKEN"] = "a-token-that-is-long-enough"
        processes.migrate(env)
        with processes.web_process(env, directory=tmp_path) as web, _client(web.url) as http:
            answer = http.post("/language", data={"to": "zh", "next": "/login"})
            assert answer.status_code == 303
            assert "令牌" in http.get("/login").text
            assert "这不是本服务器的令牌" in http.post("/login", data={"token": "wrong"}).text


def test_english_alone_never_loads_babel() -> None:
    code = "import sys, app.main; app.main.create_app(); print('babel' in sys.modules)"
    ended = processes.run_command([sys.executable, "-c", code])
    assert ended.stdout.strip() == "False", ended.stderr
