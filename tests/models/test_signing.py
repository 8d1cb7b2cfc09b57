"""Signatures of model files, by a key and by a certificate: what is signed is used, what is not is refused.

The library that verifies them is in the environment of `make test-models`, or comes with the extra `signing`.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("model_signing", reason='signatures: pip install "batchpred[signing]"')

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

from jobs.plan import Runtime, resolve_model
from tests.integration.test_model_commands import add_model
from tests.unit import onnx_models as models

GATES = "version: 1\nmodels:\n  '*': {signed_by: keys/release.pem}\n  add: {metrics: {auc: {min: 0.0}}}\n"
JOB = """\
version: 1
name: add
source: {query: "SELECT g::bigint AS id, g::float4 AS x FROM generate_series(1, 5) AS g", bounded: false}
key: [id]
model: add@champion
output: {columns: {score: score}}
"""


@pytest.fixture
def project(command, tmp_path):
    """A project that trusts one key, three model files, and how to sign a file with that key or another one."""
    (tmp_path / "keys").mkdir()
    for name in ("release", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / f"{name}.key").write_bytes(private(key))
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / "keys" / f"{name}.pem").write_bytes(public)
    (tmp_path / "gates.yaml").write_text(GATES)
    (tmp_path / "add.job.yaml").write_text(JOB)
    for number in (1, 2, 3):
        (tmp_path / f"{number}.onnx").write_bytes(add_model(number))

    def sign(file, to, key="release"):
        config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / f"{key}.key")
        config.sign(tmp_path / file, tmp_path / to)

    command.sign = sign
    return command


def private(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def push(project, number, *words):
    return project("models", "push", "add", f"{number}.onnx", "--metric", "auc=0.9", *words)


def run(project):
    code, told = project("run", "add", "--date", "2026-01-01", "--force", "--json")
    return code, told if isinstance(told, str) else json.dumps(told)


def test_only_what_is_signed_is_promoted_and_scored(project, tmp_path):
    """A signed version runs; an unsigned one and one signed by another are refused at push, promote and run."""
    project.sign("1.onnx", "1.sig")
    code, said = push(project, 1, "--signature", "1.sig", "--alias", "champion")
    assert (0, True) == (code, "its signature is kept, verified by release.pem" in said), said
    assert 0 == run(project)[0]
    code, said = push(project, 2, "--alias", "champion")
    assert (3, True) == (code, "is not signed, and gates.yaml asks for release.pem" in said)
    assert 0 == push(project, 2)[0]  # it may lie there
    code, said = project("models", "promote", "add/2", "--override", "in a hurry")
    assert (3, True) == (
        code,
        "`batchpred models pull add/2` writes, and push it again with --signature" in said,
    )
    assert "\n" not in said
    project.sign("2.onnx", "2.sig", "other")
    code, said = push(project, 2, "--signature", "2.sig")
    assert (3, True) == (code, "release.pem: it was made with another key" in said)
    code, said = push(project, 3, "--signature", "1.sig")
    assert (3, True) == (code, "release.pem: it is a signature of another file" in said)
    project.sign("2.onnx", "2.sig")
    assert 0 == push(project, 2, "--signature", "2.sig")[0]
    assert 0 == project("models", "promote", "add/2")[0]
    assert 0 == run(project)[0]
    story = project("models", "history", "add", "--json")[1]["history"]
    assert ["by: release.pem"] * 2 == [each["why"] for each in story if each["event"] == "signed"]
    assert 2 == project("models", "show", "add@champion", "--json")[1]["version"]


def test_a_key_that_is_no_longer_trusted_stops_runs(project, tmp_path):
    """Signatures are held at each run: with another key the champion is refused, with both it runs."""
    project.sign("1.onnx", "1.sig")
    push(project, 1, "--signature", "1.sig", "--alias", "champion")
    push(project, 2)
    code, told = project("models", "verify", "--json")
    assert (0, {"add/1": "ok", "add/2": "unsigned"}) == (
        code, {each["model"]: each["status"] for each in told["signatures"]}
    )  # fmt: skip
    (tmp_path / "gates.yaml").write_text(GATES.replace("release", "other"))
    code, said = run(project)
    assert (3, True) == (code, "other.pem: it was made with another key" in said), said
    code, said = project("models", "verify")
    assert (1, True) == (code, "add/1 was refused, its signature is not good" in said)
    (tmp_path / "gates.yaml").write_text(
        GATES.replace("keys/release.pem", "[keys/other.pem, keys/release.pem]")
    )
    assert 0 == run(project)[0]
    (tmp_path / "gates.yaml").write_text(GATES.replace("release", "nobody"))
    code, said = run(project)
    assert (2, True) == (code, "nobody.pem cannot be read" in said)
    (tmp_path / "gates.yaml").unlink()
    assert 0 == run(project)[0]


def test_a_certificate_is_trusted_by_its_authority(project, tmp_path):
    """A signature that carries a certificate is good where its authority's is named; another authority's is not."""
    now = datetime.now(UTC)
    names = {
        who: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, who)])
        for who in ("ours", "theirs", "ci")
    }
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in names}

    def certificate(who, by, *, is_authority):
        builder = x509.CertificateBuilder(
            issuer_name=names[by], subject_name=names[who], public_key=keys[who].public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1), not_valid_after=now + timedelta(days=9),
        )  # fmt: skip
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only"), False
        )  # fmt: skip
        builder = builder.add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=None), critical=True
        )
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not is_authority, key_cert_sign=is_authority, **usage),
            critical=True,
        )
        return builder.sign(keys[by], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (tmp_path / "keys" / "ours.pem").write_bytes(certificate("ours", "ours", is_authority=True))
    (tmp_path / "keys" / "theirs.pem").write_bytes(certificate("theirs", "theirs", is_authority=True))
    (tmp_path / "ci.pem").write_bytes(certificate("ci", "ours", is_authority=False))
    (tmp_path / "ci.key").write_bytes(private(keys["ci"]))
    signing.Config().use_certificate_signer(
        private_key=tmp_path / "ci.key", signing_certificate=tmp_path / "ci.pem",
        certificate_chain=[tmp_path / "keys" / "ours.pem"],
    ).sign(tmp_path / "1.onnx", tmp_path / "1.sig")  # fmt: skip
    for authority, expected, says in (
        ("theirs", 3, "theirs.pem: its certificate is not trusted"),
        ("ours", 0, "verified by ours.pem"),
    ):
        (tmp_path / "gates.yaml").write_text(GATES.replace("release", authority))
        code, said = push(project, 1, "--signature", "1.sig", "--alias", "champion")
        assert (expected, True) == (code, says in said), said
    assert 0 == run(project)[0]


def test_a_file_beside_the_job_has_its_signature_beside_it(project, tmp_path):
    """`file:` models are held too; one from elsewhere, that has no signature, is refused."""
    (tmp_path / "add.job.yaml").write_text(JOB.replace("add@champion", "file:1.onnx"))
    code, said = run(project)
    assert (3, True) == (code, "put the signature of the file into 1.onnx.sig" in said), said
    project.sign("1.onnx", "1.onnx.sig")
    assert 0 == run(project)[0]
    (tmp_path / "1.onnx").write_bytes(add_model(7))
    code, said = run(project)
    assert (3, True) == (code, "it is a signature of another file" in said)


def test_what_is_scored_is_made_of_what_was_signed(project, tmp_path):
    """The copy of a signed file without its ZipMaps that lies in the cache is not believed: it may be another's."""
    (tmp_path / "zip.onnx").write_bytes(models.matrix(zipmap=True)[1])
    project.sign("zip.onnx", "zip.onnx.sig")
    cache = tmp_path / "cache"

    def resolved():
        return resolve_model(Runtime(None, cache), None, "file:zip.onnx", tmp_path).sha256

    signed = resolved()
    (record,) = (cache / "examined").iterdir()
    other = hashlib.sha256(add_model(3)).hexdigest()
    record.write_text(record.read_text().replace(signed, other))
    (cache / f"{other}.onnx").write_bytes(add_model(3))
    assert signed == resolved()


def test_what_is_no_signature_is_told(project, tmp_path):
    """Other files, keys that are none, and a file whose ZipMaps a push takes out: one line, nothing is stored."""
    (tmp_path / "zipmap.onnx").write_bytes(models.matrix(zipmap=True)[1])
    project.sign("zipmap.onnx", "zipmap.sig")
    (tmp_path / "none.sig").write_text("{}")
    for file, signature, code, says in (
        ("1.onnx", "1.onnx", 2, "is no signature in the format of OpenSSF model signing"),
        ("1.onnx", "nobody.sig", 2, "cannot be read: No such file"),
        ("1.onnx", "none.sig", 3, "it cannot be read (KeyError"),
        ("zipmap.onnx", "zipmap.sig", 2, "has ZipMaps, which a push takes out"),
    ):
        left, said = project("models", "push", "add", file, "--signature", signature)
        assert (code, True) == (left, says in said), said
    (tmp_path / "keys" / "release.pem").write_text("secret")
    project.sign("1.onnx", "1.sig", "other")
    left, said = push(project, 1, "--signature", "1.sig")
    assert (2, True) == (left, "is neither a public key" in said), said
    assert [] == project("models", "list", "--json")[1]["models"]
