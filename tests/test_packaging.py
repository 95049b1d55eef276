"""What is installed is whole, what is imported is little, and imports go downwards only."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontain

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pycontain.__file__).parent

NOT_SOURCES = (
    ".*", "build", "dist", "_build", "__pycache__", "*.py[cod]", "*.so", "*.egg-info", "_core.c",
)
BACKEND = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"

# From the bottom to the top; a module may import from its own line and those above it here.
LAYERS = (
    ("errors", "sizes", "standard_streams"),
    ("_native",),
    ("linux", "spec"),
    ("cgroups", "network", "limits", "metadata", "content", "layers"),
    ("snapshots", "registry"),
    ("images", "runtimes"),
    (
        "result", "streams", "task", "monitor", "defaults", "arguments", "resolve", "summary", "description",
        "privileged", "hardening", "image_root", "container",
    ),
    ("preflight", "terminal"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Each of these costs a part of the 30 ms that an import may take.
NOT_BY_IMPORT = (
    "attr", "attrs", "cffi", "_cffi_backend", "click", "ctypes", "inspect", "json", "pycontain._native._core",
    "threading",
)
NOT_BY_CONTAINER = (
    "asyncio", "argparse", "click", "ctypes", "json", "logging", "multiprocessing", "pathlib", "shutil", "subprocess",
    "tempfile", "urllib", "pycontain.preflight", "pycontain.cli",
)


# ---- what is installed

@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made from a copy of the tree and unpacked."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("these tests do not run in the project's tree")
    if shutil.which("gcc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("building needs gcc and the headers of Python (Debian: python3-dev)")
    directory = tmp_path_factory.mktemp("sdist")
    tree = directory / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_SOURCES), symlinks=True)
    build(tree, "build_sdist", directory)
    (archive,) = directory.glob("pycontain-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return next(path for path in directory.glob("pycontain-*") if path.is_dir())


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that the source distribution builds."""
    build(sdist, "build_wheel", sdist.parent)
    (path,) = sdist.parent.glob("pycontain-*.whl")
    return path


def build(tree: Path, what: str, into: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BACKEND, what, str(into)], cwd=tree, env={**os.environ, "PYTHONPATH": ""},
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_source_distribution_has_what_building_testing_and_documenting_need(sdist: Path) -> None:
    needed = (
        "setup.py", "noxfile.py", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "docs/conf.py", "benchmarks/floor.c",
    )
    assert not [name for name in needed if not (sdist / name).exists()]
    sources = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.c") if path.name != "_core.c"}
    assert sources <= {path.relative_to(sdist / "pycontain").as_posix() for path in (sdist / "pycontain").rglob("*.c")}


def test_one_wheel_is_for_every_python_from_3_10_on(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name


def test_the_wheel_has_everything_that_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    read = {
        path.relative_to(PACKAGE.parent).as_posix() for pattern in ("*.py", "*.bpf", "*.txt", "*.h")
        for path in PACKAGE.rglob(pattern)
    }
    assert {Path(name).suffix for name in read} == {".py", ".bpf", ".txt", ".h"}
    assert read <= names
    assert {"pycontain/py.typed", "pycontain/_native/_core.abi3.so", "pycontain/_native/_core.pyi"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith(".c") or not name.startswith("pycontain")]


def test_an_installed_wheel_runs_a_container(wheel: Path, tmp_path: Path, root_user: None) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        f"import pycontain; assert pycontain.__file__.startswith({str(tmp_path)!r}), pycontain.__file__\n"
        "print(pycontain.Container.from_host().run(['echo', 'inside'], check=True).text, end='')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )
    assert (done.stdout, done.stderr) == ("inside\n", "")


def test_the_version_of_the_package_is_the_version_of_the_project() -> None:
    assert f'version = "{pycontain.__version__}"' in (ROOT / "pyproject.toml").read_text()


# ---- what is imported

def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement` and not before."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_of_the_package_imports_nothing_else() -> None:
    assert not imported_by("import pycontain") & set(NOT_BY_IMPORT)


def test_a_container_needs_no_heavy_modules_but_those_of_attrs() -> None:
    needed = imported_by("from pycontain import Container; Container.from_host()") - imported_by("import attrs")
    assert not needed & set(NOT_BY_CONTAINER)


def test_every_public_name_can_be_imported() -> None:
    for name in pycontain.__all__:
        assert getattr(pycontain, name) is not None
    assert set(dir(pycontain)) == set(pycontain.__all__)


# ---- layers

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_module_imports_from_no_layer_above_it(path: Path) -> None:
    own = layer_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    above = [f"line {line}: {name}" for line, name in imports_of(path) if layer_of(name.split(".")[1]) > own]
    assert not above, above


def layer_of(name: str) -> int:
    assert name in RANK, f"{name} belongs to no layer: add it to LAYERS and to docs/architecture.md"
    return RANK[name]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each module of pycontain that a module imports, also within functions.

    What only type checkers see may point upwards."""
    tree = ast.parse(path.read_text())
    for_types = {
        child for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("pycontain."))
        elif isinstance(node, ast.ImportFrom) and node.module == "pycontain":
            for alias in node.names:
                if not alias.name.startswith("__"):
                    yield node.lineno, f"pycontain.{pycontain._MODULE_OF.get(alias.name, alias.name)}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pycontain."):
            yield node.lineno, str(node.module)
