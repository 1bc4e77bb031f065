from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenauth.errors import ModuleError
from tokenauth.pkcs11.discovery import (
    SYSTEMS,
    ModuleCandidate,
    System,
    discover,
    library_name,
    parse_module_file,
    survey,
)

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


class Machine:
    """A machine in a directory: p11-kit's directories, two directories of libraries, a home."""

    def __init__(self, root: Path) -> None:
        self.package = root / "share/p11-kit/modules"
        self.etc = root / "etc/pkcs11/modules"
        self.home = root / "home"
        self.user = self.home / ".config/pkcs11/modules"
        self.modules = root / "lib/pkcs11"
        self.lib = root / "lib"
        self.local = root / "local/lib"
        for directory in (self.package, self.etc, self.user, self.modules, self.local):
            directory.mkdir(parents=True)
        self.environ = {"HOME": str(self.home)}
        self.system = System(
            configuration=(str(self.etc.parent / "pkcs11.conf"),),
            module_files=(str(self.etc), str(self.package)),
            user_directory="~/.config/pkcs11",
            module_directories=(str(self.modules),),
            libraries=(str(self.lib), str(self.local)),
            known=("{lib}/opensc-pkcs11.so", "{lib}/softhsm/libsofthsm2.so"),
        )

    def library(self, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(path).encode())
        return str(path)

    def survey(self, explicit: str | None = None, **options):
        return survey(explicit, environ=self.environ, system=self.system, **options)

    def paths(self, explicit: str | None = None, **options) -> list[str]:
        found = self.survey(explicit, **options)
        assert found.problems == []
        return [candidate.path for candidate in found.candidates]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    # Like p11-kit, discovery leaves the user's files alone when it runs as root, and CI does run as root.
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    return Machine(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/softhsm/libsofthsm2.so", "softhsm2"),
        ("opensc-pkcs11.so", "opensc-pkcs11"),
        ("/usr/lib/libykcs11.so.2.5.1", "ykcs11"),
        ("/opt/homebrew/lib/libykcs11.2.dylib", "ykcs11"),
        ("eTPKCS11.DLL", "eTPKCS11"),
        ("softhsm2", "softhsm2"),
        ("libs.o.so", "s.o"),
        (".so", ""),
        ("", ""),
    ],
)
def test_library_name_has_no_affixes(path: str, name: str) -> None:
    assert library_name(path) == name


# --- p11-kit's file format -------------------------------------------------------------------------------------------


def test_module_file_syntax() -> None:
    text = (
        "# comment\n\n  module :  /lib/a b.so \r\n\t# indented comment\nx-uri: pkcs11:token=a#b\n"
        "priority:1\npriority: 2\nempty:"
    )
    assert parse_module_file(text) == {
        "module": "/lib/a b.so",
        "x-uri": "pkcs11:token=a#b",
        "priority": "2",
        "empty": "",
    }


@pytest.mark.parametrize("line", ["module /lib/a.so", "[section: x]", "-----BEGIN X: Y-----", "\xa0"])
def test_malformed_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 "):
        parse_module_file(f"module: a.so\n{line}\n")


@settings(deadline=None)
@given(st.text())
def test_any_text_is_settings_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_module_file(text)
    except ValueError:
        return
    for name, value in parsed.items():
        assert name == name.strip(" \t\n\v\f\r")
        assert value == value.strip(" \t\n\v\f\r")
        assert name in text
        assert value in text


_words = st.text(st.characters(exclude_characters="\n:", exclude_categories=["Cs"])).map(lambda s: s.strip(" \t\v\f\r"))


@settings(deadline=None)
@given(st.dictionaries(_words.filter(lambda name: name and name[0] not in "#[-"), _words))
def test_written_settings_are_read_back(written: dict[str, str]) -> None:
    text = "".join(f"  {name} :\t{value} \n" for name, value in written.items())
    assert parse_module_file(text) == written


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("fuzzed"))
    good = machine.library(machine.modules / "libgood.so")
    (machine.etc / "good.module").write_text(f"module: {good}\npriority: 1")
    return machine


