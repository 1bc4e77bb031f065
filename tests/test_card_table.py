"""The tables of cards and modules: every row of ours, what users add to them, what they answer."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support import modules_page
from tokenauth.cards import rows
from tokenauth.cards.files import CARDS, MODULES, TableFile, built_in, read_rows
from tokenauth.cards.rows import CARD_FIELDS, KINDS, MANAGERS, MODULE_FIELDS, RowError, read_row
from tokenauth.cards.table import (
    Card,
    Module,
    cards,
    modules,
    modules_for,
    packages_for,
    paths_of,
    read_table,
    recognise,
    recognise_application,
    user_directory,
)
from tokenauth.pkcs11.known_modules import SYSTEMS, expand

if TYPE_CHECKING:
    from collections.abc import Iterable

OUR_MODULES: tuple[Module, ...] = built_in(MODULES)
OUR_CARDS: tuple[Card, ...] = built_in(CARDS)
PLATFORMS = ("linux", "darwin", "win32")
ESTONIA = bytes.fromhex("3BDB960080B1FE451F830012233F536549440F9000F1")


def module(name: str) -> Module:
    return next(row for row in OUR_MODULES if row.id == name)


def kinds(found: Iterable[Card]) -> list[str]:
    return [card.kind for card in found]


# --- our rows --------------------------------------------------------------------------------------------------------


def test_our_rows_can_be_read_and_are_many():
    assert len(OUR_MODULES) > 50
    assert len(OUR_CARDS) > 50
    assert {row.kind for row in OUR_MODULES} == set(KINDS)


@pytest.mark.parametrize("row", [*OUR_MODULES, *OUR_CARDS], ids=lambda row: row[0])
def test_every_row_has_a_source_that_can_be_looked_up(row):
    assert row.sources
    for source in row.sources:
        repository = r"[\w.-]+/[\w.-]+: \S[^:]*"
        assert re.fullmatch(rf"https://\S+|{repository}|Debian 12: [a-z0-9][a-z0-9.+-]+", source), source


@pytest.mark.parametrize("row", OUR_MODULES, ids=lambda row: row.id)
def test_a_module_can_be_found_or_says_how_it_is_got(row):
    assert any((row.linux, row.darwin, row.win32)) or (row.program and row.url)
    assert row.packages or row.program
    assert row.kind != "proxy" or not row.automatic
    assert row.kind not in ("hsm", "cloud") or not row.automatic or row.id == "opencryptoki"


@pytest.mark.parametrize("row", OUR_CARDS, ids=lambda row: row.kind)
def test_a_card_can_be_recognised_by_what_it_is_said_to_answer(row):
    assert row.atrs or row.aids
    for sample in row.samples:
        assert row in recognise(sample, OUR_CARDS), sample.hex()
    for pattern in row.atrs:
        if "." not in pattern:
            assert row in recognise(bytes.fromhex(pattern), OUR_CARDS)
        else:
            own = row._replace(atrs=(pattern,))
            assert any(recognise(sample, [own]) for sample in row.samples), f"{pattern} has no sample"
    for aid in row.aids:
        assert row in recognise_application(aid, OUR_CARDS)


def test_every_module_that_a_card_names_is_there():
    assert {name for card in OUR_CARDS for name in card.modules} <= {row.id for row in OUR_MODULES}
    assert all(len(set(card.modules)) == len(card.modules) for card in OUR_CARDS)


def test_a_pattern_is_not_given_twice_in_a_row_and_first_bytes_are_those_of_an_atr():
    for card in OUR_CARDS:
        assert len(set(card.atrs)) == len(card.atrs), card.kind
        assert all(pattern.startswith(("3B", "3F", "..")) for pattern in card.atrs), card.kind


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_two_modules_claim_one_path(platform):
    libraries = expand(SYSTEMS[platform], {}).libraries
    claims = Counter(
        path.casefold()
        for row in OUR_MODULES
        for path in paths_of(row, platform, libraries=libraries, environ={"HOME": "/home/me"})
    )
    assert [path for path, times in claims.items() if times > 1] == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_may_be_loaded_unasked_is_what_discovery_looks_at(platform):
    """Discovery has its paths in a tuple, since reading TOML would slow every start; here they are held together."""
    field = {"linux": "linux", "darwin": "darwin", "win32": "win32"}[platform]
    automatic = [path for row in OUR_MODULES if row.automatic for path in getattr(row, field)]
    assert tuple(automatic) == SYSTEMS[platform].known


def test_the_page_lists_what_the_tables_have():
    page = modules_page.PAGE.read_text()
    assert page == modules_page.with_lists(page), "run: python -m tests.support.modules_page"
    assert all(f"| `{row[0]}` |" in page for row in [*OUR_MODULES, *OUR_CARDS])


def test_the_rows_that_the_page_shows_can_be_read_and_its_fields_are_all():
    page = modules_page.PAGE.read_text()
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    problems: list[str] = []
    (row,) = read_rows(MODULES, shown[0].encode(), "shown", problems)
    (card,) = read_rows(CARDS, shown[1].encode(), "shown", problems)
    assert (row.id, card.modules, problems) == ("acme", ("acme", "opensc"), [])
    described = {
        name for line in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for name in re.findall("`([^`]+)`", line)
    }
    assert {*MODULE_FIELDS, *CARD_FIELDS} <= described


# --- recognising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atr", "expected"),
    [
        (ESTONIA, ["estonia-2018"]),
        # One chip, three issuers.
        (bytes.fromhex("3BD218008131FE58C90411"), ["cardos", "d-trust-4", "slovakia-eid-3"]),
        (bytes.fromhex("3BD518FF8191FE1FC38073C821100A"), ["epass2003", "serbia-eid", "slovenia-eoi"]),
        # A closed pattern goes before an open one, wherever they stand.
        (bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940"), ["yubikey"]),
        (bytes.fromhex("3BF59600008131FE454D7945494414"), ["myeid"]),
        (bytes.fromhex("3B7F9600008031806580850401201200"), []),
        (b"", []),
        (ESTONIA[:-1], []),
        (ESTONIA + b"\0", []),
    ],
)
def test_recognise(atr, expected):
    assert kinds(recognise(atr, OUR_CARDS)) == expected


def test_the_closest_pattern_comes_first():
    wide = Card("wide", "Wide", atrs=("3B....",))
    close = Card("close", "Close", atrs=("3B0.00",))
    exact = Card("exact", "Exact", atrs=("3B....", "3B0100"))
    assert kinds(recognise(b"\x3b\x01\x00", [wide, close, exact])) == ["exact", "close", "wide"]
    assert kinds(recognise(b"\x3b\x11\x00", [wide, close, exact])) == ["wide", "exact"]


@given(st.binary(max_size=40))
def test_any_bytes_are_recognised_or_not(data):
    found = recognise(data, OUR_CARDS)
    assert all(isinstance(card, Card) for card in found)
    assert recognise_application(data, OUR_CARDS) is not None


@pytest.mark.parametrize(
    ("aid", "expected"),
    [
        ("A000000308000010000100", ["piv"]),
        ("D27600012401030400061234567800 00", ["openpgp"]),
        ("A0000003974254465902", ["gids"]),
        ("A00000030800", []),
        ("", []),
    ],
)
def test_recognise_application(aid, expected):
    assert kinds(recognise_application(bytes.fromhex(aid), OUR_CARDS)) == expected


def test_modules_for_a_card_are_those_with_a_path_on_the_system():
    lithuanian = next(card for card in OUR_CARDS if card.kind == "lithuania-id-older")
    latvian = next(card for card in OUR_CARDS if card.kind == "latvia-2018")
    assert [row.id for row in modules_for(lithuanian, "darwin", OUR_MODULES)] == ["pwpw-card", "cryptocard-suite"]
    assert [row.id for row in modules_for(latvian, "linux", OUR_MODULES)] == ["opensc", "latvia-eid"]
    assert [row.id for row in modules_for(latvian, "win32", OUR_MODULES)] == ["opensc"]
    peruvian = next(card for card in OUR_CARDS if card.kind == "peru-dnie")  # its module has a path nowhere
    assert [row.id for row in modules_for(peruvian, "linux", OUR_MODULES)] == ["peru-dnie-pkcs11"]
    assert modules_for(latvian._replace(modules=("nothing",)), "linux", OUR_MODULES) == []


# --- paths and packages ----------------------------------------------------------------------------------------------


def test_paths_have_no_templates():
    row = Module(
        "x",
        "X",
        linux=("{lib}/x.so", "/opt/{multiarch}/x.so", "~/x.so"),
        win32=(r"{programs}\x.dll", r"{programs_x86}\x.dll", r"{system32}\x.dll"),
    )
    environ = {"HOME": "/home/{me}", "ProgramFiles": r"D:\P", "ProgramFiles(x86)": r"D:\86", "SystemRoot": r"D:\W"}
    multiarch = getattr(sys.implementation, "_multiarch", "")
    assert paths_of(row, "linux", libraries=["/a", "/b", "/a"], environ=environ) == (
        "/a/x.so",
        "/b/x.so",
        f"/opt/{multiarch}/x.so",
        "/home/{me}/x.so",
    )
    assert paths_of(row, "win32", libraries=[], environ=environ) == (
        r"D:\P\x.dll",
        r"D:\86\x.dll",
        r"D:\W\System32\x.dll",
    )
    assert paths_of(row, "win32", libraries=[], environ={})[2] == r"C:\Windows\System32\x.dll"
    assert paths_of(row, "darwin", libraries=["/a"]) == ()
    assert paths_of(row, "freebsd14", libraries=["/a"], environ=environ)[0] == "/a/x.so"


def test_the_module_of_this_machine_is_where_the_table_says():
    libraries = expand(SYSTEMS["linux"], {}).libraries
    assert any(Path(path).is_file() for path in paths_of(module("softhsm2"), "linux", libraries=libraries))


@pytest.mark.parametrize(
    ("name", "platform", "there", "words"),
    [
        ("opensc", "linux", {"apt-get", "dnf"}, "apt-get install opensc-pkcs11"),
        ("opensc", "linux", {"dnf"}, "dnf install opensc"),
        ("opensc", "linux", {"pacman"}, "pacman -S opensc"),
        ("opensc", "linux", {"zypper"}, "install OpenSC (OpenSC project): https://github.com/OpenSC/OpenSC/wiki"),
        ("opensc", "darwin", {"brew", "apt-get"}, "brew install opensc"),
        ("opensc", "win32", {"brew"}, "install OpenSC (OpenSC project): https://github.com/OpenSC/OpenSC/wiki"),
        ("tpm2-pkcs11", "linux", {"apt-get"}, "apt-get install libtpm2-pkcs11-1"),
        ("tpm2-pkcs11", "linux", {"dnf"}, ""),
        ("tpm2-pkcs11", "win32", set(), ""),
        ("safenet-etoken", "linux", {"apt-get"}, "install SafeNet Authentication Client (Thales)"),
        ("google-cloud-kms", "win32", set(), None),
    ],
)
def test_packages_for(name, platform, there, words):
    said = packages_for(module(name), platform, find=there.__contains__)
    if words is None:  # one that is installed nowhere says where to get it, on every system
        assert said.endswith(module(name).url)
    else:
        assert said == words


def test_packages_for_this_machine():
    assert packages_for(module("softhsm2"), "linux") == "apt-get install softhsm2"


# --- the user's tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> Path:
    """The user's directory of tables, below a home; CI runs as root, which has none."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    directory = tmp_path / ".config" / "tokenauth"
    directory.mkdir(parents=True)
    return directory


