"""Signing in and the page of tokens in a real Chromium: both languages, wide and narrow, with and without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from app import tokens
from app.db import Database
from app.scopes import Scope
from tests.browser import no_sideways_scroll
from tests.processes import migrate, redis_server, trainyard_env, web_process
from tests.test_tour import judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOOKS = [("en-GB", 1440, "light"), ("zh-CN", 390, "dark"), ("en-GB", 390, "light"), ("zh-CN", 1440, "dark")]
WORDS = {
    "en-GB": {
        "sign in": "Sign in", "sign out": "Sign out", "wrong": "That is not a token", "copied": "Copied",
        "make": "Make the token",
        "revoke": "Revoke", "revoke it": "Revoke it", "tokens": "Tokens", "forbidden": "this needs the scope admin",
        "look": "You may look",
    },
    "zh-CN": {
        "sign in": "登录", "sign out": "退出", "wrong": "这不是本服务器的令牌", "copied": "已复制", "make": "创建令牌",
        "revoke": "撤销", "revoke it": "撤销", "tokens": "令牌", "forbidden": "这需要权限 admin", "look": "您可以查看",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    url: str
    admin: str
    reader: str
    run: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with redis_server(directory) as redis:
        env = trainyard_env(directory, broker_url=redis.broker_url)
        migrate(env)
        database = Database(f"sqlite:///{directory / 'trainyard.db'}")
        with database.begin() as s:
            admin = tokens.create_token(s, "admin", Scope.ADMIN, "tests").secret
            reader = tokens.create_token(s, "看板", Scope.READ, "tests", days=30).secret
            tokens.revoke(s, [tokens.create_token(s, "gone", Scope.SUBMIT, "tests").token])
        database.dispose()
        with web_process(env, directory=directory) as web:
            headers = {"authorization": f"Bearer {admin}"}
            with httpx.Client(base_url=web.url, headers=headers, trust_env=False) as http:
                run = http.post("/api/v1/runs", json={"external": True, "name": "shown"}).json()["id"]
            yield Site(web.url, admin, reader, run)


def open_context(browser: Browser, locale: str, width: int, scheme: Any, **more: Any) -> BrowserContext:
    return browser.new_context(
        locale=locale,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        reduced_motion="reduce",
        **more,
    )


def sign_in(page: Page, site: Site, secret: str, path: str = "/") -> None:
    page.goto(site.url + path)
    page.wait_for_url("**/login?**")
    page.locator("#token").fill(secret)
    page.locator("form.login button").click()


def check(page: Page) -> None:
    """Nothing is wider than the screen, and axe-core has nothing to say."""
    assert no_sideways_scroll(page)
    assert judge(page) == []


@pytest.mark.parametrize(("locale", "width", "scheme"), LOOKS)
def test_an_administrator_signs_in_makes_a_token_and_revokes_it(
    browser: Browser, site: Site, locale: str, width: int, scheme: str
) -> None:
    words = WORDS[locale]
    context = open_context(browser, locale, width, scheme)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    page = context.new_page()
    sign_in(page, site, "nonsense", "/workers")
    expect(page.locator("#token-error")).to_contain_text(words["wrong"])
    expect(page.locator("#token")).to_be_focused()
    check(page)
    page.locator("#token").fill(site.admin)
    page.keyboard.press("Enter")
    page.wait_for_url("**/workers")

    page.get_by_role("link", name=words["tokens"], exact=True).first.click()
    tokens_there = page.locator(".tokens tbody tr")
    for there, count in (("admin", 1), ("看板", 1), ("gone", 0)):
        expect(tokens_there.filter(has_text=there)).to_have_count(count)
    check(page)
    name = f"{locale}-{width}"
    page.locator("#token-name").fill(name)
    page.get_by_role("button", name=words["make"]).click()
    secret = page.locator("[data-secret] input").input_value()
    assert re.fullmatch(r"ty_[\w-]{43}", secret)
    page.locator("[data-copy]").click()
    expect(page.locator("[data-copy]")).to_have_text(words["copied"])
    assert page.evaluate("navigator.clipboard.readText()") == secret
    check(page)
    headers = {"authorization": f"Bearer {secret}"}
    assert httpx.get(f"{site.url}/api/v1/queue", headers=headers, trust_env=False).status_code == 200

    row = page.locator(".tokens tbody tr", has_text=name)
    row.get_by_role("link", name=words["revoke"]).click()
    revoke_it = page.get_by_role("button", name=words["revoke it"], exact=True)
    expect(revoke_it).to_be_visible()
    check(page)
    revoke_it.click()
    page.wait_for_url("**/tokens")
    expect(page.locator(".tokens tbody tr", has_text=name)).to_have_count(0)
    assert httpx.get(f"{site.url}/api/v1/queue", headers=headers, trust_env=False).status_code == 401
    page.get_by_role("button", name=words["sign out"]).click()
    page.wait_for_url("**/login")
    context.close()


@pytest.mark.parametrize(("locale", "width", "scheme"), LOOKS[:2])
def test_a_reader_sees_why_there_is_nothing_to_press(
    browser: Browser, site: Site, locale: str, width: int, scheme: str
) -> None:
    words = WORDS[locale]
    context = open_context(browser, locale, width, scheme)
    page = context.new_page()
    sign_in(page, site, site.reader, f"/runs/{site.run}")
    page.wait_for_url("**/runs/**")
    expect(page.locator(".actions")).to_contain_text(words["look"])
    expect(page.locator(".actions button")).to_have_count(0)
    page.goto(f"{site.url}/new")
    for button in page.locator("form[method=post] button.primary").all():
        expect(button).to_be_disabled()
    check(page)
    page.goto(f"{site.url}/")
    expect(page.locator("[data-bulk-action]")).to_have_count(0)
    page.locator('[data-compare-form] input[name="run"]').first.check()
    expect(page.locator("[data-compare-button]")).to_be_enabled()
    answer = page.goto(f"{site.url}/tokens")
    assert answer is not None
    assert answer.status == 403
    expect(page.locator("main")).to_contain_text(words["forbidden"])
    check(page)
    context.close()


def test_a_page_whose_token_is_revoked_asks_for_another(browser: Browser, site: Site) -> None:
    with httpx.Client(
        base_url=site.url, headers={"authorization": f"Bearer {site.admin}"}, trust_env=False
    ) as admin:
        made = admin.post("/api/v1/tokens", json={"name": "leaver", "scope": "read"}).json()
        context = open_context(browser, "en-GB", 1440, "light")
        page = context.new_page()
        sign_in(page, site, made["secret"])
        expect(page.locator("[data-connection]")).to_have_attribute("data-state", "live")
        admin.delete(f"/api/v1/tokens/{made['id']}")
        page.wait_for_url("**/login?**", timeout=60_000)
        context.close()


def test_tokens_are_managed_without_scripts(browser: Browser, site: Site) -> None:
    context = open_context(browser, "en-GB", 1440, "light", java_script_enabled=False)
    page = context.new_page()
    sign_in(page, site, site.admin, "/tokens")
    page.locator("#token-name").fill("plain")
    page.locator("#token-days").select_option("")
    page.locator(".token-form button").click()
    assert page.locator("[data-secret] input").get_attribute("value", timeout=10_000)
    expect(page.locator("[data-copy]")).to_be_hidden()
    page.locator(".tokens tbody tr", has_text="plain").get_by_role("link").click()
    page.get_by_role("button", name="Revoke it").click()
    page.wait_for_url("**/tokens")
    expect(page.locator(".tokens tbody tr", has_text="plain")).to_have_count(0)
    context.close()
