"""Tokens: list them, make one, revoke one. All of it needs the scope admin."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from app import tokens
from app.access import describe
from app.actor import actor
from app.api.bodies import Body
from app.api.deps import AccessBook, Db, Who
from app.errors import Invalid
from app.scopes import Scope

router = APIRouter(prefix="/api/v1", tags=["tokens"])

Json = dict[str, Any]


class TokenBody(Body):
    """A token to make; `expires_in_days` left out: good until it is revoked."""

    name: Annotated[str, Field(max_length=200, description="Who uses it, such as alice-laptop.")]
    scope: Annotated[Scope, Field(strict=False, description="Each has the rights of those before it.")]
    expires_in_days: Annotated[float, Field(gt=0, le=tokens.MAX_DAYS, allow_inf_nan=False)] | None = None


@router.get("/tokens", summary="Tokens and passwords, without their secrets")
def list_tokens(db: Db) -> Json:
    """Those in force first, then those that were revoked."""
    with db.read() as s:
        found = tokens.list_tokens(s)
    at = time.time()
    return {"tokens": [describe(token, at) for token in found]}


@router.post("/tokens", status_code=201, summary="Make a token")
def create_token(body: TokenBody, response: Response, db: Db, access: AccessBook, who: Who) -> Json:
    """The answer has the token itself as `secret`, and is the only one that ever does.

    The first token of an installation must have the scope admin: from then on everybody needs one.
    """
    with db.begin() as s:
        if body.scope is not Scope.ADMIN and who.token_id is None:
            raise Invalid(
                "the first token must have the scope admin: from then on everybody needs one", "scope"
            )
        made = tokens.create_token(s, body.name, body.scope, actor(), body.expires_in_days)
    access.refresh()
    response.headers["cache-control"] = "no-store"
    return {**describe(made.token, time.time()), "secret": made.secret}


@router.delete("/tokens/{token_id}", status_code=204, summary="Revoke a token or password")
def revoke_token(token_id: str, db: Db, access: AccessBook) -> None:
    """It opens nothing from the next second or two on, in every web process. Revoking twice is no error."""
    with db.begin() as s:
        tokens.revoke(s, [tokens.get_token(s, token_id)])
    access.refresh()
