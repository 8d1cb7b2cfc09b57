"""Whether a model file is signed by a key the project trusts: OpenSSF model signing, with keys or certificates.

A signature is a file of its own beside the model, made for instance by `model_signing sign key`. It is held against
the very bytes that are to be scored with, each time they are; no verdict is kept. Everything happens on this
machine: signatures by identity (Sigstore, without keys) would need the network, and are not taken.

    signed_by: [keys/release.pem]      a public key (P-256, P-384 or P-521) or certificates to trust, in gates.yaml

Any one of the keys will do, so that an old and a new one can stand side by side.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import JobError, ModelError
from jobs.gates import FILE, load_gates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.registry import ModelVersion

_LARGEST = (
    1 << 20
)  # one of a single file has about 2,000 bytes, with a chain of certificates some thousands more


class SignatureError(JobError):
    """A signature or a key cannot be read, or what reads them is not installed."""

    exit_code = 2


class NotSignedError(ModelError):
    """A model is not signed by a key the project trusts; it was not used."""

    exit_code = 3


@dataclass(frozen=True)
class Trust:
    """The keys of a project for one model, of which one must have signed it; `where` is the file that says so."""

    keys: tuple[Path, ...]
    where: str

    def require(self, label: str, data: bytes, signature: bytes | None, *, remedy: str) -> Path:
        """Return the key that signed `data`. Raises NotSignedError, with the remedy where there is no signature."""
        names = ", ".join(key.name for key in self.keys)
        if signature is None:
            raise NotSignedError(f"{label} is not signed, and {self.where} asks for {names}: {remedy}")
        reasons = []
        with tempfile.TemporaryDirectory(prefix="batchpred-signing-") as folder:
            # The library takes paths alone; in a folder of our own nobody exchanges what lies there.
            model, beside = Path(folder) / "model.onnx", Path(folder) / "model.sig"
            model.write_bytes(data)
            beside.write_bytes(signature)
            for key in self.keys:
                config = _verifier(key, self.where)
                try:
                    with redirect_stdout(sys.stderr):  # it prints warnings, and ours is the result
                        config.verify(model, beside)
                except Exception as error:  # noqa: BLE001  # whatever is wrong with it, it is no signature of this
                    reasons.append(f"{key.name}: {_reason(error)}")
                else:
                    return key
        raise NotSignedError(f"{label} was refused, its signature is not good: {'; '.join(reasons)}")


def trust_of(gates: Path, name: str, environ: Mapping[str, str]) -> Trust | None:
    """Return what a gates file asks of a model's signature; None where it asks none, or is not there.

    Raises JobFileError for a faulty file.
    """
    if not gates.is_file():
        return None
    keys = load_gates(gates, environ).signers(name)
    return Trust(tuple(gates.parent / key for key in keys), gates.name) if keys else None


def trust_in(folder: Path, name: str, environ: Mapping[str, str]) -> Trust | None:
    """Return what the gates file of a project folder asks of a model's signature."""
    return trust_of(folder / FILE, name, environ)


def read_signature(path: Path) -> bytes:
    """Read a signature's file, which is JSON. Raises SignatureError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SignatureError(f"signature {path} cannot be read: {error.strerror}") from None
    try:
        is_bundle = len(data) <= _LARGEST and isinstance(json.loads(data), dict) and b"\\u0000" not in data
    except ValueError:
        is_bundle = False
    if not is_bundle:
        raise SignatureError(
            f"{path} is no signature in the format of OpenSSF model signing; make one with: model_signing sign key"
        )
    return data


def sign_and_push(version: ModelVersion) -> str:
    """Say how a version gets its signature."""
    return f"sign the file that `batchpred models pull {version}` writes, and push it again with --signature"


def _verifier(key: Path, where: str) -> Any:
    try:
        from model_signing import verifying
    except ImportError as error:
        raise SignatureError(
            f"{where} asks for signed models, and what verifies them is not installed ({error}): "
            'pip install "batchpred[signing]"'
        ) from None
    try:
        if b"-----BEGIN CERTIFICATE-----" in key.read_bytes():
            return verifying.Config().use_certificate_verifier(certificate_chain=[key])
        return verifying.Config().use_elliptic_key_verifier(public_key=key)
    except OSError as error:
        raise SignatureError(f"{where}: key {key} cannot be read: {error.strerror}") from None
    except Exception as error:  # the libraries beneath it raise what they like
        raise SignatureError(
            f"{where}: {key} is neither a public key (PEM, P-256, P-384 or P-521) nor certificates: {error}"
        ) from error


def _reason(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if said.startswith("Signature mismatch"):
        return "it is a signature of another file"
    if said.startswith("Key mismatch") or type(error).__name__ == "InvalidSignature":
        return "it was made with another key"
    if type(error).__name__ == "X509StoreContextError":
        return f"its certificate is not trusted ({said})"
    return f"it cannot be read ({type(error).__name__}: {said[:120]})"
