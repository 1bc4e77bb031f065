"""Certificates on tokens, paired with their keys: what is found, what is wrong with it, and what names it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import tokenauth
from tests.conftest import KEYS, log_out
from tests.support import common_name, counting, signing_request
from tokenauth.pkcs11.binding import python_pkcs11, writable_session
from tokenauth.pkcs11.keys import KeyReference
from tokenauth.provisioning import keys
from tokenauth.testing import Authority, SoftToken

pytestmark = pytest.mark.xdist_group("identity")
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
ECDSA = ec.ECDSA(hashes.SHA256())


class Writer:
    """Puts keys and certificates on a token one by one, as careless people and programs do."""

    def __init__(self, token: SoftToken) -> None:
        self.token = token

    def key(self, reference):
        return keys.generate_key(self.token.token, self.token.credentials, "p256", reference)

    def certificate(self, certificate, reference):
        keys.store_certificate(self.token.token, self.token.credentials, certificate, reference)

    def certify(self, name, key, *, authority=None, **settings):
        request = x509.CertificateSigningRequestBuilder().subject_name(common_name(name)).sign(key, hashes.SHA256())
        return (authority or self.token.ca).issue(request, **settings)

    def object(self, kind, **attributes):
        pkcs11 = python_pkcs11()
        template = {getattr(pkcs11.Attribute, name.upper()): value for name, value in attributes.items()}
        template |= {pkcs11.Attribute.CLASS: kind, pkcs11.Attribute.TOKEN: True, pkcs11.Attribute.PRIVATE: False}
        keys.store_object(self.token.token, self.token.credentials, template)

    def raw_certificate(self, value, label, identifier=b""):
        pkcs11 = python_pkcs11()
        self.object(
            pkcs11.ObjectClass.CERTIFICATE,
            certificate_type=pkcs11.CertificateType.X_509,
            label=label,
            id=identifier,
            subject=b"0\x00",
            value=value,
        )


def reference(label, identifier=None):
    return KeyReference(secrets.token_bytes(8) if identifier is None else identifier, label)


def software_key():
    return ec.generate_private_key(ec.SECP256R1())


def by_label(token):
    found = tokenauth.identities(token.uri, module=token.module)
    labels = [identity.label for identity in found]
    assert len(set(labels)) == len(labels)
    return dict(zip(labels, found, strict=True))


@pytest.fixture(scope="module")
def zoo():
    """A token with everything that can be wrong, and one identity that is right."""
    with SoftToken("zoo", key_type=None) as token:
        write = Writer(token)
        write.raw_certificate(b"no certificate at all", "garbage", b"\xf1")
        write.raw_certificate(b"0\x82\xff\xff", "truncated", b"\xf2")
        write.object(python_pkcs11().ObjectClass.DATA, label="some data", value=b"\x00\x01")
        token.add_identity("expired", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
        token.add_identity("early", not_before=NOW + DAY)
        token.add_identity("document", purposes=["document"])
        token.add_identity("server", purposes=["tls-server"])
        mismatched = reference("mismatched")
        write.key(mismatched)
        write.certificate(write.certify("mismatched", software_key()), mismatched)
        write.certificate(write.certify("keyless", software_key()), reference("keyless"))
        agreement = reference("agreement")
        write.certificate(key_agreement_only(token.ca, write.key(agreement)), agreement)
        extractable(write, "extractable")
        token.add_identity("good")
        yield token


def key_agreement_only(authority, key):
    bits = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
    usage = {bit: bit == "key_agreement" for bit in (bits + "crl_sign encipher_only decipher_only").split()}
    return (
        x509.CertificateBuilder()
        .subject_name(common_name("agreement"))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(software_key(), hashes.SHA256())
    )


def extractable(write, label):
    """A key pair whose private half may leave the token, with its certificate."""
    pkcs11 = python_pkcs11()
    named = reference(label)
    settings = {pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True}
    with writable_session(write.token.token, "testing") as session:
        parameters = {pkcs11.Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        session.create_domain_parameters(pkcs11.KeyType.EC, parameters, local=True).generate_keypair(
            id=named.id,
            label=label,
            store=True,
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template=settings,
        )
    from tokenauth.pkcs11.keys import TokenKey
    from tokenauth.pkcs11.private_keys import private_key, shape_of
    from tokenauth.pkcs11.public_keys import read_public_key

    public_key = read_public_key(write.token.token, named)
    inner = TokenKey(write.token.token, named, shape_of(public_key), write.token.credentials)
    write.certificate(write.certify(label, private_key(inner, public_key)), named)


PROBLEMS = {
    "garbage": ["certificate 'garbage' can not be read"],
    "truncated": ["certificate 'truncated' can not be read"],
    "expired": [f"expired on {NOW - DAY:%Y-%m-%d}"],
    "early": [f"not valid before {NOW + DAY:%Y-%m-%d %H:%M} UTC"],
    "document": [],
    "server": [],
    "mismatched": ["the key stored with it is another certificate's"],
    "keyless": ["its private key is not on the token"],
    "agreement": ["its key usage allows neither TLS nor document signatures"],
    "extractable": ["its private key can be copied out of the token"],
    "good": [],
}
PURPOSES = {
    "garbage": [],
    "truncated": [],
    "document": ["document"],
    "server": ["tls-server"],
    "agreement": [],
}
#: What only a login shows, where private keys are private objects.
AFTER_LOGIN = {"keyless", "extractable"}


def login(token):
    token.token.login(token.credentials)


def test_every_problem_is_named(zoo):
    login(zoo)
    found = by_label(zoo)
    assert set(found) == set(PROBLEMS)
    for label, expected in PROBLEMS.items():
        problems = found[label].problems
        assert len(problems) == len(expected), (label, problems)
        for problem, beginning in zip(problems, expected, strict=True):
            assert problem.startswith(beginning)


def test_without_a_login_all_are_there_and_no_false_alarm_is_raised(zoo):
    log_out(zoo)
    calls = counting.since()
    found = by_label(zoo)
    for label, expected in PROBLEMS.items():
        problems = found[label].problems
        assert len(problems) == (0 if label in AFTER_LOGIN else len(expected)), (label, problems)
    assert calls.logins == calls.signatures == 0


def test_purposes(zoo):
    found = by_label(zoo)
    assert {label: found[label].purposes for label in found} == {
        label: PURPOSES.get(label, ["tls-client"]) for label in PROBLEMS
    }


def test_looking_at_everything_never_logs_in(zoo, all_keys):
    log_out(zoo)
    calls = counting.since()
    for identity in tokenauth.identities(module=zoo.module):
        assert repr(identity)
        assert identity.uri
        assert identity.token.label
        assert identity.problems is not None
        assert identity.purposes is not None
        if identity.label not in {"garbage", "truncated"}:
            assert identity.certificate.subject
            assert identity.chain is not None
            assert identity.private_key.public_key()
    assert calls.logins == calls.signatures == 0


@pytest.mark.parametrize("label", PROBLEMS)
def test_each_uri_alone_selects_exactly_it(zoo, label):
    identity = by_label(zoo)[label]
    [same] = tokenauth.identities(identity.uri)
    assert (same.uri, same.certificate_der) == (identity.uri, identity.certificate_der)
    assert tokenauth.identity(identity.uri).uri == identity.uri
    assert str(tokenauth.TokenURI.parse(identity.uri)) == identity.uri


def test_a_key_that_is_another_certificates_is_refused_before_it_signs(zoo):
    identity = tokenauth.identity(by_label(zoo)["mismatched"].uri, pin=zoo.pin)
    calls = counting.since()
    with pytest.raises(tokenauth.IdentityNotFound, match="another certificate's"):
        identity.private_key.sign(b"", ECDSA)
    assert calls["C_SignInit"] == calls.signatures == 0


def test_a_key_that_is_not_there_is_said_so(zoo):
    identity = tokenauth.identity(by_label(zoo)["keyless"].uri, pin=zoo.pin)
    with pytest.raises(tokenauth.IdentityNotFound, match="private key is not on it"):
        identity.private_key.sign(b"", ECDSA)


@pytest.mark.parametrize("label", ["garbage", "truncated"])
def test_what_is_no_certificate_says_so(zoo, label):
    identity = by_label(zoo)[label]
    with pytest.raises(tokenauth.IdentityNotFound, match=f"certificate '{label}' can not be read"):
        identity.certificate  # noqa: B018
    with pytest.raises(tokenauth.IdentityNotFound):
        identity.private_key  # noqa: B018


def test_garbage_does_not_keep_the_others_from_signing(zoo):
    identity = tokenauth.identity(f"{zoo.uri};object=good", pin=zoo.pin)
    identity.private_key.public_key().verify(identity.private_key.sign(b"message", ECDSA), b"message", ECDSA)


# One identity, or an error that helps.


def test_several_are_listed(zoo):
    with pytest.raises(tokenauth.AmbiguousIdentity, match=f"selects {len(PROBLEMS)} identities") as failed:
        tokenauth.identity(zoo.uri)
    assert set(failed.value.candidates) == {identity.uri for identity in by_label(zoo).values()}
    assert all(candidate in str(failed.value) for candidate in failed.value.candidates)


def test_no_token(zoo):
    with pytest.raises(tokenauth.TokenNotFound, match="no token matches pkcs11:token=absent"):
        tokenauth.identity("pkcs11:token=absent", module=zoo.module)


def test_no_identity_on_the_token(zoo):
    with pytest.raises(tokenauth.IdentityNotFound, match=r"no certificate on token 'zoo' matches .*object=absent"):
        tokenauth.identity(f"{zoo.uri};object=absent", module=zoo.module)


def test_a_bare_word_is_a_label(zoo):
    assert {identity.label for identity in tokenauth.identities("zoo")} == set(PROBLEMS)


def test_a_pin_in_the_uri_is_in_no_error(zoo):
    with pytest.raises(tokenauth.AmbiguousIdentity) as failed:
        tokenauth.identity(f"{zoo.uri}?pin-value=77665544")
    assert "77665544" not in str(failed.value)
    assert not any("77665544" in candidate for candidate in failed.value.candidates)


def test_the_public_names_hold_after_any_import(zoo):
    """The function and the package have one name; whoever was there first, it can be called."""
    import tokenauth.inventory.search

    assert callable(tokenauth.identity)
    assert tokenauth.identity(f"{zoo.uri};object=good").label == "good"


# Attributes.


@pytest.mark.parametrize("kind", KEYS)
def test_what_an_identity_tells(all_keys, kind):
    identity = tokenauth.identity(all_keys.uris[kind])
    assert identity.label == kind
    assert identity.id
    assert identity.token.label == all_keys.token.label
    assert identity.token.serial == all_keys.token.serial
    assert identity.certificate.subject == common_name(kind)
    assert [link.subject for link in identity.chain] == [all_keys.token.ca.certificate.subject]
    assert identity.certificate.public_bytes(Encoding.DER) == identity.certificate_der
    assert repr(identity) == f"<Identity {identity.uri}>"


def test_cas_are_no_identities(all_keys):
    """The intermediate's certificate is on the token, six times over."""
    assert {identity.label for identity in tokenauth.identities(all_keys.token.uri)} == set(KEYS)