_keys = ["module", "enable-in", "disable-in", "priority", "remote", "user-config", "x"]
_lines = st.tuples(st.sampled_from(_keys), st.text()).map(": ".join).map(lambda line: line.encode("utf-8", "replace"))


@settings(deadline=None)
@given(st.one_of(st.binary(), st.lists(_lines).map(b"\n".join)), st.binary())
def test_no_bytes_in_a_file_hide_the_other_modules(fuzzed: Machine, module: bytes, configuration: bytes) -> None:
    (fuzzed.etc / "any.module").write_bytes(module)
    (fuzzed.etc.parent / "pkcs11.conf").write_bytes(configuration)
    found = fuzzed.survey()
    assert found.candidates[0] == ModuleCandidate(str(fuzzed.modules / "libgood.so"), "p11-kit: good.module", "good")
    "".join(found.problems).encode()  # can be printed


# --- a module that somebody names ------------------------------------------------------------------------------------


def test_explicit_module_is_used_alone(machine: Machine) -> None:
    machine.library(machine.lib / "opensc-pkcs11.so")
    mine = machine.library(machine.home / "mine.so")
    machine.environ["TOKENAUTH_MODULE"] = "/nonexistent"
    found = machine.survey(mine, module_name="opensc-pkcs11", module_path="relative")
    assert found == ([ModuleCandidate(mine, "--module", "mine")], [])


