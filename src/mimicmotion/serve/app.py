"""The HTTP API of the service (FastAPI), versioned under /v1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import anyio.to_thread
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mimicmotion import __version__
from mimicmotion.client import JobState
from mimicmotion.errors import ConfigError, InputError, MimicMotionError, OutputError
from mimicmotion.generate.outputs import preview_path
from mimicmotion.serve.jobs import OUTPUTS, Jobs, Kind, public, public_sidecar
from mimicmotion.serve.tokens import COOKIE, Token, Tokens, owner_of
from mimicmotion.serve.uploads import MIB, Form, RefusedError
from mimicmotion.settings import GenerateConfig
from mimicmotion.settings.serve import LOOPBACK, ServeConfig, client_settings
from mimicmotion.settings.serve import Scope as TokenScope

logger = logging.getLogger(__name__)

EVENT_SECONDS, KEEP_ALIVE_SECONDS = 0.5, 15.0
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
SILENT_SECONDS = 20.0
"""Time limit in seconds for the first request of a connection."""
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "private, no-store"}


class ErrorResponse(BaseModel):
    """Response to a refused request."""

    error: dict[Literal["got", "expected", "fix"], str]


class JobPage(BaseModel):
    """A page of jobs, newest first; `next_offset` is null on the last page."""

    jobs: list[JobState]
    next_offset: int | None


class Guard:
    """Middleware that refuses unknown hosts and cross-site requests, counts requests, and sets security headers.

    Args:
        app: the application.
        hosts: allowed host names.
        requests: counter of responses by (method, status).
    """

    def __init__(self, app: ASGIApp, hosts: set[str], requests: Counter[tuple[str, int]]) -> None:
        self.app, self.hosts, self.requests = app, hosts, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else "other"  # keep the counter small
                self.requests[method, message["status"]] += 1
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(Headers(scope=scope))
        except RefusedError as e:
            return await _refusal(e.status, e)(scope, receive, respond)
        return await self.app(scope, receive, respond)

    def _check(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _hostname(f"//{hosts[0]}") not in self.hosts:
            got, fix = f"the host {', '.join(hosts)[:200]!r}", "if it is yours, add it to --allowed-hosts"
            raise RefusedError(421, got, "a host name of this service", fix)
        # a page of another site can make a browser send forms to this service, so check the origin
        for origin in headers.getlist("origin"):
            if _hostname(origin) not in self.hosts:
                got = f"a request from the page {origin[:200]!r}"
                raise RefusedError(403, got, "a page of this service", "use a client")


class Connection(H11Protocol):
    """A connection that is closed if there are too many connections, or if it sends no request in time.

    By default, uvicorn responds to excess requests with 503, but keeps all connections open, even silent ones.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept the connection or close it."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency:
            transport.abort()
        self.loop.call_later(SILENT_SECONDS, self._close_silent)

    def _close_silent(self) -> None:
        if self.cycle is None:
            self.transport.abort()


def create_app(config: ServeConfig) -> FastAPI:
    """Create the service as an ASGI application, which runs jobs from its startup to its shutdown.

    `app.state` holds `jobs`, `tokens` and `config`.

    Raises:
        ConfigError: a setting is invalid, or other computers could reach the service without a token.
        InputError: the study is incomplete.
    """
    jobs, tokens = Jobs(config), Tokens(config.data)
    if config.host not in LOOPBACK and not tokens.all():
        fix = "create a token first: mimicmotion serve token add NAME"
        raise ConfigError(f"host={config.host} without a token", "a token, or host=127.0.0.1", fix)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(jobs.open)
        yield
        await run_in_threadpool(jobs.close)

    app = FastAPI(
        title="MimicMotion",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both pages load scripts from other sites
        redoc_url=None,
        responses={code: {"model": ErrorResponse} for code in (401, 403, 404, 413, 422, 429)},
    )
    requests: Counter[tuple[str, int]] = Counter()
    app.state.jobs, app.state.tokens, app.state.config, app.state.requests = jobs, tokens, config, requests
    app.state.receiving, app.state.accepting = 0, anyio.CapacityLimiter(4)
    app.include_router(router)
    if config.study is not None:
        from mimicmotion.serve.study import mount as mount_study

        mount_study(app, config.study)
    if config.page:
        from mimicmotion.serve.page import mount  # importing gradio takes seconds

        mount(app)
    hosts = {name.lower() for name in (*LOOPBACK, config.host, *config.allowed_hosts)}
    app.add_middleware(Guard, hosts=hosts, requests=requests)
    for kind in (MimicMotionError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)
    return app


def serve(config: ServeConfig, tell: Callable[[str], object]) -> None:
    """Run the service until SIGTERM or Ctrl-C, then save the state of running jobs.

    Args:
        config: settings.
        tell: called with a line to print, which contains the address.

    Raises:
        ConfigError: `create_app` raised it, or the data folder is in use by another process.
        OutputError: the address is not available.
    """
    app = create_app(config)
    app.state.jobs.claim()
    ipv6 = ":" in config.host
    try:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family, backlog=512)
    except OSError as e:
        fix = "choose another --port or --host"
        raise OutputError(f"cannot listen at {config.host}:{config.port} ({e})", "a free address", fix) from e
    limits: dict[str, Any] = {"limit_concurrency": config.max_connections, "http": Connection}
    quiet: dict[str, Any] = {"log_level": "warning", "server_header": False}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=3, **limits, **quiet))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn handles it, and raises it again at the end
    host = f"[{config.host}]" if ipv6 else config.host
    tell(f"http://{host}:{listener.getsockname()[1]} (Ctrl-C stops it; running jobs are resumed at the next start)")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