def table(own: Path):
    return read_table({"HOME": str(own.parents[1])}, "linux")


MINE = """
[[module]]
id = "mine"
name = "My module"
paths.linux = ["/opt/mine.so"]

[[module]]
id = "opensc"
name = "My OpenSC"
automatic = true
paths.linux = ["/opt/opensc.so"]
"""


def test_users_rows_go_before_ours_and_replace_them(own):
    (own / "modules.toml").write_text(MINE)
    (own / "cards.toml").write_text(
        f'[[card]]\nkind = "mine"\nname = "Mine"\natrs = ["{ESTONIA.hex(":")}"]\nmodules = ["mine", "opensc"]\n'
    )
    read = table(own)
    assert read.problems == ()
    assert [row.id for row in read.modules[:2]] == ["mine", "opensc"]
    assert len(read.modules) == len(OUR_MODULES) + 1
    assert [row.name for row in read.modules if row.id == "opensc"] == ["My OpenSC"]
    assert kinds(recognise(ESTONIA, read.cards)) == ["mine", "estonia-2018"]
    assert [row.name for row in modules_for(read.cards[0], "linux", read.modules)] == ["My module", "My OpenSC"]


def test_without_files_there_are_only_our_rows(own):
    assert table(own) == (OUR_MODULES, OUR_CARDS, ())


