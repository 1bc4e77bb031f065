"""Readers and cards through PC/SC: what shows, what it costs others, and what happens as cards come and go."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.command_line import error_of, run
from tests.support.piv.profile import NIST_ATR, YUBIKEY_ATR, Profile
from tests.support.piv.stack import READER, YUBIKEY_READER, CardStack, opensc_module
from tokenauth.cards import events
from tokenauth.cards.events import Event
from tokenauth.cards.pcsc import State
from tokenauth.cards.table import cards
from tokenauth.uri import SlotInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="vpcd is kept apart by Linux's namespaces")

_TIMEOUT = 60.0  # seconds
TOKENAUTH = (sys.executable, "-m", "tokenauth")
FIRST, SECOND = f"{READER} 00 00", f"{READER} 00 01"
UNKNOWN_ATR = bytes.fromhex("3B8B8131FE4580F91122334455667788991F")
#: Holds a card until its standard input ends. With "verify" it has logged in to it.
HOLDER = """
import sys
import smartcard.scard as pcsc
mode, *then = sys.argv[1:]
_, context = pcsc.SCardEstablishContext(pcsc.SCARD_SCOPE_USER)
reader = pcsc.SCardListReaders(context, [])[1][0]
code, card, protocol = pcsc.SCardConnect(context, reader, getattr(pcsc, "SCARD_SHARE_" + mode), 3)
assert code == 0, code
def send(text):
    return bytes(pcsc.SCardTransmit(card, pcsc.SCARD_PCI_T1, list(bytes.fromhex(text)))[1]).hex()
send("00A404000BA000000308000010000100")
if "verify" in then:
    assert send("0020008008313233343536FFFF") == "9000"
if "transaction" in then:
    pcsc.SCardBeginTransaction(card)
