"""The same with the modules of several makers, each in processes of its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.modules import page
from tests.support.modules.providers import PROVIDERS
from tests.support.modules.trial_script import MESSAGE
from tests.support.modules.trials import Made, verify_with_openssl
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several of these modules need Linux")

#: How many ways of signing are tried with each kind of key.
SIGNATURES = {"rsa2048": 6, "p256": 3}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"module {name}")) for name in PROVIDERS],
)
def made(request, tmp_path_factory) -> Iterator[Made]:
    with PROVIDERS[request.param](tmp_path_factory.mktemp(request.param)) as token:
        yield token


@pytest.fixture(scope="module")
def server(made, tmp_path_factory) -> Iterator[Nginx]:
    with Nginx(made.authority, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def test_looking_costs_nothing(made):
    seen = made.trial("show", pin="")
    assert sorted(found["name"] for found in seen["identities"]) == sorted(made.keys)
    assert all(found["problems"] == [] for found in seen["identities"])
    assert all("tls-client" in found["purposes"] for found in seen["identities"])
    assert seen["asked"] == 0


def test_each_signature_is_verified_by_two_others(made, tmp_path):
    signed = made.trial("sign", tmp_path)
    assert set(signed["made"].values()) == {"ok"}, signed["made"]
    assert len(signed["made"]) == sum(SIGNATURES[key] for key in made.keys)
    for name in signed["made"]:
        verify_with_openssl(tmp_path, name, MESSAGE)
    assert signed["asked"] == 1


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls(made, server, version):
    seen = made.trial("tls", str(server.port), server.cafile, version)
    assert set(seen) == set(made.keys)
    for key, answer in seen.items():
        shown = Nginx.parse(answer.encode())
        assert shown["ssl_client_s_dn"] == f"CN={key}"
        assert shown["ssl_client_verify"] == "SUCCESS"
        assert shown["ssl_protocol"] == version.replace("_", ".")


def test_a_wrong_pin_is_sent_once(made, server):
    assert made.trial("wrong", str(server.port), server.cafile, pin=made.wrong_pin) == ["PinIncorrect", "PinRefused"]
    assert made.trial("wrong", str(server.port), server.cafile) == ["ok", "ok"]


def test_fork(made, server):
    assert made.trial("fork", str(server.port), server.cafile) == ["ok", "ok", "ok"]


def test_the_page_tells_what_happens(made, tmp_path):
    row, mechanisms = page.row_of(made, tmp_path)
    text = page.PAGE.read_text()
    (told,) = [told for told in page.read(text, "modules") if told["module"] == row["module"]]
    assert list(told) == list(row)
    del told["version"], row["version"]  # another machine has another one
    assert told == row
    listed = {line["listed for signatures"].strip("`") for line in page.read(text, "mechanisms") if line[row["module"]]}
    assert listed == mechanisms


def test_the_page_has_a_column_for_each_module():
    told = [line["module"] for line in page.read(page.PAGE.read_text(), "modules")]
    assert told == [f"`{name}`" for name in PROVIDERS]
