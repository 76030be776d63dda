"""What routes are handed: the database, the hub and the settings of this application."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from app.access import Access, Caller
from app.api.answers import AnswerCache
from app.briefs import BriefCache
from app.db import Database
from app.live import Hub
from app.security import CALLER
from app.settings import Settings


def get_db(request: Request) -> Database:
    return cast(Database, request.app.state.db)


def get_hub(request: Request) -> Hub:
    return cast(Hub, request.app.state.hub)


def get_briefs(request: Request) -> BriefCache:
    return cast(BriefCache, request.app.state.briefs)


def get_answers(request: Request) -> AnswerCache:
    return cast(AnswerCache, request.app.state.answers)


def get_app_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def get_caller(request: Request) -> Caller:
    """Who asks; the guard let nobody else through to a route that wants to know."""
    return cast(Caller, request.scope[CALLER])


def get_access(request: Request) -> Access:
    return cast(Access, request.app.state.access)


Who = Annotated[Caller, Depends(get_caller)]
AccessBook = Annotated[Access, Depends(get_access)]
Db = Annotated[Database, Depends(get_db)]
Briefs = Annotated[BriefCache, Depends(get_briefs)]
Answers = Annotated[AnswerCache, Depends(get_answers)]
LiveHub = Annotated[Hub, Depends(get_hub)]
AppSettings = Annotated[Settings, Depends(get_app_settings)]