# --- reading requests -------------------------------------------------------------------------------------------


def _requires(scope: TokenScope) -> Callable[[Request], Token]:
    """Return a dependency that finds the token of a request, and refuses the request if the scope is insufficient."""

    def find(request: Request) -> Token:
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            secret = request.cookies.get(COOKIE, "")  # set by the page; not sent with cross-site requests
        return request.app.state.tokens.authorize(secret.strip(), scope)

    return find


Reader = Annotated[Token, Depends(_requires("read"))]
Submitter = Annotated[Token, Depends(_requires("jobs"))]
Admin = Annotated[Token, Depends(_requires("admin"))]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


def _jobs(request: Request) -> Jobs:
    return request.app.state.jobs


async def _receive(request: Request, token: Token, kind: Kind, key: str | None) -> Response:
    """Receive a job, check it, and accept it."""
    jobs, config = _jobs(request), request.app.state.config
    limit = int(config.max_upload * MIB)
    if int(request.headers.get("content-length") or 0) > limit:
        raise _too_large(config.max_upload)
    await run_in_threadpool(jobs.check_count, token.name)
    used, size = await run_in_threadpool(jobs.disk_used), 0

    def count(chunk: int) -> None:
        nonlocal size
        size += chunk
        request.app.state.receiving += chunk
        if size > limit:
            raise _too_large(config.max_upload)
        jobs.check_room(used + request.app.state.receiving)

    with jobs.incoming() as folder:
        try:
            form = Form(request.headers.get("content-type", ""), folder)
            await form.read(request.stream(), count)
        finally:
            request.app.state.receiving -= size

        def accept() -> tuple[JobState, bool]:
            try:
                return jobs.accept(folder, token.name, kind, **_read_texts(form), key=key)
            except InputError as e:
                raise RefusedError(422, **public(e, folder)) from e

        state, new = await anyio.to_thread.run_sync(accept, limiter=request.app.state.accepting)
    return JSONResponse(asdict(state), 201 if new else 200, headers={"Location": f"/v1/jobs/{state.id}"})


def _read_texts(form: Form) -> dict[str, Any]:
    """Parse the settings and the priority in a form."""
    expected = "settings as a JSON object, priority as 0 to 9"
    try:
        settings = json.loads(form.texts.get("settings") or b"{}")
        priority = int(form.texts.get("priority") or b"5")
    except (ValueError, RecursionError) as e:
        raise RefusedError(422, f"invalid settings or priority ({e})", expected, "correct them") from e
    if not isinstance(settings, dict) or not 0 <= priority <= 9:
        got = f"priority {priority}" if isinstance(settings, dict) else f"settings of type {type(settings).__name__}"
        raise RefusedError(422, got, expected, "correct them")
    return {"settings": settings, "priority": priority}