# The chain.


@pytest.fixture(scope="module")
def long_chain():
    """A root, two CAs below it, a leaf; and an impostor with the same name as the leaf's issuer."""
    root = Authority("root")
    upper = root.intermediate("upper", key_type="rsa")
    lower = upper.intermediate("lower")
    impostor = root.intermediate("lower")
    with SoftToken("chain", key_type=None, authority=lower) as token:
        write = Writer(token)
        write.raw_certificate(b"garbage", "garbage")
        for authority in (impostor, root):
            write.certificate(authority.certificate, KeyReference(label=str(authority)))
        token.add_identity("leaf")
        yield token, [lower, upper, root]


def test_the_chain_is_in_order_and_each_link_checked(long_chain):
    token, above = long_chain
    identity = tokenauth.identity(f"{token.uri};object=leaf")
    assert identity.chain == [authority.certificate for authority in above]


def test_a_self_signed_certificate_has_no_chain(long_chain):
    _, (*_, root) = long_chain
    with SoftToken("selfmade", key_type=None) as other:
        key = software_key()
        write = Writer(other)
        write.certificate(root.certificate, KeyReference(label="root"))
        write.certificate(root.issue(signing_request(common_name("me"), key)), reference("me"))
        [identity] = tokenauth.identities(other.uri)
        assert identity.chain == [root.certificate]