def test_root_reads_no_users_files(own, monkeypatch):
    (own / "modules.toml").write_text(MINE)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert table(own) == (OUR_MODULES, OUR_CARDS, ())


@pytest.mark.parametrize(
    ("environ", "platform", "directory"),
    [
        ({"HOME": "/h"}, "linux", "/h/.config/tokenauth"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "linux", "/x/tokenauth"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "x"}, "linux", "/h/.config/tokenauth"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": ""}, "freebsd14", "/h/.config/tokenauth"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "darwin", "/h/Library/Application Support/tokenauth"),
        ({"APPDATA": "C:/A"}, "win32", "C:/A/tokenauth"),
        ({"HOME": "/h"}, "win32", ""),
    ],
)
def test_user_directory(environ, platform, directory, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert user_directory(environ, platform) == directory


GOOD = '[[module]]\nid = "good"\nname = "Good"\n'


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('name = "x"', "module 1: field 'id' is missing"),
        ('id = "Big"\nname = "x"', "module 1 (Big): field 'id' is to be a name of small letters, digits and '-'"),
        ('id = "x"', "module 1 (x): field 'name' is missing"),
        ('id = "x"\nname = "a\\nb"', "module 1 (x): field 'name' is to be a text of one line, at most 500 characters"),
        ('id = "x"\nname = 1', "module 1 (x): field 'name' is to be a text of one line, at most 500 characters"),
        ('id = "x"\nname = "X"\nkind = "card"', "module 1 (x): field 'kind' is to be one of cards, hsm,"),
        ('id = "x"\nname = "X"\nautomatic = "no"', "module 1 (x): field 'automatic' is to be true or false"),
        (
            'id = "x"\nname = "X"\ncountries = ["Estonia"]',
            "module 1 (x): field 'countries' is to be an ISO 3166-1 code",
        ),
        ('id = "x"\nname = "X"\ncountries = "EE"', "module 1 (x): field 'countries' is to be a list"),
        ('id = "x"\nname = "X"\npaths = ["/a"]', "module 1 (x): field 'paths' is to be a table of systems"),
        ('id = "x"\nname = "X"\npaths.bsd = ["/a"]', "module 1 (x): field 'paths.bsd' is not known; there are id,"),
        ('id = "x"\nname = "X"\npaths.linux = ["a.so"]', "module 1 (x): field 'paths.linux' is to be a whole path"),
        (
            'id = "x"\nname = "X"\npaths.linux = ["{home}/a"]',
            "module 1 (x): field 'paths.linux' may have in braces only",
        ),
        ('id = "x"\nname = "X"\npaths.linux = ["{lib/a"]', "module 1 (x): field 'paths.linux' may have in braces only"),
        ('id = "x"\nname = "X"\npackages.rpm = "x"', "module 1 (x): field 'packages' is to name packages by debian,"),
        (
            'id = "x"\nname = "X"\npackages.debian = "x; rm"',
            "module 1 (x): field 'packages' is to be the name of a package",
        ),
        ('id = "x"\nname = "X"\nurl = "http://x"', "module 1 (x): field 'url' is to be an https address"),
        ('id = "x"\nname = "X"\nquirk = ["x"]', "module 1 (x): field 'quirk' is not known"),
        (
            'id = "x"\nname = "X"\n[[module]]\nid = "x"\nname = "Y"',
            "module 2 (x): field 'id' is that of an earlier row",
        ),
    ],
)
def test_a_wrong_row_is_named_and_hides_no_other(own, row, problem):
    (own / "modules.toml").write_text(f"[[module]]\n{row}\n{GOOD}")
    read = table(own)
    (said,) = read.problems
    assert said.startswith(f"{own / 'modules.toml'}: {problem}")
    assert "good" in [each.id for each in read.modules]


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ('atrs = ["3B 0"]', "field 'atrs' is to be an ATR in hex, at most 33 bytes"),
        ('atrs = ["3B XX"]', "field 'atrs' is to be an ATR"),
        ('atrs = ["...."]', "field 'atrs' is to be an ATR"),
        (f'atrs = ["{"3B" * 34}"]', "field 'atrs' is to be an ATR"),
        ("atrs = [[59]]", "field 'atrs' is to be an ATR"),
        ('aids = ["A0 00"]', "field 'aids' is to be the name of an application, in hex, of 5 to 16 bytes"),
        ('samples = ["3B .."]', "field 'samples' is to be an ATR, in hex, of 2 to 33 bytes"),
        ('modules = ["opensc", "nothing"]', "field 'modules': no module is called nothing"),
    ],
)
def test_a_wrong_field_of_a_card_is_named(own, field, problem):
    (own / "cards.toml").write_text(f'[[card]]\nkind = "x"\nname = "X"\n{field}\n')
    (said,) = table(own).problems
    assert problem in said
    assert "'x'" in said or "card 1 (x)" in said