def _form_schema() -> dict[str, Any]:
    """Return the OpenAPI schema of the form for submitting a job."""
    schema = TypeAdapter(GenerateConfig).json_schema()
    names = client_settings()
    settings = {"type": "object", "properties": {name: schema["properties"][name] for name in names}}
    file = {"type": "string", "format": "binary"}
    priority = {"type": "integer", "minimum": 0, "maximum": 9, "default": 5}
    properties = {"picture": file, "video": file, "settings": settings, "priority": priority}
    form = {"type": "object", "properties": properties, "required": ["picture", "video"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


# --- routes -----------------------------------------------------------------------------------------------------


router = APIRouter(prefix="/v1")
FORM_SCHEMA = _form_schema()


@router.post("/jobs", status_code=201, response_model=JobState, openapi_extra=FORM_SCHEMA)
async def submit(request: Request, token: Submitter, key: Key = None) -> Response:
    """Submit a job that animates the person in `picture` with the motion of `video`, which may also be a pose file."""
    return await _receive(request, token, "generate", key)


@router.post("/plan", status_code=201, response_model=JobState, openapi_extra=FORM_SCHEMA)
async def plan(request: Request, token: Submitter, key: Key = None) -> Response:
    """Submit a job that predicts what the same form at /v1/jobs would do. Its result is a picture and a sidecar."""
    return await _receive(request, token, "plan", key)


@router.get("/jobs")
def list_jobs(
    request: Request,
    token: Reader,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> JobPage:
    """List jobs, newest first."""
    found = _jobs(request).list(owner_of(token), limit + 1, offset)
    return JobPage(jobs=found[:limit], next_offset=offset + limit if len(found) > limit else None)


@router.get("/jobs/{id}")
def state(request: Request, token: Reader, id: str) -> JobState:
    """Get the state of a job."""
    return _jobs(request).state(id, owner_of(token))


@router.get("/jobs/{id}/events", response_class=StreamingResponse)
async def events(request: Request, token: Reader, id: str) -> StreamingResponse:
    """Stream the state of a job at each change as server-sent events, until the job ends."""
    await run_in_threadpool(_jobs(request).state, id, owner_of(token))  # raises if there is no such job
    return StreamingResponse(_events(_jobs(request), id, owner_of(token)), media_type="text/event-stream")


@router.delete("/jobs/{id}", response_model=JobState)
def cancel(request: Request, token: Submitter, id: str, purge: bool = False) -> Any:
    """Cancel a queued or running job immediately; with `purge`, also delete it with all its files."""
    if not purge:
        return _jobs(request).cancel(id, owner_of(token))
    _jobs(request).delete(id, owner_of(token))
    return Response(status_code=204)


@router.get("/jobs/{id}/result", response_class=FileResponse)
def result(request: Request, token: Reader, id: str) -> FileResponse:
    """Download the video, or the picture of a plan. Supports range requests."""
    path = _jobs(request).result(id, owner_of(token))
    return FileResponse(path, filename=f"{id}{path.suffix}")


@router.get("/jobs/{id}/preview", response_class=FileResponse)
def preview(request: Request, token: Reader, id: str) -> FileResponse:
    """Download a preview of a running job: a few frames in their current state."""
    found = _jobs(request).state(id, owner_of(token))
    path = preview_path(_jobs(request).folder(id) / OUTPUTS[found.kind])
    if not path.exists():
        fix = "set 'preview', and wait for the first step"
        raise RefusedError(404, "no preview", "a running job with the setting 'preview'", fix)
    return FileResponse(path)


@router.get("/jobs/{id}/sidecar")
def sidecar(request: Request, token: Reader, id: str) -> dict[str, Any]:
    """Get the settings, versions and checksums of a result, or the outcome of a plan."""
    return json.loads(public_sidecar(_jobs(request).result(id, owner_of(token))))


@router.get("/jobs/{id}/{name}", response_class=FileResponse)
def uploaded(request: Request, token: Reader, id: str, name: Literal["picture", "video"]) -> FileResponse:
    """Download the picture or video that a job was submitted with."""
    return FileResponse(_jobs(request).input(id, owner_of(token), name))


@router.get("/health")
def health(request: Request) -> dict[str, str]:
    """Check that the database responds."""
    _jobs(request).list(None, 1, 0)
    return {"status": "ok"}


@router.get("/version")
def version() -> dict[str, str]:
    """Get the versions of the package and of this API."""
    return {"mimicmotion": __version__, "api": "v1"}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, _: Admin) -> str:
    """Get metrics in Prometheus format."""
    lines = ["# TYPE mimicmotion_jobs gauge"]
    lines += [f'mimicmotion_jobs{{state="{state}"}} {n}' for state, n in _jobs(request).counts().items()]
    lines += ["# TYPE mimicmotion_requests_total counter"]
    counted = sorted(request.app.state.requests.items())
    lines += [f'mimicmotion_requests_total{{method="{m}",status="{s}"}} {n}' for (m, s), n in counted]
    lines += ["# TYPE mimicmotion_disk_bytes gauge", f"mimicmotion_disk_bytes {_jobs(request).disk_used()}"]
    return "\n".join([*lines, ""])


async def _events(jobs: Jobs, id: str, owner: str | None) -> AsyncIterator[str]:
    last, sent = "", time.monotonic()
    while True:
        try:
            state = await run_in_threadpool(jobs.state, id, owner)
        except RefusedError:  # deleted in the meantime
            return
        text = json.dumps(asdict(state))
        if text != last:
            last, sent = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - sent > KEEP_ALIVE_SECONDS:
            sent = time.monotonic()
            yield ": keep-alive\n\n"
        if state.ended:
            return
        await asyncio.sleep(EVENT_SECONDS)


# --- errors -----------------------------------------------------------------------------------------------------


def _refusal(status: int, error: BaseException) -> JSONResponse:
    """Return the response to a failed request, without details about the server."""
    headers = {"Connection": "close"}  # the rest of the request is not read
    headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Retry-After": "10"} if status in (429, 507) else {}
    return JSONResponse({"error": public(error)}, status, headers)


def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))} = {str(first.get('input'))[:80]!r}"
        return _refusal(422, RefusedError(422, got, first["msg"], "correct the request"))
    if isinstance(error, HTTPException):
        fix = "see /v1/openapi.json"
        return _refusal(error.status_code, RefusedError(error.status_code, error.detail, "an endpoint of the API", fix))
    if isinstance(error, RefusedError):
        return _refusal(error.status, error)
    return _refusal(507 if isinstance(error, OutputError) else 500, error)


def _too_large(limit: float) -> RefusedError:
    return RefusedError(413, "a request that is too large", f"at most {limit:g} MiB", "send smaller files")


def _hostname(address: str) -> str:
    """Return the host name in an address, without the port; "" if the address is malformed."""
    with contextlib.suppress(ValueError):
        return (urlsplit(address).hostname or "").lower()
    return ""
