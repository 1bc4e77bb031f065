"""Everything that README.md and docs/ show is run, as tests/support/docs.py says, and what they list is complete."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

import tokenauth
from tests.support import docs
from tokenauth import signing
from tokenauth.cli import failures
from tokenauth.cli.root import cli
from tokenauth.doctor.environment import _VARIABLES
from tokenauth.provisioning.keys import KEY_TYPES


@pytest.fixture
def place(request, tmp_path_factory):
    text = (docs.ROOT / request.node.callspec.params["page"]).read_text()
    with docs.made(tmp_path_factory.mktemp("home"), with_documents="tokenauth sign" in text) as made:
        yield made


def run_console(block, place, _directory):
    steps = [part.partition("\n") for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]]
    commands = [command for command, _, _ in steps]
    done = place.shell([place.adapt(command) for command in commands])
    assert len(done) == len(steps)
    for number, ((command, _, expected), (seen, code)) in enumerate(zip(steps, done, strict=True)):
        assert place.pin not in seen
        assert place.matches(expected, seen), f"{command}\nis to print\n{expected}\nand prints\n{seen}"
        assert code == 0 or commands[number + 1 : number + 2] == ["echo $?"], f"{command} exits with {code}"


def run_python(block, place, directory):
    script = directory / "example.py"
    script.write_text(place.adapt(block.text))
    seen = place.terminal(script)
    assert place.matches(block.output or "", seen), f"it is to print\n{block.output}\nand prints\n{seen}"


def run_pytest(block, place, directory):
    (directory / "test_example.py").write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    done = subprocess.run(
        command, cwd=directory, env=place.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout


#: By what the fence says, and the comment before it.
RUN = {("console", ""): run_console, ("python", ""): run_python, ("python", "pytest"): run_pytest}


# Page by page, as a reader does: a block may use what one above it wrote.
@pytest.mark.parametrize("page", [page.relative_to(docs.ROOT).as_posix() for page in docs.PAGES])
def test_page(page, place, tmp_path):
    for block in (block for block in docs.blocks(page) if not block.note.startswith("not run: ")):
        where = f"{page}:{block.line}"
        assert (block.kind, block.note) in RUN, f"{where}: there is no way to run it, and it does not say why"
        print(where)  # shown if it fails
        RUN[block.kind, block.note](block, place, tmp_path)


def test_links_lead_somewhere():
    for page in [*docs.PAGES, docs.ROOT / "softhsm" / "README.md"]:
        for path, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
            target = page.parent / path if path else page
            assert path.startswith("https://") or target.exists(), f"{page.name}: {path}"
            assert not heading or heading in headings(target), f"{page.name}: {path}#{heading}"


def headings(page):
    """The anchors that a page's headings get."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).lower().replace(" ", "-") for line in lines}


def text_of(name):
    return (docs.ROOT / "docs" / name).read_text()


def test_every_public_name_is_described():
    described = set(re.findall(r"`(?:tokenauth\.)?(\w+)", text_of("python.md")))
    assert set(tokenauth.__all__) <= described
    described = set(re.findall(r"`(?:signing\.)?(\w+)", text_of("python.md") + text_of("signing.md")))
    assert set(signing.__all__) <= described


def commands(group, name):
    """Each command below a group, with its full name."""
    context = click.Context(group)
    for short in group.list_commands(context):
        command = group.get_command(context, short)
        yield f"{name} {short}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {short}")


def test_every_command_and_option_is_described():
    text = text_of("command-line.md")
    for name, command in commands(cli, "tokenauth"):
        assert f"`{name}" in text, name
        for option in (each for each in command.params if isinstance(each, click.Option)):
            assert any(f"`{spelt}" in text for spelt in option.opts), f"{name} {option.opts}"


def test_every_exit_code_is_described():
    rows = re.findall(r"^\| (\d+) \|", text_of("command-line.md"), re.MULTILINE)
    codes = {value for name, value in vars(failures).items() if name.isupper() and isinstance(value, int)}
    assert set(map(int, rows)) == codes


def test_every_variable_is_described():
    described = set(re.findall(r"`(\w+)`", text_of("command-line.md")))
    assert set(_VARIABLES) <= described


def test_messages_in_troubleshooting_are_those_of_the_code():
    """What is quoted in the first column of a table, in parts between ``...``, but not what others say."""
    sources = "\n".join(path.read_text() for path in (docs.ROOT / "src").rglob("*.py"))
    messages = re.findall(r"^\| `([^|]+)` \|", text_of("troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 20
    for part in (part.strip() for message in messages for part in message.split("...")):
        assert part in sources, part


def test_every_type_of_key_is_named():
    assert ", ".join(f"`{kind}`" for kind in KEY_TYPES) in text_of("softhsm.md")
