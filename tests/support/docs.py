"""The blocks of README.md and docs/, and a place in which they are true.

In the documents the service is ``https://service.example/``, its CA's certificate ``ca.pem``, and two tokens are there:
``dev`` with a client's identity, ``site`` with a server's. Here they are a server on loopback, a file and two SoftHSM
tokens. Where documents are signed there is a third one, ``id-card``, with a certificate for authentication and one for
documents, whose CA's certificate is ``id-ca.pem``; some documents; and a time-stamping authority,
``https://tsa.example/``. Every fenced block is run, by what its fence says:

- ``console``: one shell runs the lines that begin with ``$``; all of the output must be there, ``...`` stands for any
  text, and a command fails only if ``echo $?`` comes next.
- ``python``: a script on a terminal, where the PIN is entered whenever it is asked for. A ``text`` block right after it
  is what it prints.
- ``python`` after ``<!-- pytest -->``: a test file.
- any block after ``<!-- not run: REASON -->`` is not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pexpect

from tests.support.command_line import environment
from tests.support.pdfs import one_page
from tests.support.revocation import AskableAuthority, services
from tokenauth.provisioning.softhsm import token_directories, write_configuration
from tokenauth.testing import Authority, MTLSServer, SoftToken

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TIMEOUT = 30  # seconds

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$(?:\n\n```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
#: What differs from run to run, or from machine to machine.
_VARIABLE = (
    (r"\b[0-9a-f]{16}\b|\b[0-9a-f]{38,40}\b", "SERIAL"),
    (r"(slot\W+)\d+", r"\1NUMBER"),
    (r"\d{4}-\d\d-\d\d(T[\d:]+Z| [\d:]{8} UTC)?", "TIME"),
    (r"\d+\.\d s\b", "SECONDS"),
    (r"/[^\s\"']*libsofthsm2\.so", "MODULE"),
    (r"localhost:\d+", "SERVER"),
    (r"CPython [\d.]+", "PYTHON"),
    (r"OpenSSL 3[\w. ]+ 20\d\d", "OPENSSL"),
)
_MARK = "\x1e"


class Block(NamedTuple):
    """A fenced block; ``output`` is the text of the one that says what it prints, or None."""

    line: int
    note: str
    kind: str
    text: str
    output: str | None


def blocks(page: str) -> list[Block]:
    """The blocks of a page, named by its path in the checkout."""
    text = (ROOT / page).read_text()
    return [
        Block(
            text.count("\n", 0, match.start()) + 1, match["note"] or "", match["kind"], match["text"], match["output"]
        )
        for match in _BLOCK.finditer(text)
    ]


class Place(NamedTuple):
    """A directory and an environment in which the documents are true."""

    directory: Path
    environment: dict[str, str]
    url: str
    pin: str
    tsa: str = ""

    def adapt(self, text: str) -> str:
        """What is to be run, for what is written."""
        host = self.url.removeprefix("https://").rstrip("/")
        text = text.replace("https://service.example/", self.url).replace("service.example:443", host)
        return text.replace("https://tsa.example/", self.tsa)

    def matches(self, written: str, seen: str) -> bool:
        """Whether output is what is written, which may leave things out with ``...``."""
        pattern = ".*".join(re.escape(part.strip("\n")) for part in self._normal(self.adapt(written)).split("..."))
        return bool(re.fullmatch(rf"\s*{pattern}\s*", self._normal(seen), re.DOTALL))

    def _normal(self, text: str) -> str:
        text = text.replace("\r", "").replace(str(self.directory), "/home/me")
        for pattern, name in _VARIABLE:
            text = re.sub(pattern, name, text)
        return text

    def shell(self, commands: list[str]) -> list[tuple[str, int]]:
        """Run commands in one shell, without a terminal.

        Returns:
            For each what it wrote, to stdout and stderr, and its exit code.
        """
        mark = f"mark() {{ local code=$?; printf '{_MARK}%d{_MARK}' $code; return $code; }}"
        script = "\n".join([mark, *(f"{command}\nmark" for command in commands)])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            start_new_session=True,  # no controlling terminal, whoever runs the tests
            check=False,
        )
        parts = done.stdout.split(_MARK)
        return list(zip(parts[::2], map(int, parts[1::2]), strict=False))

    def terminal(self, script: Path, *arguments: str) -> str:
        """Run a Python script on a terminal of its own, and enter the PIN when it is asked for.

        Returns:
            What it wrote, without the questions.
        """
        command = [str(script), *arguments]
        child = pexpect.spawn(
            sys.executable, command, cwd=self.directory, env=self.environment, timeout=TIMEOUT, encoding="utf-8"
        )
        seen = ""
        while child.expect([r"(Warning: [^\n]*\n)?PIN for [^\n]*: ", pexpect.EOF]) == 0:
            seen += str(child.before)
            child.sendline(self.pin)
        seen += str(child.before)
        child.close()
        assert child.exitstatus == 0, seen
        assert self.pin not in seen
        return seen


@contextmanager
def made(directory: Path, *, with_documents: bool = False) -> Iterator[Place]:
    """The place, below an empty directory."""
    authority = Authority("tokenauth development CA")
    until = authority.certificate.not_valid_after_utc
    with (
        SoftToken("dev", key_type=None, authority=authority) as token,
        SoftToken("site", key_type=None, authority=authority, pin=token.pin) as site,
        MTLSServer(authority) as server,
        ExitStack() as more,
    ):
        token.add_identity("client", not_after=until)
        site.add_identity("server", purposes=("tls-server",), names=("localhost", "127.0.0.1"), not_after=until)
        (directory / "ca.pem").write_bytes(authority.pem)
        (directory / "pin").touch(mode=0o600)
        (directory / "pin").write_text(f"{token.pin}\n")
        tokens, tsa = [token, site], ""
        if with_documents:
            card, tsa = _documents(directory, token.pin, more)
            tokens.append(card)
        yield Place(
            directory,
            environment(
                SOFTHSM2_CONF=str(_copied(tokens, directory)),
                PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                HOME=str(directory),
                TOKENAUTH_PIN_SOURCE=f"file:{directory / 'pin'}",
                CARD_PIN=token.pin,
            ),
            server.url,
            token.pin,
            tsa,
        )


def _copied(tokens: list[SoftToken], directory: Path) -> Path:
    """SoftHSM's configuration with copies of these tokens only: other tests of this process may have more."""
    copy = write_configuration(directory / "softhsm")
    for token in tokens:
        for found in token_directories(token.configuration.parent, token.serial):
            shutil.copytree(found, copy.parent / "tokens" / found.name)
    return copy


def _documents(directory: Path, pin: str, more: ExitStack) -> tuple[SoftToken, str]:
    """Put documents there; gives the ID card that signs them, and the URL of the time-stamping authority."""
    (directory / "services").mkdir()
    running = more.enter_context(services(directory / "services"))
    root = AskableAuthority(running, "id-ca")
    running.set_up_tsa(root)
    card = more.enter_context(SoftToken("id-card", key_type=None, authority=root, pin=pin))
    card.add_identity("authentication", purposes=("tls-server",))  # the client's is on the other one
    card.add_identity("Mari Maasikas", purposes=("document",))
    (directory / "id-ca.pem").write_bytes(root.pem)
    (directory / "invoices").mkdir()
    for name in ("contract.pdf", "form.pdf", *(f"invoices/{number}.pdf" for number in (1, 2, 3))):
        (directory / name).write_bytes(one_page())
    for name, content in {
        "report.docx": b"a report",
        "photo.jpg": b"a photo",
        "data.xml": b"<order><item>ten apples</item></order>",
        "big.iso": bytes(100_000),
        "claims.json": b'{"sub": "me"}',
    }.items():
        (directory / name).write_bytes(content)
    return card, running.tsa