# Which key belongs to which certificate.


def signs_with_its_own_key(token, label):
    identity = tokenauth.identity(f"{token.uri};object={label}", pin=token.pin)
    identity.private_key.public_key().verify(identity.private_key.sign(b"message", ECDSA), b"message", ECDSA)
    return identity


@pytest.fixture
def writer():
    with SoftToken("pairs", key_type=None) as token:
        yield Writer(token)


def test_pairing_by_id_whatever_the_labels(writer):
    key = writer.key(KeyReference(b"\x01", "the key"))
    writer.key(KeyReference(b"\x02", "the certificate"))
    writer.certificate(writer.certify("me", key), KeyReference(b"\x01", "the certificate"))
    identity = signs_with_its_own_key(writer.token, "the%20certificate")
    assert identity.id == b"\x01"
    assert not identity.problems


def test_pairing_by_label_where_there_is_no_id(writer):
    key = writer.key(KeyReference(b"\x01", "mine"))
    writer.key(KeyReference(b"\x02", "other"))
    writer.certificate(writer.certify("me", key), KeyReference(b"", "mine"))
    identity = signs_with_its_own_key(writer.token, "mine")
    assert not identity.problems


def test_pairing_by_public_key_where_nothing_else_agrees(writer):
    writer.key(KeyReference(b"\x02", "other"))
    key = writer.key(KeyReference(b"\x01", "the key"))
    writer.certificate(writer.certify("me", key), KeyReference(b"\x09", "lonely"))
    identity = signs_with_its_own_key(writer.token, "lonely")
    assert not identity.problems