def test_a_card_keeps_the_modules_that_there_are(own):
    (own / "cards.toml").write_text('[[card]]\nkind = "x"\nname = "X"\nmodules = ["nothing", "opensc"]\n')
    assert table(own).cards[0].modules == ("opensc",)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_text("not toml"), "can not be used: Expected '='"),
        (lambda path: path.write_bytes(b"\xff"), "can not be used: 'utf-8' codec"),
        (lambda path: path.write_text("x = " + "[" * 5000), "can not be used: it is nested too deeply"),
        (lambda path: path.write_bytes(b"#" * (1 << 20) + b"##"), "can not be used: it is larger than 1048576 bytes"),
        (lambda path: path.write_text("module = 1"), "rows stand under [[module]], in double brackets"),
        (lambda path: path.write_text('[module]\nid = "x"'), "rows stand under [[module]], in double brackets"),
        (lambda path: path.write_text("module = [1]"), "module 1: is not a table"),
        (lambda path: path.write_text("[[modules]]"), "'modules' is not known; rows stand under [[module]]"),
        (Path.mkdir, "can not be used: it is not a regular file"),
        (make_fifo, "can not be used: it is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "can not be used: No such file or directory"),
    ],
)
def test_a_file_that_can_not_be_used_is_a_problem(own, make, problem):
    make(own / "modules.toml")
    read = table(own)
    (said,) = read.problems
    assert said.startswith(str(own / "modules.toml"))
    assert problem in said
    assert read.modules == OUR_MODULES


