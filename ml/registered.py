"""The data sets that the operator of this host registered: a folder each, with a manifest that says what is in it.

    DATASETS_DIR/registered/flowers/manifest.json, train_images.npy, train_labels.npy, val_images.npy, val_labels.npy

`ml.registrar` writes such a folder, `ml.data` reads its arrays; everyone else needs the manifest alone, and no torch.
A folder that was copied from another host is as good as one that was written here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = "registered"
MANIFEST = "manifest.json"
ARRAYS = ("train_images", "train_labels", "val_images", "val_labels")

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME = 40
MAX_CLASSES = 1_000
SIDES = range(4, 513)
MAX_IMAGES = 10_000_000
MAX_MANIFEST_BYTES = 1_000_000
SETTLED_S = 2.0  # file systems tell times in ticks: a folder that changed so lately may change again unseen

# C0 and C1, line separators, and the marks that turn the direction of text.
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def check_text(text: str) -> str:
    """The text, which a page can show. Raises: ValueError."""
    if not text.strip():
        raise ValueError("must not be empty")
    if HIDDEN.search(text):
        raise ValueError(
            "must not contain line breaks, other control characters or marks that turn the direction of text"
        )
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is no text
        raise ValueError("must be text in UTF-8") from None
    return text


def check_name(name: str) -> str:
    """The name, which is a folder's and stands in specs. Raises: ValueError."""
    if len(name) > MAX_NAME or not NAME.fullmatch(name):
        raise ValueError(
            f"must be small letters and digits with single hyphens between, at most {MAX_NAME}, such as flowers-32"
        )
    return name


Text = Annotated[str, Field(max_length=100), AfterValidator(check_text)]
Side = Annotated[int, Field(ge=SIDES.start, lt=SIDES.stop)]
Count = Annotated[int, Field(ge=1, le=MAX_IMAGES)]


class Manifest(BaseModel):
    """What a registered data set is.

    `shape` is (channels, height, width). `digest` is the SHA-256 of the four arrays' bytes in the order of ARRAYS,
    labels as int64; its first 16 digits are those that a run stores of its data. `split`: the validation images came
    with it ("own"), or were drawn from the training images when it was registered ("drawn").
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    name: Annotated[str, AfterValidator(check_name)]
    title: Text
    shape: tuple[Literal[1, 3], Side, Side]
    classes: Annotated[int, Field(ge=2, le=MAX_CLASSES)]
    class_names: tuple[Text, ...] = ()
    train_size: Count
    val_size: Count
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    source: Literal["image folder", "npz", "npy"]
    split: Literal["own", "drawn"]
    added_at: Annotated[str, Field(max_length=40)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")
        return self


class Registered(NamedTuple):
    """What the folder holds: manifests by name, and why others cannot be used."""

    manifests: Mapping[str, Manifest]
    damaged: Mapping[str, str]


NOTHING = Registered(MappingProxyType({}), MappingProxyType({}))


class Registry:
    """The registered data sets under a datasets folder, read again when one was added or removed."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._changed_ns = -1
        self._found = NOTHING

    def read(self) -> Registered:
        """What is there now; costs one `stat` when nothing has changed."""
        try:
            changed_ns = self.folder.stat().st_mtime_ns
        except OSError:
            return NOTHING
        if changed_ns != self._changed_ns:
            self._found = read_registered(self.folder)
            settled = abs(time.time() - changed_ns / 1e9) > SETTLED_S
            self._changed_ns = changed_ns if settled else -1
        return self._found


def read_registered(folder: Path) -> Registered:
    """Every data set in `folder`; what begins with a dot is being written or removed."""
    manifests: dict[str, Manifest] = {}
    damaged: dict[str, str] = {}
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        return Registered({}, {folder.name: f"{folder} cannot be read ({error.strerror})"})
    for name in names:
        try:
            manifests[name] = read_manifest(folder / name)
        except FileNotFoundError:
            if (folder / name).is_dir():  # otherwise it went away meanwhile, or is none
                damaged[name] = f"{folder / name / MANIFEST} is not there"
        except (OSError, ValueError) as error:
            damaged[name] = str(error)
    return Registered(manifests, damaged)


def read_manifest(folder: Path) -> Manifest:
    """Raises: ValueError, naming the file, when it is not one of this folder; OSError."""
    path = folder / MANIFEST
    with path.open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{path} is too long for a manifest")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"{path} is damaged ({place}: {first['msg']})") from None
    if manifest.name != folder.name:
        raise ValueError(f"{path} is the manifest of {manifest.name!r}, not of this folder")
    return manifest
