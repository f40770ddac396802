"""Resumable, verified download of a file from the Hugging Face Hub or a mirror of it."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimicmotion.errors import MimicMotionError, OutputError, WeightsError
from mimicmotion.runtime.files import sha256_file, writing
from mimicmotion.weights.checks import check_format

logger = logging.getLogger(__name__)

HUB = "https://huggingface.co"
ATTEMPTS = 3


def download(
    repo: str,
    name: str,
    target: Path,
    endpoint: str,
    *,
    wanted: Mapping[str, str | None],
    size: int | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Download the file `name` of the hub repository `repo` to `target`, which is only created once it is verified.

    An earlier attempt is resumed if the file on the hub is still the same: the name of the partial file contains the
    hub's etag. (huggingface_hub resumes only within one call.)

    Args:
        repo: hub id.
        name: path in the repository.
        target: path of the downloaded file.
        endpoint: URL of the hub or of a mirror.
        wanted: expected sha256, or None if unknown, by the source of this information. The hub's own is added.
        size: expected size in bytes, if known.
        revision: commit; None means the newest.

    Returns:
        A record of the download: sha256, size, commit, repo, endpoint.

    Raises:
        WeightsError: the hub cannot be reached or denies access, or the file does not exist or has the wrong checksum.
        OutputError: the file cannot be written.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, name, endpoint=endpoint, revision=revision)
    token = None if gets_token(endpoint) else False
    if token is False and get_token():
        _warn_token_not_sent(endpoint)
    headers = build_hf_headers(library_name="mimicmotion", token=token)
    try:
        meta = get_hf_file_metadata(url, headers=headers, timeout=10, token=token)
        if None not in (size, meta.size) and meta.size != size:
            fix = "this is not the published file: use another --endpoint"
            raise WeightsError(f"{endpoint} offers {name} of {repo} with {meta.size} bytes", f"{size} bytes", fix)
        etag = re.sub(r"[^\w.-]", "_", meta.etag or "unknown")
        part = target.with_name(f".{target.name}.{etag[:64]}.part")
        lfs = meta.etag if re.fullmatch(r"[0-9a-f]{64}", meta.etag or "") else None
        sources = {**wanted, f"according to {endpoint}": lfs}
        got = download_file(url, target, part, size or meta.size, sources, headers)
    except MimicMotionError:
        raise
    except Exception as e:
        raise _explained(e, repo, name, target, endpoint) from e
    commit = meta.commit_hash
    return {"sha256": got, "size": target.stat().st_size, "repo": repo, "commit": commit, "endpoint": endpoint}


def gets_token(endpoint: str) -> bool:
    """Return whether to send the user's token to an endpoint: only to the user's hub, and only over HTTPS."""
    user_hub = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return endpoint.startswith("https://") and endpoint in (HUB, user_hub)


@functools.cache  # warn once for all files
def _warn_token_not_sent(endpoint: str) -> None:
    logger.warning("your hub token is not sent to %s, only to %s or the https:// address in HF_ENDPOINT", endpoint, HUB)


def download_file(
    url: str, target: Path, part: Path, size: int | None, wanted: Mapping[str, str | None], headers: dict[str, str]
) -> str:
    """Download to `part`, resuming an earlier attempt, verify the file, and rename it to `target`.

    Args:
        url: URL of the file.
        target: final path of the file.
        part: path of the partial file; an earlier one is discarded if it is longer than `size`, or if no checksum is
            known.
        size: size of the complete file in bytes, if known.
        wanted: expected sha256, or None if unknown, by the source of this information.
        headers: headers of the request.

    Returns:
        The sha256 of the file.

    Raises:
        WeightsError: the checksum is wrong, or the file is a web page.
        OutputError: the disk is full, or the file cannot be written.
        Exception: a network error of the hub client.
    """
    known = {source: want for source, want in wanted.items() if want is not None}
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        if not known:  # a partial file could not be verified
            part.unlink(missing_ok=True)
    continued = part.is_file() and part.stat().st_size > 0
    got = _receive(url, target.name, part, size, headers)
    try:
        check_format(part, target.name)
        for source, want in known.items():
            if want != got:
                fix = (
                    "fetch again; if it persists, the source is wrong or the file was replaced: use another --endpoint"
                )
                raise WeightsError(f"{target.name} has sha256 {got}", f"{want} ({source})", fix)
    except WeightsError as e:
        part.unlink()
        if not continued:
            raise
        logger.warning(
            "%s: the partial file from an earlier attempt was damaged (%s); fetching it again", target.name, e.got
        )
        return download_file(url, target, part, size, wanted, headers)
    part.replace(target)
    return got


def _receive(url: str, name: str, part: Path, size: int | None, headers: dict[str, str]) -> str:
    """Download the missing rest of a file to `part`, and return the sha256 of the complete file."""
    from huggingface_hub.file_download import http_get

    try:
        _check_space(part, size)
        with part.open("ab") as f:
            for attempt in range(ATTEMPTS):
                start = f.tell()
                if size is not None and start > size:
                    start = f.truncate(0)
                if start and start == size:
                    break
                if start:
                    logger.info("%s: resuming at %d of %s bytes", name, start, size)
                options = {"headers": headers, "expected_size": size, "displayed_filename": name}
                try:
                    http_get(url, f, resume_size=start, **options)
                    break
                except Exception as e:  # versions below 2.0 do not retry, or write the first bytes twice
                    f.seek(0, 2)
                    broken = type(e).__module__.partition(".")[0] in ("requests", "httpx", "httpcore", "urllib3")
                    answered = getattr(e, "response", None) is not None
                    if attempt + 1 == ATTEMPTS or answered or not (broken or "Consistency check failed" in str(e)):
                        raise
    except OSError as e:
        if type(e).__module__ != "builtins" or "Consistency check failed" in str(e):
            raise
        fix = "free disk space or set MIMICMOTION_CACHE"
        raise OutputError(f"cannot write {part}: {e}", "a writable cache", fix) from e
    return sha256_file(part)


def _check_space(part: Path, expected: int | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(part.parent).free
    if expected is not None and expected - done > free:
        raise OutputError(
            f"{part.parent}: {free / 1e9:.2f} GB free",
            f"{(expected - done) / 1e9:.2f} GB for {part.name}",
            "free disk space, or set MIMICMOTION_CACHE to a folder on a larger disk",
        )


def _explained(e: Exception, repo: str, name: str, target: Path, endpoint: str) -> WeightsError:
    """Convert an error of the hub client to a WeightsError with a fix."""
    status = getattr(getattr(e, "response", None), "status_code", None)
    page = f"{endpoint}/{repo}"
    by_hand = f"or download the file in a browser and put it at {target}"
    if status in (401, 403):
        from huggingface_hub import get_token

        sent = "your token is not accepted" if gets_token(endpoint) else "your token is not sent to this address"
        token = sent if get_token() else "no token is set"
        return WeightsError(
            f"{endpoint} denies access to {name} of {repo} (HTTP {status}; {token})",
            "access to this model, which may be gated",
            f"log in on {page} and accept the licence there; create a read token on {endpoint}/settings/tokens; "
            f"run `hf auth login` or set HF_TOKEN; then fetch again; {by_hand}",
        )
    if status == 404:
        fix = f"check the name on {page}, or use another endpoint; {by_hand}"
        return WeightsError(f"{endpoint} has no {name} in {repo} (HTTP 404)", "a published file", fix)
    if status is not None:
        fix = f"try again later, or use another endpoint (--endpoint, HF_ENDPOINT); {by_hand}"
        return WeightsError(f"{endpoint} returned HTTP {status} for {name} of {repo}", "the file", fix)
    why = (str(e) or "no details").splitlines()[0]
    return WeightsError(
        f"cannot fetch {name} of {repo} from {endpoint}: {type(e).__name__}: {why}",
        "a connection to the hub or to a mirror",
        "check your network, proxy (HTTPS_PROXY) and firewall, or set a mirror with --endpoint or HF_ENDPOINT; fetch "
        f"again to resume; {by_hand}",
    )
