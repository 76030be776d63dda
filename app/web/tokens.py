"""The page of tokens: who may do what, a new one shown once, and an end to one, for administrators."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlmodel import Session
from starlette.responses import RedirectResponse, Response

from app import tokens
from app.access import Caller
from app.actor import actor
from app.errors import TrainyardError
from app.listing import iso
from app.models import Token
from app.scopes import Scope
from app.web import formats
from app.web.contexts import NewSecret, TokenRow, TokensPage
from app.web.deps import Db, Posted
from app.web.forms import Choice
from app.web.i18n import N_, _, sentence
from app.web.login import set_session
from app.web.render import access, caller, local_url, render

router = APIRouter()

SCOPES = {
    Scope.READ: (N_("Read"), N_("see every run, curve and comparison; change nothing")),
    Scope.SUBMIT: (
        N_("Submit"),
        N_("also start, cancel, pause, resume and tag runs, and log metrics from scripts"),
    ),
    Scope.ADMIN: (N_("Admin"), N_("also delete runs, drain workers and manage tokens")),
}
KINDS = {tokens.TOKEN: N_("Token"), tokens.PASSWORD: N_("Password")}
STATES = {"active": N_("active"), "expired": N_("expired"), "revoked": N_("revoked")}
LIVES = {
    "7": N_("7 days"),
    "30": N_("30 days"),
    "90": N_("90 days"),
    "365": N_("a year"),
    "": N_("until it is revoked"),
}
USUAL_DAYS = "90"


@router.get("/tokens", name="page_tokens")
def tokens_page(
    request: Request, db: Db, revoke: Annotated[str | None, Query(max_length=32)] = None
) -> Response:
    """With `revoke`, asks before that token is revoked."""
    with db.read() as s:
        return render(request, _page(request, s, revoke=revoke))


@router.post("/tokens", name="make_token")
def make_token(request: Request, db: Db, posted: Posted) -> Response:
    """The page with the new token on it, this once."""
    typed = {name: posted.get(name, "") for name in ("name", "scope", "days")}
    scope = Scope(typed["scope"]) if typed["scope"] in list(Scope) else Scope.SUBMIT
    if not _is_signed_in(request):
        scope = (
            Scope.ADMIN
        )  # the first: from then on everybody needs one, and somebody has to make the others
    days = float(typed["days"]) if typed["days"] in LIVES and typed["days"] else None
    try:
        with db.begin() as s:
            made = tokens.create_token(s, typed["name"], scope, actor(), days)
    except TrainyardError as error:
        with db.read() as s:
            page = _page(request, s, typed=typed, error=sentence(error.message))
        return render(request, page, error.status)
    first = not _is_signed_in(request)
    access(request).refresh()
    with db.read() as s:
        answer = render(request, _page(request, s, made=NewSecret(made.token.name, made.secret, first)), 201)
    if first:  # whoever made it goes on working
        set_session(request, answer, Caller(scope, made.token.name, made.token.id))
    return answer


@router.post("/tokens/{token_id}/revoke", name="do_revoke")
def revoke_token(request: Request, token_id: str, db: Db) -> Response:
    with db.begin() as s:
        tokens.revoke(s, [tokens.get_token(s, token_id)])
    access(request).refresh()
    return RedirectResponse(local_url(request, "page_tokens"), 303)


def _is_signed_in(request: Request) -> bool:
    asks = caller(request)
    return asks is not None and asks.token_id is not None


def _page(
    request: Request,
    s: Session,
    *,
    revoke: str | None = None,
    made: NewSecret | None = None,
    typed: dict[str, str] | None = None,
    error: str = "",
) -> TokensPage:
    typed = typed or {"name": "", "scope": Scope.SUBMIT, "days": USUAL_DAYS}
    is_open = not access(request).is_wanted
    at = time.time()
    rows = [_row(request, token, at) for token in tokens.list_tokens(s)]
    offered = [Scope.ADMIN] if is_open else list(Scope)
    chosen = Scope.ADMIN if is_open else typed["scope"]
    return TokensPage(
        is_open=is_open,
        made=made,
        asked=next((row for row in rows if row.id == revoke and row.state != "revoked"), None),
        rows=[row for row in rows if row.state != "revoked"],
        revoked=[row for row in rows if row.state == "revoked"],
        name=typed["name"],
        error=error,
        scopes=[Choice(one, _(SCOPES[one][0]), one == chosen, _(SCOPES[one][1])) for one in offered],
        lives=[Choice(days, _(title), days == typed["days"]) for days, title in LIVES.items()],
    )


def _row(request: Request, token: Token, at: float) -> TokenRow:
    state = tokens.state_of(token, at)
    asks = caller(request)
    return TokenRow(
        id=token.id,
        name=token.name,
        kind=_(KINDS[token.kind]),
        prefix=f"{token.prefix}…" if token.prefix else "",
        scope=_(SCOPES[Scope(token.scope)][0]),
        state=state,
        state_title=_(STATES[state]),
        made=_("{ago} by {actor}").format(
            ago=formats.ago(token.created_at, at), actor=sentence(token.created_by)
        ),
        used=formats.ago(token.last_used_at, at) if token.last_used_at else _("never"),
        used_at=iso(token.last_used_at) or "",
        expires=_expiry(token, at),
        ended=formats.ago(token.revoked_at, at),
        is_mine=asks is not None and asks.token_id == token.id,
    )


def _expiry(token: Token, at: float) -> str:
    if token.expires_at is None:
        return _("no date")
    if token.expires_at <= at:
        return formats.ago(token.expires_at, at)
    return _("in {time}").format(time=formats.duration(token.expires_at - at))
