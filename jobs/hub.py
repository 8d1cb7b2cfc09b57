"""Models of a hub that serves files as Hugging Face's does: one GET of `OWNER/REPO/resolve/COMMIT/PATH`.

The hub is asked only where a job names it (`hf:`). The revision is a commit, written in full: a branch or a tag
could name another file tomorrow, and then the job would score with it unasked. What a commit names never changes,
so a file that is cached is not asked for again. Small files come in the answer itself, large ones (Git LFS) by a
redirect to a store on another host, to which the token is not sent; then the hub has told their digest, which they
must have.
"""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from dataclasses import dataclass, field

from jobs.errors import ModelError
from jobs.http_get import get, server_address

_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HINTS = {401: "; set HF_TOKEN where the repository is private", 403: "; ask its owner for access"}


@dataclass(frozen=True)
class Hub:
    """Where the hub is, and the token that opens private repositories; it is never shown."""

    endpoint: str = "https://huggingface.co"
    token: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """The hub's address without a login in it. Raises ModelError where it is none."""
        parts = server_address(self.endpoint)
        if parts is None or "@" in parts.netloc:
            raise ModelError(
                "HF_ENDPOINT is no address of a hub: write http(s)://HOST, and the token into HF_TOKEN"
            )
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"

    def read(self, ref: HubRef) -> bytes:
        """Fetch a file, held against what the hub tells of it. Raises ModelError and RegistryOutageError."""
        url = f"{self.place}/{ref.repo}/resolve/{ref.commit}/{urllib.parse.quote(ref.path)}"
        login = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = get(url, login, who=f"the hub at {self.place}", hints=_HINTS)
        commit = answer.said.get("x-repo-commit", ref.commit)
        if commit != ref.commit:
            raise ModelError(f"the hub at {self.place} answered {ref} with the file of commit {commit[:40]}")
        told = answer.said.get("x-linked-etag", "").removeprefix("W/").strip('"')
        if re.fullmatch("[0-9a-f]{64}", told) and hashlib.sha256(answer.body).hexdigest() != told:
            raise ModelError(
                f"the file of {ref} does not have the digest that the hub tells of it; try again"
            )
        return answer.body


@dataclass(frozen=True)
class HubRef:
    """`hf:OWNER/REPO/PATH@COMMIT`."""

    repo: str
    path: str
    commit: str

    def __str__(self) -> str:
        return f"{self.name}@{self.commit[:12]}"

    @property
    def name(self) -> str:
        """What predictions call the model."""
        return f"hf:{self.repo}/{self.path}"

    @classmethod
    def parse(cls, text: str) -> HubRef:
        """Parse a reference. Raises ModelError."""
        place, _, revision = text.removeprefix("hf:").rpartition("@")
        owner, _, rest = place.partition("/")
        repo, _, path = rest.partition("/")
        parts = path.split("/")
        is_path = path.isprintable() and not {"", ".", ".."} & set(parts)
        if not _REPO.fullmatch(f"{owner}/{repo}") or ".." in repo or not is_path:
            raise ModelError(f"model {text!r} names no file of a hub: write hf:OWNER/REPO/PATH.onnx@COMMIT")
        if not _COMMIT.fullmatch(revision):
            raise ModelError(
                f"model {text!r} does not say which commit: write all 40 digits of it, not {revision!r}; a branch "
                "or a tag may be another file tomorrow"
            )
        return cls(f"{owner}/{repo}", path, revision)
