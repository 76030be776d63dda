"""Every requirement of docs/security.md has the tests that it names; and what no source file may hold, none does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from tests.processes import ROOT

REQUIREMENTS = [
    f"R{threat}.{number}"
    for threat, count in enumerate((5, 5, 4, 4, 1, 5, 2, 1, 6, 2), 1)
    for number in range(1, count + 1)
]
SOURCES = ("app", "ml", "worker", "trainyard", "migrations", "benchmarks")
# What an attacker's text or file would be run by, and where each may stand all the same.
NEVER = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load", "joblib.load",
    "os.system", "os.popen", "shelve.open", "shutil.unpack_archive", "dill.loads",
    "cloudpickle.loads", "torch.jit.load", "torch.hub.load", "numpy.f2py",
}  # fmt: skip
PICKLE = {
    "ml/npy.py",  # its Unpickler, which makes arrays alone
    "ml/weights.py",  # the name of an error
}
ARCHIVES = {
    "app/backup.py", "app/restore.py",  # which writes members itself, past tarfile.data_filter
    "ml/cifar.py",  # which asks an archive of known MD5 for files by torchvision's names of them, and writes no other
    "ml/npz.py",  # which writes no file, and counts what members unpack to against a bound (tests/test_registered.py)
}  # fmt: skip
# The web process opens files in these functions; none takes a name from a request but find_file and delete_folder.
OPENS = {
    ("app/folders.py", "find_file"), ("app/folders.py", "delete_folder"),
    ("app/images.py", "_map"), ("app/images.py", "save_images"),
    ("app/api/artifacts.py", "get_artifact"),  # what find_file found
    ("app/web/system.py", "favicon"), ("app/web/i18n.py", "load"),
    ("app/web/modules.py", "imported"),  # names that our own scripts hold
    ("app/api/monitoring.py", "_disk"),  # how full the data directory is
}  # fmt: skip
OPENERS = {
    "open", "os.open", "FileResponse", "np.load", "numpy.load", "read_bytes", "read_text", "write_bytes", "write_text",
    "unlink", "rmtree", "shutil.rmtree", "os.remove", "os.unlink", "os.replace", "rename", "mkdir", "Path",
}  # fmt: skip


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders or SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# -- the table -------------------------------------------------------------------------------------------------------


def table() -> dict[str, str]:
    """The cells of each requirement's row in docs/security.md, by its number."""
    rows = re.findall(r"^\| (R\d+\.\d+) \|(.*)\|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a requirement has two rows"
    return dict(rows)


def test_every_requirement_has_its_row() -> None:
    assert list(table()) == REQUIREMENTS


@pytest.mark.parametrize("number", REQUIREMENTS)
def test_the_code_and_the_tests_of_a_requirement_are_there(number: str) -> None:
    *_, code, tests = table()[number].split("|")
    for path in re.findall(r"`([\w/]+\.(?:py|yml|txt|html|js))`", code):
        assert (ROOT / path).exists(), path
    named = re.findall(r"`([\w/]+)::(\w+)`", tests)
    assert named or "later" in tests, "name a test, or say why there is none"
    for file, name in named:
        text = (ROOT / "tests" / f"{file}.py").read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"


# -- what no source file holds ---------------------------------------------------------------------------------------


def test_nothing_is_run_that_came_as_text_or_bytes() -> None:
    for path, tree in sources():
        for name, call in calls(tree):
            assert name not in NEVER, f"{path}:{call.lineno} calls {name}"
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert given.get("shell", "False") == "False", f"{path}:{call.lineno} starts a shell"
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"
            if name.endswith("torch.load"):
                assert given.get("weights_only") == "True", f"{path}:{call.lineno}"
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert path in PICKLE or not imported & {
            "pickle",
            "dill",
            "cloudpickle",
            "joblib",
            "marshal",
            "shelve",
        }, path
        assert path in ARCHIVES or not imported & {"tarfile", "zipfile"}, f"{path}: refuse what leads outside"
        assert not {name for name, _ in calls(tree) if name.endswith((".extractall", ".extract"))}, path


def test_files_are_opened_in_few_functions_of_the_web_process() -> None:
    """Those of app.api and app.web; settings, migrations and commands are the operator's."""
    for path, tree in sources("app/api", "app/web"):
        if path in ("app/web/translations.py",):  # a command of ours
            continue
        for function in [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]:
            for name, call in calls(function):
                last = name.rpartition(".")[2]
                if name in OPENERS or (last in OPENERS and last not in ("Path", "open")) or last == "open":
                    assert (path, function.name) in OPENS, (
                        f"{path}:{call.lineno} {function.name} calls {name}"
                    )


def test_the_web_process_has_no_client_of_its_own() -> None:
    """R7.1: nothing in it reaches out because of a request; the audit hook of the other tests sees that it does not."""
    for path, tree in sources("app"):
        if path.startswith("app/doctor/"):  # a command: it asks the web process
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                forbidden = (
                    "httpx",
                    "requests",
                    "aiohttp",
                    "urllib.request",
                    "http.client",
                    "ftplib",
                    "smtplib",
                )
                assert not name.startswith(forbidden), f"{path} imports {name}"


def test_the_quarantine_of_these_tests_works(tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    env = {
        "PYTHONPATH": str(Path(__file__).parent / "quarantine"),
        "QUARANTINE_NOTES": str(tmp_path / "notes"),
    }
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "quarantine: 192.0.2.1" in ended.stderr
    assert "192.0.2.1" in (tmp_path / "notes").read_text()


# -- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("starlette", "0.49.1"),  # CVE-2025-62727: ranges in quadratic time
        ("python-multipart", "0.0.18"),  # CVE-2024-53981: a form's boundary
        ("torch", "2.10"),  # CVE-2025-32434, CVE-2026-24747: weights_only
        ("celery", "5.6"),
        ("kombu", "5.4"),  # workers that forgot their queue after Redis came back
        ("jinja2", "3.1.6"),  # CVE-2025-27516
        ("h11", "0.16"),  # CVE-2025-43859: chunked bodies
        ("pillow", "11.3"),  # CVE-2025-48379
        ("redis", "5.0"),
    ],
)
def test_no_version_with_a_known_hole_is_installed(name: str, floor: str) -> None:
    pinned = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE)
    )
    assert Version(pinned[name]) >= Version(floor)
