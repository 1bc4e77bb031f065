"""Everything that README.md and docs/ show is run: Python on a real terminal, commands in a real shell.

In the documents the service is ``https://service.example/``, its CA ``ca.pem``, and the token ``dev``. Here they are a
server, a file and a SoftHSM token. A line of expected output may leave things out with ``...``. A block that can not be
run says why, in a comment before it: ``<!-- not run: REASON -->``; ``<!-- pytest -->`` marks a test file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

from tokenauth.testing import MTLSServer, SoftToken

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "softhsm" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [page for page in PAGES if page.parent.name != "softhsm"]  # softhsm/ is tried by its own scripts
SERVICE = "https://service.example/"
#: What differs from run to run.
VARIABLE = [(r"serial[= ][0-9a-f]{16}", "SERIAL"), (r"slot \d+", "SLOT"), (r"\d{4}-\d\d-\d\d", "DATE")]
BLOCK = re.compile(r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.xdist_group("docs")


class Block(NamedTuple):
    page: str
    kind: str
    note: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(page.relative_to(ROOT).as_posix(), match["kind"], match["note"] or "", match["text"])
        for page in RUN
        for match in BLOCK.finditer(page.read_text())
    ]


def chosen(kind: str, note: str = "") -> list:
    found = [block for block in blocks() if (block.kind, block.note) == (kind, note)]
    return [pytest.param(block, id=f"{block.page}-{number}") for number, block in enumerate(found)]


class Place(NamedTuple):
    """A directory and an environment in which the documents are true."""

    directory: Path
    environment: dict[str, str]
    url: str
    pin: str

    def adapt(self, text: str) -> str:
        return text.replace(SERVICE, self.url)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("docs")
    with SoftToken("dev") as token:
        token.add_identity("server", purposes=("tls-server",), names=("localhost",))
        with MTLSServer(token.ca) as server:
            (directory / "ca.pem").write_bytes(token.ca.pem)
            (directory / "pin").write_text(token.pin)
            environment = {name: os.environ[name] for name in ("HOME", "LANG", "SOFTHSM2_CONF") if name in os.environ}
            environment |= {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "TOKENAUTH_MODULE": token.module,
                "TOKENAUTH_PIN_SOURCE": f"file:{directory / 'pin'}",
                "CARD_PIN": token.pin,
            }
            yield Place(directory, environment, server.url, token.pin)


def run_on_terminal(place: Place, script: Path, *arguments: str) -> str:
    """Run a script on a terminal of its own, and enter the PIN when it is asked for."""
    child = pexpect.spawn(
        sys.executable,
        [str(script), *arguments],
        cwd=place.directory,
        env=place.environment,
        timeout=30,
        encoding="utf-8",
    )
    seen = ""
    while child.expect([r"PIN[^\n]*: ", pexpect.EOF]) == 0:
        seen += str(child.before)
        child.sendline(place.pin)
    seen += str(child.before)
    child.close()
    assert child.exitstatus == 0, seen
    assert place.pin not in seen
    return seen


@pytest.mark.parametrize("block", chosen("python"))
def test_python(block, place, tmp_path):
    script = tmp_path / "example.py"
    script.write_text(place.adapt(block.text))
    run_on_terminal(place, script)


@pytest.mark.parametrize("block", chosen("python", "pytest"))
def test_pytest(block, place, tmp_path):
    (tmp_path / "test_example.py").write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=place.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def steps(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a transcript, each with the lines it is to print."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip() not in {"", "..."}:
            found[-1][1].append(line)
    return found


def normal(text: str) -> str:
    for pattern, name in VARIABLE:
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.parametrize("block", chosen("console"))
def test_console(block, place):
    for command, expected in steps(place.adapt(block.text)):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=place.directory,
            env=place.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert expected or done.returncode == 0, done.stdout
        assert "Traceback" not in done.stdout
        assert place.pin not in done.stdout
        for line in expected:
            pattern = ".*".join(map(re.escape, normal(line).split("...")))
            assert re.search(f"^{pattern}", normal(done.stdout), re.M), f"{line!r} is not in\n{done.stdout}"


def test_demo():
    environment = {name: value for name, value in os.environ.items() if name != "SOFTHSM2_CONF"}
    command = [sys.executable, "-m", "tokenauth", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    shown = re.search(r"\$ tokenauth demo\n(.*?)\n   \.\.\.", (ROOT / "README.md").read_text(), re.S)
    assert shown is not None
    variable = [*VARIABLE, (r"localhost:\d+", "SERVER")]
    for line in shown[1].splitlines():
        expected, seen = line, done.stdout
        for pattern, name in variable:
            expected, seen = re.sub(pattern, name, expected), re.sub(pattern, name, seen)
        assert expected in seen


def test_every_block_is_run_or_says_why_not():
    known = {("python", ""), ("python", "pytest"), ("console", "")}
    for block in blocks():
        assert (block.kind, block.note) in known or block.note.startswith("not run: "), block


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
