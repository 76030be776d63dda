"""Files that runs produced: predictions from the database, checkpoints from the run's folder; validation images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi import Path as InPath
from starlette.responses import FileResponse

from app import artifacts, listing, runs
from app.api.deps import AppSettings, Db
from app.errors import NotFound
from app.folders import find_file
from app.images import read_image, to_png
from app.models import Run

router = APIRouter(prefix="/api/v1", tags=["artifacts"])

Json = dict[str, Any]
FOREVER = "private, max-age=31536000, immutable"


@router.get("/runs/{run_id}/artifacts", summary="Files that a run produced")
def list_artifacts(run_id: str, db: Db, settings: AppSettings) -> Json:
    """Predictions of its evaluations, and the checkpoints that it could go on from.

    `available` is false for a checkpoint that lies on another host than this web process.
    """
    with db.read() as s:
        run = runs.get_run(s, run_id)
        stored = artifacts.list_artifacts(s, [run_id])[run_id]
    listed = [
        {
            "name": one.name,
            "kind": one.kind,
            "step": one.step,
            "epoch": one.epoch,
            "media_type": one.media_type,
            "size_bytes": one.size_bytes,
            "sha256": one.sha256,
            "created_at": listing.iso(one.created_at),
            "available": True,
            "url": f"/api/v1/runs/{run_id}/artifacts/{one.name}",
        }
        for one in stored
    ]
    return {"artifacts": [*listed, *(_checkpoint(run, p, settings.runs_dir) for p in _pointers(run))]}


@router.get(
    "/runs/{run_id}/artifacts/{name}",
    summary="Download a file",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_artifact(run_id: str, name: str, db: Db, settings: AppSettings) -> Response:
    """The names are those of the list; `docs/architecture.md` describes the format of predictions.

    Checkpoints are PyTorch files: read them with `torch.load(..., weights_only=True)`.
    """
    with db.read() as s:
        run = runs.get_run(s, run_id)
        stored = artifacts.read_artifact(s, run_id, name)
    if stored is not None:
        headers = {
            "content-disposition": f'attachment; filename="{stored.name}"',
            "etag": f'"{stored.sha256}"',
        }
        return Response(stored.content, media_type=stored.media_type, headers=headers)
    for pointer in _pointers(run):
        found = find_file(settings.runs_dir, run.id, pointer["file"]) if pointer["file"] == name else None
        if found is not None:
            path, status = found
            return FileResponse(
                path, media_type="application/octet-stream", filename=path.name, stat_result=status
            )
    raise NotFound(
        f"run {run_id} has no artifact {name[:200]!r} here; GET .../artifacts lists what it has", "name"
    )


@router.get(
    "/validation/{digest}/{index}.png",
    summary="An image of a validation set",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def get_image(
    digest: Annotated[str, InPath(pattern="^[0-9a-f]{16}$")],
    index: Annotated[int, InPath(ge=0, le=100_000_000)],
    settings: AppSettings,
) -> Response:
    """`digest` is a run's `resolved.val_digest`. 404 where this host's trainers never had the data set."""
    image = read_image(settings.images_dir, digest, index)
    if image is None:
        raise NotFound("this image is not on the host of the web process")
    return Response(to_png(image), media_type="image/png", headers={"cache-control": FOREVER})


def _pointers(run: Run) -> list[Json]:
    """The newest checkpoint, and the one before it."""
    newest = run.checkpoint
    return [pointer for pointer in (newest, (newest or {}).get("previous")) if pointer]


def _checkpoint(run: Run, pointer: Json, runs_dir: Path) -> Json:
    # None on another host, or when a newer one has replaced it.
    found = find_file(runs_dir, run.id, pointer["file"])
    status = found.status if found else None
    return {
        "name": pointer["file"],
        "kind": "checkpoint",
        "step": pointer["step"],
        "epoch": pointer["epoch"],
        "media_type": "application/octet-stream",
        "size_bytes": status.st_size if status else None,
        "sha256": pointer["sha256"],
        "created_at": listing.iso(status.st_mtime) if status else None,
        "available": status is not None,
        "url": f"/api/v1/runs/{run.id}/artifacts/{pointer['file']}",
    }