def test_of_several_keys_with_one_id_the_certificates_own(writer):
    for name in ("first", "second", "third"):
        key = writer.key(KeyReference(b"\x01", name))
        writer.certificate(writer.certify(name, key), KeyReference(b"\x01", f"cert {name}"))
    for name in ("first", "second", "third"):
        identity = signs_with_its_own_key(writer.token, f"cert%20{name}")
        assert identity.certificate.subject == common_name(name)


def test_two_certificates_for_one_key_are_two_identities(writer):
    key = writer.key(KeyReference(b"\x01", "key"))
    for name in ("old", "new"):
        writer.certificate(writer.certify(name, key), KeyReference(b"\x01", name))
    found = by_label(writer.token)
    assert set(found) == {"old", "new"}
    for name in found:
        assert signs_with_its_own_key(writer.token, name).uri == found[name].uri


def test_a_uri_says_what_the_key_is_called_too(writer):
    """RFC 7512's ``object`` and ``id`` name the object; ``type`` may say that the private key is meant."""
    key = writer.key(KeyReference(b"\x01", "me"))
    writer.certificate(writer.certify("me", key), KeyReference(b"\x01", "me"))
    for kind in ("cert", "private"):
        assert tokenauth.identity(f"{writer.token.uri};type={kind}").label == "me"
    assert tokenauth.identities(f"{writer.token.uri};type=secret-key") == []


@pytest.mark.parametrize(
    "label", ["", "slash/semi;colon", "100%", "naïve ☃", "a=b&c?d", "  blanks  ", "pkcs11:token=x"]
)
def test_labels_of_any_kind_have_uris(writer, label):
    for identifier in (b"\x00", b"\xff%;"):
        key = writer.key(KeyReference(identifier, label))
        writer.certificate(writer.certify("me", key), KeyReference(identifier, label))
    found = tokenauth.identities(writer.token.uri)
    assert len(found) == 2
    for identity in found:
        [same] = tokenauth.identities(identity.uri)
        assert same.id == identity.id
