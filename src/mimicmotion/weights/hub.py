"""One resumable, verified download from a hub that speaks Hugging Face's protocol."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, NoReturn

from mimicmotion.errors import OutputError, WeightsError
from mimicmotion.runtime.files import sha256_file

logger = logging.getLogger(__name__)


def download(
    repo: str, name: str, target: Path, endpoint: str, *, sha256: str | None = None, size: int | None = None
) -> dict[str, Any]:
    """Download `name` of the hub repository `repo` to `target`, which appears only when complete and verified.

    A part left by an earlier attempt is continued if the hub's file is still the same: the part carries the hub's
    etag in its name. (huggingface_hub itself continues only within one call.)

    Returns:
        What to record: sha256, size, etag, commit, repo, endpoint.

    Raises:
        WeightsError: no network, no access, no such file, or a file with the wrong checksum.
        OutputError: the file cannot be written.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, name, endpoint=endpoint)
    headers = build_hf_headers(library_name="mimicmotion")
    try:
        meta = get_hf_file_metadata(url, headers=headers, timeout=10)
    except Exception as e:
        _explain(e, repo, name, target, endpoint)
    expected = meta.size if meta.size is not None else size
    etag = re.sub(r"[^\w.-]", "_", meta.etag or "unknown")
    part = target.with_name(f".{target.name}.{etag[:64]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(part, expected)
        with part.open("ab") as f:
            start = f.tell()
            if expected is not None and start > expected:
                f.truncate(0)
                start = 0
            if start:
                logger.info("%s: going on at %d of %s bytes", name, start, expected)
            http_get(url, f, resume_size=start, headers=headers, expected_size=expected, displayed_filename=name)
    except OutputError:
        raise
    except OSError as e:
        if type(e).__module__ != "builtins" or "Consistency check failed" in str(e):
            _explain(e, repo, name, target, endpoint)
        raise OutputError(
            f"cannot write {part}: {e}", "a writable cache", "free disk space or set MIMICMOTION_CACHE"
        ) from e
    except Exception as e:
        _explain(e, repo, name, target, endpoint)
    got = sha256_file(part)
    lfs = meta.etag if re.fullmatch(r"[0-9a-f]{64}", meta.etag or "") else None
    for want, source in ((sha256, "known to this package"), (lfs, f"told by {endpoint}")):
        if want is not None and want != got:
            part.unlink()
            raise WeightsError(
                f"{name} of {repo} from {endpoint} has sha256 {got}",
                f"{want} ({source})",
                "fetch again; if it stays so, the mirror is wrong or the file was replaced: use another endpoint",
            )
    part.replace(target)
    commit = meta.commit_hash
    return {"sha256": got, "size": target.stat().st_size, "repo": repo, "commit": commit, "endpoint": endpoint}


def _check_space(part: Path, expected: int | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if expected is not None and expected - have > free:
        raise OutputError(
            f"{part.parent}: {free / 1e9:.2f} GB free",
            f"{(expected - have) / 1e9:.2f} GB for {part.name}",
            "free disk space, or set MIMICMOTION_CACHE to a folder on a larger disk",
        )


def _explain(e: Exception, repo: str, name: str, target: Path, endpoint: str) -> NoReturn:
    """Turn what the hub client raised into one of our errors, with the way on."""
    status = getattr(getattr(e, "response", None), "status_code", None)
    kind = type(e).__name__
    page = f"{endpoint}/{repo}"
    by_hand = f"or download the file in a browser and put it at {target}"
    if status in (401, 403) or kind == "GatedRepoError":
        token = "the token in use is not accepted" if _has_token() else "no token is set"
        raise WeightsError(
            f"{endpoint} refuses {name} of {repo} (HTTP {status or 401}; {token})",
            "access to this model, which may be gated",
            f"log in on {page} and accept the licence there; make a read token on {endpoint}/settings/tokens; "
            f"run `hf auth login` or set HF_TOKEN; then fetch again; {by_hand}",
        ) from e
    if status == 404 or kind in ("RepositoryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError"):
        fix = f"check the name on {page}, or use another endpoint; {by_hand}"
        raise WeightsError(f"{endpoint} has no {name} in {repo} (HTTP {status or 404})", "a published file", fix) from e
    if status is not None:
        fix = f"try later or another endpoint (--endpoint, HF_ENDPOINT); {by_hand}"
        raise WeightsError(f"{endpoint} answered HTTP {status} for {name} of {repo}", "the file", fix) from e
    raise WeightsError(
        f"cannot fetch {name} of {repo} from {endpoint}: {kind}: {str(e).splitlines()[0] if str(e) else 'no details'}",
        "a connection to the hub or to a mirror",
        "check network, proxy (HTTPS_PROXY) and firewall, or set a mirror with --endpoint or HF_ENDPOINT; fetch again "
        f"to go on where it stopped; {by_hand}",
    ) from e


def _has_token() -> bool:
    try:
        from huggingface_hub import get_token

        return bool(get_token())
    except Exception:
        return bool(os.environ.get("HF_TOKEN"))
