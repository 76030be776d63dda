"""What the pages' routes are handed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.db import Database
from app.settings import Settings
from app.web.render import app_settings, database


async def read_form(request: Request) -> dict[str, str]:
    """Texts of a posted form, the last of each name; files are left out."""
    form = await request.form(max_files=0, max_fields=200)
    return {name: value for name, value in form.multi_items() if isinstance(value, str)}


async def read_lists(request: Request) -> dict[str, list[str]]:
    """Texts of a posted form by name, as many as were sent; files are left out."""
    form = await request.form(max_files=0, max_fields=1_100)
    found: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            found.setdefault(name, []).append(value)
    return found


Db = Annotated[Database, Depends(database)]
AppSettings = Annotated[Settings, Depends(app_settings)]
Posted = Annotated[dict[str, str], Depends(read_form)]
PostedLists = Annotated[dict[str, list[str]], Depends(read_lists)]
