"""The examples of the README and the documentation do what they show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_page import blocks

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_EXAMPLES = [
    page for page in PAGES if {block.language for block in blocks(page.read_text())} & {"python", "pycon", "console"}
]
# What the pages take for granted: a root, data to bind, a place for results. Nobody else sees these.
PREPARE = """
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/busybox /srv/data /srv/out
cp -a "$1/." /srv/busybox
echo hello > /srv/data/hello.txt
shift
exec "$@"
"""


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_the_page_print_what_it_shows(page: Path, busybox_root: Path, root_user: None) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare (Debian: util-linux)")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", PREPARE, "sh", str(busybox_root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "100"}
    done = subprocess.run(
        [*command, sys.executable, str(RUNNER), str(page)],
        env=environment, capture_output=True, text=True, timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_of_the_guide_has_examples() -> None:
    names = {page.name for page in WITH_EXAMPLES}
    assert {"README.md", "quickstart.md", "how-it-works.md"} <= names
    assert {page.name for page in PAGES if page.name.startswith("guide-")} <= names