print("ready", flush=True)
sys.stdin.read()
print(send("00200080"), flush=True)
pcsc.SCardDisconnect(card, pcsc.SCARD_LEAVE_CARD)
"""


@contextmanager
def holder(stack: CardStack, *arguments: str, program: str | Path = sys.executable) -> Iterator[Any]:
    """Another program that is connected to the card; at its end it asks the card who is logged in."""
    with spawned(left_alone(stack), program, "-c", HOLDER, *arguments) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


@contextmanager
def spawned(stack: CardStack, *command: str | Path) -> Iterator[Any]:
    paths = os.pathsep.join(filter(None, sys.path))  # for a Python under another name as well
    environment = {**os.environ, **stack.environment, "PYTHONPATH": paths}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    deadline = threading.Timer(_TIMEOUT, process.kill)  # then whoever waits for a line gets an empty one
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def end(process: Any) -> str:
    """Let a holder go; what the card said to it at the end."""
    return str(process.communicate(timeout=30)[0]).strip()


def listed(stack: CardStack, **variables: Any) -> list[dict[str, Any]]:
    done = stack.run(*TOKENAUTH, "readers", "--json", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def left_alone(stack: CardStack) -> CardStack:
    """Wait until pcscd has noticed that the programs of other tests have ended."""
    script = (
        "import time\n"
        "from tokenauth.cards.readers import read_readers\n"
        "while any(reading.in_use for reading in read_readers(ask=False)): time.sleep(0.05)"
    )
    assert stack.python(script).returncode == 0
    return stack


def test_what_shows(lone_piv):
    card, empty = listed(left_alone(lone_piv))
    assert card == {
        "reader": FIRST,
        "present": True,
        "atr": NIST_ATR.hex(),
        "card": {"kind": "piv", "name": "PIV card (NIST SP 800-73)", "country": None},
        "exclusive": False,
        "module": {"id": "opensc", "name": "OpenSC", "path": card["module"]["path"], "install": None},
        "pin_tries": 3,
    }
    assert Path(card["module"]["path"]).resolve() == opensc_module().resolve()
    assert empty == {
        "reader": SECOND,
        "present": False,
        "atr": "",
        "card": None,
        "exclusive": False,
        "module": None,
        "pin_tries": None,
    }
    counters = lone_piv.card.counters
    assert (counters.pin_attempts, counters.pin_queries) == (0, 1)


def test_the_page(lone_piv):
    page = left_alone(lone_piv).run(*TOKENAUTH, "readers").stdout.decode()
    assert f"{FIRST}: a card\n  card        PIV card (NIST SP 800-73)\n  ATR         3B 8B 81" in page
    assert "  PIN tries   3 left\n" in page
    assert page.endswith(f"{SECOND}: no card\n")


def test_tries_that_were_lost(lone_piv):
    for left in (2, 1, 0):
        lone_piv.run("opensc-tool", "-s", "00A404000BA000000308000010000100", "-s", "002000800830303030303030FF")
        assert listed(left_alone(lone_piv))[0]["pin_tries"] == left
    assert "none left: the PIN is locked" in left_alone(lone_piv).run(*TOKENAUTH, "readers").stdout.decode()


def test_a_yubikey_is_known_by_its_atr(yubikey):
    card = listed(left_alone(yubikey))[0]
    assert (card["atr"], card["card"]["kind"], card["pin_tries"]) == (YUBIKEY_ATR.hex(), "yubikey", 3)
    assert (card["module"]["id"], card["reader"]) == ("ykcs11", f"{YUBIKEY_READER} 00 00")


@pytest.mark.parametrize(
    ("application", "kind"),
    [
        ("A0000000770108000700 00FE000001 00", "estonia-2018"),
        ("A000000397425446590201", "gids"),
        ("D27600012401030400061234567800 00", "openpgp"),
        ("A000000308000010000100", "piv"),
    ],
)
def test_a_card_is_known_by_its_application(make_stack, application, kind):
    """If its ATR is not in the table."""
    stack = make_stack(Profile(atr=UNKNOWN_ATR, application=bytes.fromhex(application), selected_at_reset=False))
    card = listed(stack)[0]
    assert (card["card"]["kind"], card["pin_tries"]) == (kind, 3 if kind == "piv" else None)


def test_a_card_of_no_known_kind(make_stack):
    stack = make_stack(Profile(atr=UNKNOWN_ATR, application=bytes.fromhex("F000000001")))
    card = listed(stack)[0]
    assert (card["present"], card["card"], card["module"], card["pin_tries"]) == (True, None, None, None)
    assert stack.card.counters.instructions == {"SELECT": sum(len(card.aids) for card in cards())}


def test_a_card_that_speaks_t0(make_stack):
    """There a command has five bytes at least (ISO 7816-3 section 12.2.1); what comes back is the same."""
    stack = make_stack(Profile(atr=bytes.fromhex("3B0441424344")))
    assert listed(stack)[0]["pin_tries"] == 3
    assert any(line.startswith("00 20 00 80 (5 bytes)") for line in stack.card.log)


def test_the_login_of_another_program_lasts(yubikey):
    """Its counter can not be asked then, and no application is selected: this YubiKey would forget the PIN."""
    with holder(yubikey, "SHARED", "verify") as other:
        yubikey.card.clear_counters()
        card = listed(yubikey)[0]
        assert (card["card"]["kind"], card["pin_tries"], card["exclusive"]) == ("yubikey", None, False)
        assert "SELECT" not in yubikey.card.counters.instructions
        assert end(other) == "9000"
    assert yubikey.card.counters.resets == 0


def test_an_unknown_card_in_use_is_left_alone(lone_piv):
    with holder(lone_piv, "SHARED", "verify") as other:
        lone_piv.card.clear_counters()
        assert listed(lone_piv)[0]["card"] is None
        page = lone_piv.run(*TOKENAUTH, "readers").stdout.decode()
        assert "another program is connected to the card, so it was not asked what it is" in page
        assert lone_piv.card.counters.instructions == {}
        assert end(other) == "9000"


def test_a_transaction_of_another_program_is_not_waited_for(yubikey):
    with holder(yubikey, "SHARED", "transaction") as other:
        page = yubikey.run(*TOKENAUTH, "readers").stdout.decode()
        assert "another program is using the card" in page
        assert end(other) == "63c3"


def test_a_card_that_was_another_programs_for_too_long_is_left_alone(yubikey):
    script = (
        "from tokenauth.cards import readers\n"
        "readers._PATIENCE = 0.5\n"
        "print(readers.read_readers()[0].busy, flush=True)\n"
        "input()\n"
        "import threading\n"
        "for thread in threading.enumerate():\n"
        "    if thread.name == 'tokenauth-card': thread.join()\n"
        "print('done')\n"
    )
    with holder(yubikey, "SHARED", "transaction") as other, spawned(yubikey, sys.executable, "-c", script) as process:
        assert process.stdout.readline() == "True\n"
        yubikey.card.clear_counters()
        assert end(other) == "63c3"  # its own question
        assert process.communicate("\n", timeout=30)[0] == "done\n"
    assert yubikey.card.counters.instructions == {"VERIFY": 1}


def test_a_card_that_another_program_keeps_for_itself(yubikey):
    with holder(yubikey, "EXCLUSIVE"):
        card = listed(yubikey)[0]
        assert (card["exclusive"], card["card"]["kind"], card["pin_tries"]) == (True, "yubikey", None)
        assert "another program keeps the card for itself" in yubikey.run(*TOKENAUTH, "readers").stdout.decode()


# --- what can not be looked at ---


def test_pcscd_does_not_run(fresh_piv):
    fresh_piv.stop_pcscd()
    for arguments in ((), ("--watch",)):
        done = fresh_piv.run(*TOKENAUTH, "readers", *arguments)
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.startswith(b"tokenauth: error: the PC/SC service pcscd does not run; start it: systemctl")
    assert fresh_piv.run(*TOKENAUTH, "readers", "--json").stdout == b"[]\n"


@contextmanager
def refusing(directory: Path) -> Iterator[str]:
    """The socket of a service that refuses, as polkit lets pcscd do: it takes the connection and closes it."""
    path = str(directory / "pcscd.comm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refuse() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=refuse, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


def test_pcscd_refuses(tmp_path):
    with refusing(tmp_path) as path:
        error = error_of(run("readers", PCSCLITE_CSOCK_NAME=path), 3)
    assert error.startswith("the PC/SC service pcscd does not let this user at the readers; ")
    assert "org.debian.pcsc-lite.access_pcsc" in error


def test_a_socket_of_others(fresh_piv):
    """The rights of the socket say no, which libpcsclite tells as if nobody was there."""
    fresh_piv.directory.chmod(0o755)
    (fresh_piv.directory / "pcscd.comm").chmod(0)
    script = (
        "from tokenauth.cards.readers import read_readers\ntry: read_readers()\nexcept Exception as e: print(e.reason)"
    )
    # root's own rights count only without its capabilities; another user might not be let into this checkout
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ("env",)
    done = fresh_piv.run(*drop, sys.executable, "-c", script)
    assert done.stdout == b"permission\n", done.stderr.decode()


def test_no_reader(make_stack):
    stack = make_stack()
    stack.stop_pcscd()
    stack.start_pcscd(without_readers=True)
    done = stack.run(*TOKENAUTH, "readers")
    assert done.returncode == 3
    assert done.stderr.startswith(b"tokenauth: error: no reader is there; plug the reader in")
    script = (
        "from tokenauth.cards.events import watch\n"
        "with watch(lambda event: print(event.kind, event.reader, flush=True)):\n"
        "    print('ready', flush=True); input()\n"
    )
    with spawned(stack, sys.executable, "-c", script) as process:  # it waits for one
        assert process.stdout.readline() == "ready\n"
        stack.stop_pcscd()
        assert process.stdout.readline() == "service-lost \n"
        stack.start_pcscd()
        told = [process.stdout.readline().rstrip("\n") for _ in range(4)]
    assert told == [
        "service-back ",
        f"reader-added {FIRST}",
        f"inserted {FIRST}",
        f"reader-added {SECOND}",
    ]


def test_without_pyscard(lone_piv, tmp_path):
    (tmp_path / "smartcard.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'smartcard'\", name='smartcard')"
    )
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[1] / 'src'}"
    done = lone_piv.run(*TOKENAUTH, "readers", PYTHONPATH=path)
    assert done.returncode == 3
    told = done.stderr.decode()
    assert "pyscard is not installed" in told
    assert "pip install pyscard" in told
    assert "apt-get install python3-pyscard" in told
    assert lone_piv.run(*TOKENAUTH, "list", PYTHONPATH=path, TOKENAUTH_MODULE=str(opensc_module())).returncode == 0


def test_the_hint_names_the_package_for_the_card(lone_piv):
    script = (
        "import sys, tokenauth, tokenauth.cards.table as table\n"
        "import tokenauth.inventory.candidates as candidates\n"
        "from tokenauth.cards.rows import Card\n"
        "table.cards = lambda *_: (Card('x', 'X card', atrs=(sys.argv[1],), modules=('opensc',)),)\n"
        "candidates.survey = lambda *_, **__: candidates.Discovery([], [])\n"
        "table._templates = lambda module, platform: ('/nonexistent',)\n"
        "try: tokenauth.identities()\n"
        "except tokenauth.ModuleError as error: print(error)\n"
    )
    told = lone_piv.python(script, NIST_ATR.hex().upper()).stdout.decode()
    assert told.startswith(f"no PKCS#11 module is installed; for the card in {FIRST} (X card): ")
    assert "opensc" in told.lower()


# --- cards that come and go ---


@contextmanager
def watching(stack: CardStack, *options: str) -> Iterator[Any]:
    with spawned(stack, *TOKENAUTH, "readers", "--watch", *options) as process:
        yield process


def lines(process: Any, count: int) -> list[dict[str, Any]]:
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def kinds(process: Any, count: int) -> list[tuple[str, str]]:
    return [(line["event"], line["reader"]) for line in lines(process, count)]


def test_watching(fresh_piv):
    with watching(fresh_piv, "--json") as process:
        begin = lines(process, 3)
        assert [(line["event"], line["reader"]) for line in begin] == [
            ("reader-added", FIRST),
            ("inserted", FIRST),
            ("reader-added", SECOND),
        ]
        assert (begin[1]["card"]["kind"], begin[1]["pin_tries"], begin[1]["present"]) == ("piv", 3, True)
        assert datetime.fromisoformat(begin[1]["time"]).utcoffset() is not None
        fresh_piv.card.remove()
        assert kinds(process, 1) == [("removed", FIRST)]
        fresh_piv.card.insert()
        assert kinds(process, 1) == [("inserted", FIRST)]
        fresh_piv.stop_pcscd()
        assert kinds(process, 1) == [("service-lost", "")]
        fresh_piv.card.remove()
        fresh_piv.start_pcscd()
        assert kinds(process, 2) == [("service-back", ""), ("removed", FIRST)]
        fresh_piv.card.insert()
        assert kinds(process, 1) == [("inserted", FIRST)]
        fresh_piv.stop_pcscd(kill=True)
        assert kinds(process, 1) == [("service-lost", "")]
        fresh_piv.start_pcscd()
        assert kinds(process, 1) == [("service-back", "")]
        fresh_piv.card.remove()
        assert kinds(process, 1) == [("removed", FIRST)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_the_lines_of_watching(fresh_piv):
    with watching(fresh_piv) as process:
        assert process.stdout.readline().endswith(f"  {FIRST}: a reader\n")
        assert process.stdout.readline().endswith(f"  {FIRST}: inserted: PIV card (NIST SP 800-73)\n")
        process.stdout.readline()
        fresh_piv.card.remove()
        assert process.stdout.readline().endswith(f"  {FIRST}: the card was removed\n")


def test_watching_costs_no_time_of_the_processor(lone_piv):
    script = (
        "import resource, time\n"
        "from tokenauth.cards.events import watch\n"
        "with watch(print):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    time.sleep(1)\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(after.ru_nvcsw - before.ru_nvcsw)\n"
    )
    done = lone_piv.python(script)
    assert int(done.stdout) < 10, "it wakes up again and again"  # times that it gave up the processor to wait


#: Makes PC/SC answer something else, once or always.
ANSWERS = (
    "import time\n"
    "from smartcard import scard\n"
    "real, answers, contexts = scard.SCardGetStatusChange, [], []\n"
    "def status(*arguments): return (answers.pop(), []) if answers else real(*arguments)\n"
    "scard.SCardGetStatusChange = status\n"
    "from tokenauth.cards import events, pcsc, readers\n"
)


def test_a_service_that_fails_is_not_asked_again_and_again(lone_piv):
    script = ANSWERS + (
        "connect = scard.SCardEstablishContext\n"
        "scard.SCardEstablishContext = lambda *scope: contexts.append(scope) or connect(*scope)\n"
        "told = []\n"
        "with events.watch(lambda event: told.append(event.kind)):\n"
        "    answers += [0x8010001F] * 100000\n"
        "    attached_ask('stop_pcscd', False); attached_ask('start_pcscd')\n"
        "    contexts.clear(); time.sleep(2.5)\n"
        "    print(len(contexts), *told)\n"
    )
    done = lone_piv.python("from tests.support.piv.handle import attached_ask\n" + script)
    count, *told = done.stdout.decode().split()
    assert int(count) < 6, done.stderr.decode()
    assert told == ["service-lost"]


def test_a_reader_that_is_unplugged_while_one_looks(lone_piv):
    """Between the list of readers and the look at them."""
    script = ANSWERS + "answers.append(0x80100009)\nprint(len(readers.read_readers(ask=False)))\n"
    assert lone_piv.python(script).stdout == b"2\n"


def test_a_service_that_fails_is_told_as_such(lone_piv):
    script = ANSWERS + (
        "answers += [0x8010001F]\n"
        "try: readers.read_readers()\n"
        "except Exception as error: print(error.reason, error)\n"
        "answers += [0x8010001F]\n"
        "try: events.watch(print)\n"
        "except Exception as error: print(error.reason, error)\n"
    )
    line = "service the PC/SC service fails: it answers 0x8010001f; restart it: systemctl restart pcscd\n"
    assert lone_piv.python(script).stdout.decode() == line * 2


def test_a_callback_that_fails_does_not_end_it(fresh_piv):
    script = (
        "from tests.support.piv.handle import attach\n"
        "from tokenauth.cards.events import watch\n"
        "import threading\n"
        "seen, done = [], threading.Event()\n"
        "def called(event):\n"
        "    seen.append(event.kind)\n"
        "    if len(seen) == 2: done.set()\n"
        "    1 / 0\n"
        "with watch(called):\n"
        "    attach().remove(); attach().insert(); done.wait(20)\n"
        "attach().remove()\n"
        "print(*seen)\n"
    )
    done = fresh_piv.python(script)
    assert done.stdout == b"removed inserted\n"
    assert b"ZeroDivisionError" in done.stderr


def state(present: bool, *, changes: int = 0, atr: bytes = b"A") -> State:
    return State("R", (changes << 16) | (0x20 if present else 0x10), atr if present else b"")


@pytest.mark.parametrize(
    ("before", "now", "counted", "expected"),
    [
        (None, state(True), True, ["reader-added", "inserted"]),
        (None, state(False), True, ["reader-added"]),
        (state(True), None, True, ["removed", "reader-removed"]),
        (state(False), None, True, ["reader-removed"]),
        (state(True, changes=2), state(True, changes=4), True, ["removed", "inserted"]),
        (state(True, changes=2), state(True, changes=0), False, []),
        (state(True), state(True, atr=b"B"), False, ["removed", "inserted"]),
        (state(True, atr=b""), state(True), True, []),
        (state(False), state(False), True, []),
    ],
)
def test_what_happened(before, now, counted, expected):
    found = list(events._changes("R", before, now, counted=counted))
    assert [event.kind for event in found] == expected
    assert all(event == Event(event.kind, "R", event.kind == "inserted", event.atr) for event in found)


@pytest.mark.parametrize(
    ("slot", "reader", "same"),
    [
        (FIRST, FIRST, True),
        ("", FIRST, False),
        (FIRST[:-1], FIRST, False),
        (f"slot 0: {FIRST}", FIRST, True),
        (("R" * 70)[:64], "R" * 70, True),
        (("Ü" * 40)[:31], "Ü" * 40, True),
    ],
)
def test_slots_and_readers(slot, reader, same):
    from tokenauth.inventory.serving import is_reader_of

    assert is_reader_of(reader, SlotInfo(0, slot, "")) == same