def test_problems_are_logged(own, caplog):
    (own / "modules.toml").write_text("nonsense")
    environ = {"HOME": str(own.parents[1])}
    with caplog.at_level(logging.WARNING, "tokenauth"):
        assert modules(environ) == OUR_MODULES
        assert cards(environ) == OUR_CARDS
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert str(own / "modules.toml") in caplog.text


def test_a_mistake_in_our_own_rows_is_no_problem_of_the_user(monkeypatch):
    broken = TableFile("cards.toml", "card", "kind", {**CARD_FIELDS, "new": rows.Field(str, required=True)}, Card)
    problems: list[str] = []
    data = Path(rows.__file__).with_name("cards.toml").read_bytes()
    assert read_rows(broken, data, "cards.toml", problems) == []
    assert len(problems) == len(OUR_CARDS)
    monkeypatch.setattr("tokenauth.cards.files._FILES", {"cards.toml": broken})
    from tokenauth.cards.files import _built_in

    with pytest.raises(RowError, match=r"^cards\.toml: card 1 \(yubikey\): field 'new' is missing$"):
        _built_in.__wrapped__("cards.toml")


# --- anything at all -------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.dates()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
NAMES = st.sampled_from([*MODULE_FIELDS, *CARD_FIELDS, "paths", "x"])


@given(st.dictionaries(NAMES, VALUES) | VALUES, st.sampled_from([MODULES, CARDS]))
def test_any_row_is_read_or_says_what_is_wrong(row, file):
    try:
        made = file.make(**read_row(row, file.fields))
    except RowError as error:
        said = str(error)
    else:
        assert made == file.make(*made)
        hash(made)
        return
    assert said.isprintable()
    assert re.match("field '|is not a table", said)


@given(st.binary() | st.text().map(str.encode), st.sampled_from([MODULES, CARDS]))
@example(b"[[module]]\nid = 2021-13-01", MODULES)
@example(b"module = " + b"[" * 2000, MODULES)
@example(b"x = 1" + b"0" * 5000, CARDS)
@example("[[card]]\nkind = 'a\N{RIGHT-TO-LEFT OVERRIDE}'".encode(), CARDS)
def test_any_file_gives_rows_and_problems(data, file):
    problems: list[str] = []
    found = read_rows(file, data, "file", problems)
    assert all(isinstance(row, file.make) for row in found)
    assert all(problem.startswith("file") for problem in problems)


@given(
    st.text("{}libprogams_x8/~.\\:C\0", max_size=20),
    st.sampled_from([("linux", ["/usr/lib", "/a{b"]), ("win32", [])]),
)
def test_any_template_that_is_taken_gives_paths(template, where):
    platform, libraries = where
    try:
        values = read_row({"id": "x", "name": "x", f"paths.{platform}": [template]}, MODULE_FIELDS)
    except RowError:
        return
    paths = paths_of(Module(**values), platform, libraries=libraries, environ={"HOME": "/h"})
    assert all("\0" not in path for path in paths)


def test_every_package_manager_has_a_command():
    assert all(command.count("{}") == 1 and command.startswith(program) for program, command in MANAGERS.values())