def test_explicit_path_may_be_relative_or_in_the_home(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = machine.library(machine.home / "mine.so")
    monkeypatch.chdir(machine.home)
    assert machine.paths("./mine.so") == machine.paths("~/mine.so") == [mine]


def test_explicit_file_name_is_looked_for_in_the_usual_directories(machine: Machine) -> None:
    softhsm = machine.library(machine.local / "softhsm/libsofthsm2.so")
    other = machine.library(machine.modules / "other.so")
    assert machine.paths("libsofthsm2.so") == machine.paths("softhsm2") == [softhsm]
    assert machine.paths("other.so") == [other]


def test_explicit_file_name_is_not_looked_for_in_the_current_directory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.library(machine.home / "mine.so")
    monkeypatch.chdir(machine.home)
    with pytest.raises(ModuleError, match=r"'mine.so', which is in no usual directory") as caught:
        machine.survey("mine.so")
    assert "full path" in caught.value.hint


@pytest.mark.parametrize(
    "wrong", ["/nonexistent/libx.so", "/etc", "/dev/null", "/a\0b", "", "~", "..", "no.so", "/\udc80"]
)
def test_explicit_path_without_a_file(machine: Machine, wrong: str) -> None:
    with pytest.raises(ModuleError) as caught:
        machine.survey(wrong)
    assert repr(wrong) in caught.value.message
    assert caught.value.message.startswith("--module")
    assert "full path" in caught.value.hint


def test_explicit_may_be_p11_kits_proxy(machine: Machine) -> None:
    proxy = machine.library(machine.lib / "p11-kit-proxy.so")
    assert machine.paths(proxy) == machine.paths("p11-kit-proxy.so") == [proxy]


def test_environment_lists_modules_used_alone(machine: Machine) -> None:
    machine.library(machine.lib / "opensc-pkcs11.so")
    one, two = (machine.library(machine.home / name) for name in ("one.so", "libtwo.so"))
    machine.environ["TOKENAUTH_MODULE"] = os.pathsep.join(["", two, one, two])
    assert machine.survey() == (
        [ModuleCandidate(two, "TOKENAUTH_MODULE", "two"), ModuleCandidate(one, "TOKENAUTH_MODULE", "one")],
        [],
    )
    assert machine.paths(module_name="one") == [one]
    assert machine.paths(module_name="opensc-pkcs11") == []


def test_environment_entry_without_a_file(machine: Machine) -> None:
    one = machine.library(machine.home / "one.so")
    machine.environ["TOKENAUTH_MODULE"] = os.pathsep.join([one, "/nonexistent/libx.so"])
    with pytest.raises(ModuleError, match=r"^TOKENAUTH_MODULE names the module '/nonexistent/libx.so': No such file"):
        machine.survey()


@pytest.mark.parametrize("value", ["", os.pathsep])
def test_empty_environment_variable_is_as_unset(machine: Machine, value: str) -> None:
    opensc = machine.library(machine.lib / "opensc-pkcs11.so")
    machine.environ["TOKENAUTH_MODULE"] = value
    assert machine.paths() == [opensc]


# --- attributes of the URI -------------------------------------------------------------------------------------------


def test_module_path_of_the_uri(machine: Machine) -> None:
    machine.environ["TOKENAUTH_MODULE"] = machine.library(machine.home / "other.so")
    mine = machine.library(machine.home / "libmine.so")
    assert machine.survey(module_path=mine) == ([ModuleCandidate(mine, "module-path", "mine")], [])
    assert machine.paths(module_path=str(machine.home), module_name="mine") == [mine]


@pytest.mark.parametrize("wrong", ["libmine.so", "home/libmine.so", "", "/", "/nonexistent"])
def test_module_path_of_the_uri_without_a_file(machine: Machine, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    machine.library(machine.home / "libmine.so")
    monkeypatch.chdir(machine.home.parent)
    with pytest.raises(ModuleError, match=re.escape(f"module-path names the module {wrong!r}")):
        machine.survey(module_path=wrong, module_name="mine")


@pytest.mark.parametrize("name", ["softhsm2", "SoftHSM2", "softhsm", "libsofthsm2.so"])
def test_module_name_selects(machine: Machine, name: str) -> None:
    softhsm = machine.library(machine.lib / "softhsm/libsofthsm2.so")
    machine.library(machine.lib / "opensc-pkcs11.so")
    assert machine.paths(module_name=name) == [softhsm]


def test_equal_module_name_goes_before_a_longer_one(machine: Machine) -> None:
    for name in ("card", "card-v2"):
        (machine.etc / f"{name}.module").write_text("module: " + machine.library(machine.home / f"lib{name}.so"))
    assert machine.paths(module_name="card") == [str(machine.home / "libcard.so")]
    assert len(machine.paths(module_name="car")) == 2


def test_module_name_that_nothing_lists_is_looked_for(machine: Machine) -> None:
    machine.library(machine.lib / "opensc-pkcs11.so")
    proxy = machine.library(machine.lib / "p11-kit-proxy.so")
    assert machine.survey(module_name="p11-kit-proxy").candidates == [
        ModuleCandidate(proxy, "module-name", "p11-kit-proxy")
    ]
    assert machine.paths(module_name="nothing") == []


@pytest.mark.parametrize("name", ["../../home/mine", "/{home}/mine", "..", "/"])
def test_module_name_is_no_path(machine: Machine, name: str) -> None:
    machine.library(machine.home / "mine.so")
    assert machine.paths(module_name=name.format(home=machine.home)) == []


# --- p11-kit's module files ------------------------------------------------------------------------------------------


def test_module_files_go_by_priority_then_name(machine: Machine) -> None:
    for file, priority in [("a-b", "0"), ("a", ""), ("z", "7"), ("low", "-1"), ("word", "high")]:
        machine.library(machine.modules / f"{file}.so")
        (machine.package / f"{file}.module").write_text(f"module: {file}.so\npriority: {priority}\nmanaged: no\n")
    assert [candidate.name for candidate in machine.survey().candidates] == ["z", "a", "a-b", "word", "low"]


def test_known_paths_follow_the_module_files(machine: Machine) -> None:
    softhsm = machine.library(machine.local / "softhsm/libsofthsm2.so")
    mine = machine.library(machine.modules / "mine.so")
    (machine.package / "mine.module").write_text("module: mine.so")
    assert machine.survey() == (
        [
            ModuleCandidate(mine, "p11-kit: mine.module", "mine"),
            ModuleCandidate(softhsm, "known path", "softhsm2"),
        ],
        [],
    )


def test_one_file_is_listed_once(machine: Machine) -> None:
    real = machine.library(machine.lib / "softhsm/libsofthsm2.so")
    for name in ("one", "two"):
        (machine.modules / f"{name}.so").symlink_to(real)
        (machine.package / f"{name}.module").write_text(f"module: {name}.so")
    assert machine.paths() == [str(machine.modules / "one.so")]


def test_second_copy_of_a_known_module_is_left_out(machine: Machine) -> None:
    first = machine.library(machine.lib / "opensc-pkcs11.so")
    machine.library(machine.local / "opensc-pkcs11.so")
    assert machine.paths() == [first]
    offered = machine.library(machine.modules / "opensc-pkcs11.so")
    (machine.package / "opensc.module").write_text("module: opensc-pkcs11.so")
    assert machine.paths() == [offered]


@pytest.mark.parametrize(
    ("setting", "used"),
    [
        ("enable-in: firefox, tokenauth", True),
        ("enable-in: firefox\tother", False),
        ("enable-in:", False),
        ("enable-in: tokenauth2,my-tokenauth", False),
        ("disable-in: firefox,tokenauth", False),
        ("disable-in: tokenauth2", True),
        ("disable-in:", True),
        ("disable-in: tokenauth\nenable-in: tokenauth", True),
        ("remote: |ssh host p11-kit remote /lib/x.so", False),
        ("module:", False),
    ],
)
def test_module_file_may_switch_a_module_off_and_it_does_not_come_back(
    machine: Machine, setting: str, used: bool
) -> None:
    opensc = machine.library(machine.lib / "opensc-pkcs11.so")
    (machine.package / "opensc.module").write_text(f"module: {opensc}\n")
    (machine.etc / "opensc.module").write_text(setting)
    assert machine.paths() == ([opensc] if used else [])


@pytest.mark.parametrize("name", ["p11-kit-trust.so", "p11-kit-proxy.so", "libnssckbi.so"])
def test_libraries_without_keys_are_not_chosen(machine: Machine, name: str) -> None:
    machine.library(machine.modules / name)
    (machine.package / "x.module").write_text(f"module: {name}")
    (machine.modules / "alias.so").symlink_to(name)
    (machine.package / "y.module").write_text("module: alias.so")
    assert machine.paths() == []


def test_files_of_earlier_directories_override_settings_one_by_one(machine: Machine) -> None:
    a, b, c = (machine.library(machine.modules / f"{name}.so") for name in "abc")
    (machine.package / "x.module").write_text("module: a.so\npriority: 1")
    (machine.package / "y.module").write_text("module: b.so\npriority: 2")
    (machine.package / "z.module").write_text("module: c.so")
    (machine.etc / "x.module").write_text("priority: 3")
    assert machine.paths() == [a, b, c]
    (machine.user / "x.module").write_text("module: c.so")
    (machine.user / "y.module").write_text("priority: 4")
    assert machine.paths() == [b, c]


@pytest.mark.parametrize(
    ("system", "user", "expected"),
    [
        (None, None, ["user", "system"]),
        ("merge", None, ["user", "system"]),
        ("none", "only", ["system"]),
        ("only", None, ["user"]),
        ("only", "", ["user"]),
        ("only", "merge", ["user", "system"]),
        ("merge", "none", ["system"]),
        ("merge", "only", ["user"]),
        ("merge", "override", ["user"]),
    ],
)
def test_user_config_setting(machine: Machine, system: str | None, user: str | None, expected: list[str]) -> None:
    for directory, name, priority in [(machine.user, "user", 1), (machine.package, "system", 0)]:
        machine.library(machine.modules / f"{name}.so")
        (directory / f"{name}.module").write_text(f"module: {name}.so\npriority: {priority}")
    for directory, mode in [(machine.etc, system), (machine.user, user)]:
        if mode is not None:
            (directory.parent / "pkcs11.conf").write_text(f"user-config: {mode}\n" if mode else "log-calls: no\n")
    assert [library_name(path) for path in machine.paths()] == expected


def test_user_directory(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = machine.library(machine.modules / "mine.so")
    (machine.user / "mine.module").write_text("module: mine.so")
    assert machine.paths() == [mine]
    machine.environ = {"XDG_CONFIG_HOME": str(machine.home / ".config"), "HOME": "/nonexistent"}
    assert machine.paths() == [mine]
    machine.environ["P11_KIT_NO_USER_CONFIG"] = ""
    assert machine.paths() == []
    del machine.environ["P11_KIT_NO_USER_CONFIG"]
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert machine.paths() == []


# --- problems --------------------------------------------------------------------------------------------------------


def test_broken_files_are_problems_and_hide_nothing(machine: Machine) -> None:
    good = machine.library(machine.modules / "good.so")
    (machine.etc / "good.module").write_text("module: good.so")
    (machine.etc / "malformed.module").write_text("module: good.so\nrubbish\n")
    (machine.etc / "binary.module").write_bytes(bytes(range(256)))
    (machine.etc / "missing.module").write_text("module: /nonexistent/lib.so")
    (machine.etc / "dangling.module").symlink_to("nowhere")
    (machine.etc / "directory.module").mkdir()
    (machine.etc / "backup.module~").write_text("module: good.so")
    (machine.etc / "large.module").write_bytes(b"#" * (1 << 21))
    os.mkfifo(machine.etc / "fifo.module")
    (machine.etc.parent / "pkcs11.conf").write_text("user-config: sometimes")
    found = machine.survey()
    assert [candidate.path for candidate in found.candidates] == [good]
    expected = {
        "sometimes": "sets user-config to 'sometimes'",
        "backup.module~": "should have a name that ends in '.module'",
        "binary.module": "cannot be used: line 1 is not 'name: value'",
        "dangling.module": "cannot be used: No such file or directory",
        "fifo.module": "cannot be used: not a regular file",
        "large.module": "cannot be used: larger than",
        "malformed.module": "cannot be used: line 2 is not 'name: value'",
        "missing.module": "names the module '/nonexistent/lib.so', which does not exist",
    }
    assert len(found.problems) == len(expected)
    for problem, (file, text) in zip(found.problems, expected.items(), strict=True):
        assert file in problem
        assert text in problem


def test_known_path_stands_in_for_a_module_that_its_file_misplaces(machine: Machine) -> None:
    opensc = machine.library(machine.lib / "opensc-pkcs11.so")
    (machine.package / "opensc.module").write_text("module: opensc-pkcs11.so")
    found = machine.survey()
    assert found.candidates == [ModuleCandidate(opensc, "known path", "opensc-pkcs11")]
    assert len(found.problems) == 1


def test_discover_logs_problems(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    (machine.user / "bad.module").write_text("rubbish")
    with caplog.at_level(logging.WARNING, "tokenauth"):
        assert discover(environ=machine.environ) == discover(environ={"HOME": "/nonexistent"})
    ours = [record for record in caplog.records if "bad.module" in record.getMessage()]
    assert [(record.name, record.levelname) for record in ours] == [("tokenauth", "WARNING")]


# --- this machine ----------------------------------------------------------------------------------------------------


def test_softhsm_of_debian_is_found_through_p11_kit() -> None:
    found = [module for module in discover(environ={}) if module.name == "softhsm2"]
    assert [(Path(module.path).resolve(), module.origin) for module in found] == [
        (SOFTHSM.resolve(strict=True), "p11-kit: softhsm2.module")
    ]


def test_softhsm_of_debian_is_found_without_p11_kit() -> None:
    system = SYSTEMS["linux"]._replace(module_files=())
    found = [module for module in survey(environ={}, system=system).candidates if module.name == "softhsm2"]
    assert [(Path(module.path).resolve(), module.origin) for module in found] == [(SOFTHSM.resolve(), "known path")]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_every_table_can_be_searched(system: System) -> None:
    with pytest.raises(ModuleError):
        survey("no-such-module", environ={}, system=system)
    assert all(Path(module.path).is_file() for module in survey(environ={}, system=system).candidates)


def p11_kit_modules(environ: dict[str, str]) -> list[str]:
    """Names of the libraries that p11-kit itself lists, in its order, but for its trust module."""
    user = 65534 if os.getuid() == 0 else None  # root's p11-kit reads no user configuration
    listing = subprocess.run(
        ["p11-kit", "list-modules"],
        env=os.environ | environ,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
        timeout=30,
    ).stdout
    # "name: path" up to version 0.24, "module: name" and an indented "path: path" since 0.25
    paths = re.findall(r"^(?!module:)\S+: (\S+)$|^    path: (\S+)$", listing, re.MULTILINE)
    names = [library_name(old or new) for old, new in paths]
    assert names.count("p11-kit-trust") == 1
    return [name for name in names if name != "p11-kit-trust"]


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that another user may enter and write, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def p11_kit_environ(public_dir: Path) -> dict[str, str]:
    (public_dir / "tokens").mkdir()
    (public_dir / "tokens").chmod(0o777)
    (public_dir / "softhsm2.conf").write_text(f"directories.tokendir = {public_dir}/tokens\n")
    (public_dir / "pkcs11/modules").mkdir(parents=True)
    return {"XDG_CONFIG_HOME": str(public_dir), "SOFTHSM2_CONF": str(public_dir / "softhsm2.conf")}


def test_modules_of_this_machine_are_those_of_p11_kit(p11_kit_environ: dict[str, str]) -> None:
    names = p11_kit_modules(p11_kit_environ)
    assert "softhsm2" in names
    # p11-kit leaves out those that do not load here.
    assert [module.name for module in discover(environ={}) if module.name in names] == names


def from_files(environ: dict[str, str], loadable: list[str]) -> list[str]:
    """The modules that files name, without those of this machine that p11-kit can not load."""
    found = [module for module in survey(environ=environ).candidates if module.origin != "known path"]
    own = environ["XDG_CONFIG_HOME"]
    return [module.name for module in found if module.name in loadable or module.path.startswith(own)]


def test_user_files_are_read_as_p11_kit_reads_them(
    public_dir: Path, p11_kit_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "first": "priority: 9",
        "last": "  priority :-9\n#enable-in: nobody",
        "listed": "enable-in: nobody,p11-kit tokenauth",
        "nobody": "enable-in:",
        "other": "enable-in: my-p11-kit my-tokenauth p11-kit2 tokenauth2",
        "switched-off": "disable-in: x, p11-kit,tokenauth",
        "everybody": "disable-in:",
        "both": "disable-in: p11-kit tokenauth\nenable-in: p11-kit tokenauth",
        "twice": "priority: 1\npriority: 3",
    }
    for name, lines in files.items():
        shutil.copy(SOFTHSM, public_dir / f"lib{name}.so")
        (public_dir / f"pkcs11/modules/{name}.module").write_text(f"module: {public_dir}/lib{name}.so\n{lines}\n")
    (public_dir / "pkcs11/modules/softhsm2.module").write_text("module:\n")
    (public_dir / "pkcs11/modules/odd.name").write_text(f"module: {public_dir}/libodd.so\npriority: 5")
    shutil.copy(SOFTHSM, public_dir / "libodd.so")

    names = p11_kit_modules(p11_kit_environ)
    assert names[:3] == ["first", "odd", "twice"]
    assert names[-1] == "last"
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert from_files(p11_kit_environ, names) == names

    (public_dir / "pkcs11/pkcs11.conf").write_text("user-config: none")
    monkeypatch.undo()
    names = p11_kit_modules(p11_kit_environ)
    assert "first" not in names
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert from_files(p11_kit_environ, names) == names


def test_discovery_loads_no_module_and_little_else() -> None:
    code = """
import sys, tokenauth.errors
before = set(sys.modules)
from tokenauth.pkcs11 import discovery
assert any(module.name == "softhsm2" for module in discovery.discover(environ={}))
assert "softhsm" not in open("/proc/self/maps").read()
print(*sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    modules = ["_records", "pkcs11", "pkcs11.discovery", "pkcs11.known_modules", "pkcs11.p11kit"]
    assert run.stdout.split() == [f"tokenauth.{module}" for module in modules]
