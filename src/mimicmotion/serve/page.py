"""The web page of the service at / (Gradio). It submits the same jobs through the same checks as /v1.

Files are served by /v1, which checks their owner, and not by Gradio. The page and /v1 read the token from a cookie.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template
from types import NoneType
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qs

import gradio as gr
from fastapi import FastAPI
from gradio.processing_utils import save_file_to_cache
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mimicmotion.client import JobState
from mimicmotion.errors import InputError
from mimicmotion.serve.jobs import Jobs, Kind, public, public_sidecar
from mimicmotion.serve.tokens import COOKIE, Token, Tokens, owner_of
from mimicmotion.serve.uploads import MIB, RefusedError, small_body
from mimicmotion.settings import GenerateConfig
from mimicmotion.settings.parsing import Range, declared, field_help
from mimicmotion.settings.serve import Scope as TokenScope
from mimicmotion.settings.serve import client_settings
from mimicmotion.weights.registry import find_asset

HERE = Path(__file__).parent
HISTORY = 30
POLL_SECONDS = 1.0
MAX_EXACT = 2**53
"""JavaScript numbers are exact below this."""
MAIN = {
    "duration": ("使用多少秒", "使用动作视频的前多少秒；留空则使用全部。"),
    "start": ("从第几秒开始", "从动作视频的第几秒开始。"),
    "tempo": ("动作速度", "0.5 为一半速度（慢动作），2 为两倍速度。"),
    "speed": ("速度档位", "exact 为精确结果；balanced 和 fast 更快，结果略有不同。"),
    "num_inference_steps": ("去噪步数", "留空则由速度档位或模型决定（公开权重为 25）。"),
    "guidance_scale": ("引导强度", "1 表示关闭引导，用时减半；留空则使用模型的默认值。"),
    "seed": ("随机种子", "输入和种子相同，结果就相同。"),
    "align": ("体型对齐", "如何让动作姿态适合照片中人物的体型。"),
    "background": ("背景", "model：由模型生成；keep：保留照片的背景。"),
    "audio": ("保留声音", "复制动作视频的声音（仅限原速）。"),
}
"""Settings that are always visible, with their Chinese names and help."""
TEXTS = {
    "title": (
        "## MimicMotion: animate a picture with the motion of a video",
        "## MimicMotion：让照片里的人照着视频动起来",
    ),
    "picture": ("Picture of a person", "人物照片"),
    "video": ("Driving video", "动作视频"),
    "instead": ("Use a pose file instead of a video", "用姿态文件代替视频"),
    "poses file": (
        ".npz made by mimicmotion poses, or OpenPose JSON",
        "mimicmotion poses 生成的 .npz，或 OpenPose JSON",
    ),
    "example": ("Use the example", "使用示例"),
    "plan": ("Show the plan", "查看计划"),
    "make": ("Make the video", "生成视频"),
    "more": ("More settings", "其他设置"),
    "cancel": ("Cancel", "取消"),
    "delete": ("Delete", "删除"),
    "sure": ("Delete this job and its files?", "删除此任务及其文件？"),
    "reuse": ("Reuse these settings", "再次使用这些设置"),
    "history": ("Jobs, newest first", "任务（最新的在前）"),
    "empty": ("Your video will appear here.", "生成的视频会显示在这里。"),
    "generate job": ("Video", "视频"),
    "plan job": ("Plan", "计划"),
    "queued": ("queued", "排队中"),
    "running": ("running", "进行中"),
    "done": ("done", "已完成"),
    "failed": ("failed", "失败"),
    "cancelled": ("cancelled", "已取消"),
    "load": ("Loading the model", "加载模型"),
    "poses": ("Estimating poses", "检测姿态"),
    "encode": ("Encoding", "编码"),
    "denoise": ("Denoising", "去噪"),
    "write": ("Writing the video", "写入视频"),
    "left": ("{} s left", "剩余 {} 秒"),
    "frames": ("{} frames", "{} 帧"),
    "result": ("Result", "结果"),
    "preview": ("Preview", "预览"),
    "download": ("Download", "下载"),
    "expected": ("Expected", "要求"),
    "fix": ("What to do", "解决办法"),
    "token": ("Token", "令牌"),
    "enter": ("Sign in", "登录"),
    "leave": ("Sign out", "退出登录"),
    "invalid": ("This token is not valid.", "令牌无效。"),
}
"""English and Chinese."""
SYMBOLS = {"queued": "…", "running": "▶", "done": "✓", "failed": "✗", "cancelled": "–"}
CONFIRM = f"""(id, html) => {{
  const question = navigator.language.startsWith('zh') ? '{TEXTS["sure"][1]}' : '{TEXTS["sure"][0]}';
  return [confirm(question) ? id : null, html];
}}"""
SCROLL = "() => document.getElementById('view').scrollIntoView({behavior: 'smooth', block: 'start'})"
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"


def mount(app: FastAPI) -> None:
    """Add the page to the service, at all paths that have no other route."""
    jobs, config = app.state.jobs, app.state.config
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(jobs.data / "incoming" / "page")  # counts as disk use, and is cleaned up
    texts = TEXTS | {name: (_title(name), chinese) for name, (chinese, _) in MAIN.items()}
    texts |= {f"{name} help": (HELP[name], chinese) for name, (_, chinese) in MAIN.items()}
    i18n = gr.I18n(**{lang: {f"mm-{k}": v[i] for k, v in texts.items()} for i, lang in enumerate(("en", "zh-CN"))})
    page = Page(jobs, app.state.tokens)
    sans = ["system-ui", "sans-serif"]  # no fonts from other sites
    gr.mount_gradio_app(
        app,
        page.build(lambda key: i18n(f"mm-{key}")),  # the prefix avoids Gradio's own keys
        path="/",
        allowed_paths=[str(find_asset("demo/person.png").parent)],
        max_file_size=int(config.max_upload * MIB),
        show_error=True,
        ssr_mode=False,
        i18n=i18n,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        theme=gr.themes.Default(primary_hue="teal", font=sans, font_mono=["ui-monospace", "monospace"]),
        footer_links=["settings"],
    )
    app.add_middleware(Gate, jobs=jobs, tokens=app.state.tokens)


class Gate:
    """Middleware that asks for a token if the service has any, and refuses uploads when the disk is full."""

    def __init__(self, app: ASGIApp, jobs: Jobs, tokens: Tokens) -> None:
        self.app, self.jobs, self.tokens = app, jobs, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan" or scope["path"].split("/")[1] in ("v1", "study"):  # have their own checks
            return await self.app(scope, receive, send)

        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["referrer-policy"] = "same-origin"  # otherwise forms have the origin "null"
            await send(message)

        early = await self._early(Request(scope, receive)) if scope["type"] == "http" else Response(status_code=403)
        return await (early or self.app)(scope, receive, respond)

    async def _early(self, request: Request) -> Response | None:
        """Return the response to a request that the page does not handle; None for other requests."""
        path, language = request.url.path, _language(request)
        if path == "/logout":
            response: Response = RedirectResponse("/", 303)
            response.delete_cookie(COOKIE)
            return response
        note = ""
        if path == "/login" and request.method == "POST":
            body = await small_body(request, 4096)
            secret = parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
            if self.tokens.find(secret) is not None:
                response = RedirectResponse("/", 303)
                secure = request.url.scheme == "https"
                response.set_cookie(COOKIE, secret, 30 * 86400, httponly=True, samesite="strict", secure=secure)
                return response
            note = TEXTS["invalid"][language]
        if note or self.tokens.find(request.cookies.get(COOKIE, "")) is None:
            words = {name: TEXTS[name][language] for name in ("token", "enter")}
            login = Template((HERE / "login.html").read_text(encoding="utf-8"))
            return HTMLResponse(login.substitute(words, note=note), 401)
        if path.endswith("/upload"):
            try:
                self.jobs.check_room(await run_in_threadpool(self.jobs.disk_used))
            except RefusedError as e:
                return PlainTextResponse(str(e), e.status)
        return None


class Page:
    """The page: its components and event handlers.

    Args:
        jobs: jobs of the service.
        tokens: tokens of the service.
    """

    def __init__(self, jobs: Jobs, tokens: Tokens) -> None:
        self.jobs, self.tokens = jobs, tokens
        names = [name for name in client_settings() if name != "preview"]
        self.names = [*MAIN, *(name for name in names if name not in MAIN)]
        fields = GenerateConfig.__dataclass_fields__
        self.defaults = {name: jobs.base.get(name, fields[name].default) for name in self.names}

    def build(self, i18n: Callable[[str], Any]) -> gr.Blocks:
        """Build the page.

        Args:
            i18n: returns the text for a key in the browser's language.
        """
        with gr.Blocks(title="MimicMotion", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
            gr.Markdown(i18n("title"), elem_id="title")
            with gr.Row():
                with gr.Column(scale=5, min_width=320):
                    with gr.Row():
                        options: dict[str, Any] = {"sources": ["upload"], "height": 240, "min_width": 150}
                        picture = gr.Image(type="filepath", label=i18n("picture"), elem_id="picture", **options)
                        video = gr.Video(label=i18n("video"), elem_id="video", **options)
                    with gr.Accordion(i18n("instead"), open=False, elem_id="instead") as instead:
                        types = [".npz", ".json"]
                        poses = gr.File(label=i18n("poses file"), elem_id="poses", file_types=types, height=120)
                    for upload in (picture, video, poses):  # only workers open uploaded files
                        upload.preprocess = lambda payload: payload and payload.path  # type: ignore[method-assign]
                    example = gr.Button(i18n("example"), size="sm", elem_id="example")
                    with gr.Row():
                        plan = gr.Button(i18n("plan"), min_width=120, elem_id="plan")
                        make = gr.Button(i18n("make"), variant="primary", min_width=120, elem_id="make")
                    notice = gr.HTML(elem_id="notice", visible=False)
                    with gr.Row():
                        fields = [self._field(name, i18n(name), i18n(f"{name} help")) for name in MAIN]
                    with gr.Accordion(i18n("more"), open=False), gr.Row():
                        fields += [self._field(name, _title(name), HELP.get(name)) for name in self.names[len(MAIN) :]]
                with gr.Column(scale=6, min_width=320):
                    follow = (HERE / "page.js").read_text(encoding="utf-8")
                    view = gr.HTML(elem_id="view", js_on_load=follow)
                    with gr.Row():
                        hidden: dict[str, Any] = {"visible": False, "min_width": 120}
                        cancel = gr.Button(i18n("cancel"), variant="stop", elem_id="cancel", **hidden)
                        reuse = gr.Button(i18n("reuse"), elem_id="reuse", **hidden)
                        delete = gr.Button(i18n("delete"), elem_id="delete", **hidden)
                    history = gr.Radio([], label=i18n("history"), elem_id="history", visible=False)
                    gr.Button(i18n("leave"), link="/logout", size="sm", visible=bool(self.tokens.all()))
            quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
            shown = [history, view, cancel, reuse, delete]
            form = [picture, video, poses, *fields]
            for kind, button in (("generate", make), ("plan", plan)):
                waits = quiet | {"show_progress": "minimal"}
                button.click(self._submitter(kind), form, [notice, *shown], **waits).success(None, js=SCROLL)
            example.click(self.example, None, [picture, video, poses], **quiet)
            cancel.click(self.cancel, [history, view], shown, **quiet)
            delete.click(self.delete, [history, view], shown, js=CONFIRM, **quiet)
            reuse.click(self.reuse, history, [*form, instead], **quiet)
            for event in (blocks.load, history.input, gr.Timer(POLL_SECONDS).tick):
                event(self._show, [history, view], shown, **quiet)
        return blocks

    def _field(self, name: str, label: Any, info: Any) -> Any:
        """Create the form field of a setting, chosen by its annotation."""
        kind, notes = declared(GenerateConfig)[name]
        value = _shown(self.defaults[name])
        facts = {"label": label, "info": info, "min_width": 200, "elem_id": f"set-{name}"}
        optional = NoneType in get_args(kind)
        if get_origin(kind) is not Literal:
            kind = next((k for k in get_args(kind) if k is not NoneType), kind)
        empty = [""] if optional else []
        if get_origin(kind) is Literal:
            return gr.Dropdown([*empty, *get_args(kind)], value=value or "", **facts)
        if kind is bool and not optional:
            return gr.Checkbox(value, **facts)
        if kind is bool:
            return gr.Dropdown([*empty, "true", "false"], value=value or "", **facts)
        high = max((n.high for n in notes if isinstance(n, Range) and n.high < math.inf), default=0)
        if kind in (int, float) and high < MAX_EXACT and not optional:  # gr.Number shows None as 0
            return gr.Number(value, **facts)
        return gr.Textbox("" if value is None else str(value), max_lines=1, **facts)

    def _settings(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return the form's settings that differ from the defaults, and `preview`, which is always on."""
        given = dict(zip(self.names, values, strict=True))
        found: dict[str, Any] = {"preview": True}
        for name, value in given.items():
            kind = declared(GenerateConfig)[name][0]
            read: Any = value
            if value and any(get_origin(k) is tuple for k in (kind, *get_args(kind))):
                read = value.split(",")
            elif {int, float} & {kind, *get_args(kind)}:
                with contextlib.suppress(ValueError):  # reported when the settings are checked
                    read = json.loads(str(value))
            if value not in (None, "") and read != self.defaults[name]:
                found[name] = read
        return found

    # --- events -----------------------------------------------------------------------------------------------------

    def _submitter(self, kind: Kind) -> Callable[..., list[Any]]:
        def submit(
            request: gr.Request, picture: str | None, video: str | None, poses: str | None, *values: Any
        ) -> list[Any]:
            try:
                token = self.tokens.authorize(request.cookies.get(COOKIE, ""), "jobs")
                state = self._submit(token, kind, picture, video or poses, values)
            except (InputError, RefusedError) as e:
                box = gr.update(value=_error(public(e), _language(request)), visible=True)
                return [box, *[gr.skip()] * 5]
            return [gr.update(value="", visible=False), *self._show(request, state.id, "", select=True)]

        return submit

    def _submit(
        self, token: Token, kind: Kind, picture: str | None, video: str | None, values: tuple[Any, ...]
    ) -> JobState:
        files = {"picture": picture, "video": video}
        for name, path in files.items():
            if path is None or not Path(path).is_file():
                fix = f"choose a {name}, or use the example"
                raise RefusedError(422, f"no {name}", "a picture, and a video or pose file", fix)
        self.jobs.check_count(token.name)
        self.jobs.check_room(self.jobs.disk_used())
        with self.jobs.incoming() as folder:
            for name, path in files.items():
                shutil.copyfile(str(path), folder / name)
            return self.jobs.accept(folder, token.name, kind, self._settings(values))[0]

    def example(self) -> tuple[str, str, None]:
        """Return the paths of the bundled picture and video, and None for the pose file."""
        return str(find_asset("demo/person.png")), str(find_asset("demo/driving.mp4")), None

    def cancel(self, request: gr.Request, id: str | None, html: str | None) -> list[Any]:
        """Cancel the selected job."""
        if id:
            self.jobs.cancel(id, self._owner(request, "jobs"))
        return self._show(request, id, html)

    def delete(self, request: gr.Request, id: str | None, html: str | None) -> list[Any]:
        """Delete the selected job and its files."""
        if id:
            self.jobs.delete(id, self._owner(request, "jobs"))
        return self._show(request, id, html)

    def reuse(self, request: gr.Request, id: str) -> list[Any]:
        """Fill the form with the files and settings of a job."""
        owner = self._owner(request)
        files = (self.jobs.input(id, owner, name) for name in ("picture", "video"))
        picture, video = (save_file_to_cache(path, os.environ["GRADIO_TEMP_DIR"]) for path in files)
        poses = video.endswith((".npz", ".json"))
        settings = self.defaults | self.jobs.state(id, owner).settings
        values = ["" if (value := _shown(settings[n])) is None else value for n in self.names]
        return [picture, *((None, video) if poses else (video, None)), *values, gr.update(open=poses)]

    # --- view -------------------------------------------------------------------------------------------------------

    def _owner(self, request: gr.Request, scope: TokenScope = "read") -> str | None:
        return owner_of(self.tokens.authorize(request.cookies.get(COOKIE, ""), scope))

    def _show(self, request: gr.Request, id: str | None, html: str | None, select: bool = False) -> list[Any]:
        """Return updates of history, view and buttons, if they differ from what the page shows (`html`)."""
        owner, language = self._owner(request), _language(request)
        states = self.jobs.list(owner, HISTORY, 0)
        if states and id not in {s.id for s in states}:
            id, select = states[0].id, True
        choices = [(_line(s, language), s.id) for s in states]
        mark = f"list-{hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:8]}"
        selected = next((s for s in states if s.id == id), None)
        empty = f'<div class="empty">{TEXTS["empty"][language]}</div>'
        content = self._view(selected, owner, language) if selected else empty
        new = f'<div class="mm {mark}">{content}</div>'
        if new == html and not select:
            return [gr.skip()] * 5
        history: dict[str, Any] = {"visible": bool(states)} | ({"value": id} if select else {})
        history |= {"choices": choices} if select or mark not in (html or "") else {}
        visible = [selected is not None and not selected.ended, selected is not None, selected is not None]
        return [gr.update(**history), new, *(gr.update(visible=v) for v in visible)]

    def _view(self, state: JobState, owner: str | None, language: int) -> str:
        base, texts = f"/v1/jobs/{state.id}", {key: both[language] for key, both in TEXTS.items()}
        parts = [f"<h3>{texts[f'{state.kind} job']}: {texts[state.state]}</h3>"]
        if state.state == "running":
            stage = texts.get(state.stage or "load", state.stage)
            counted = f" {state.done} / {state.total}" if state.total and state.total > 1 else ""
            left = "" if state.eta is None else ", " + texts["left"].format(math.ceil(state.eta))
            parts.append(f'<progress value="{state.done or 0}" max="{state.total or 1}"></progress>')
            parts.append(f"<div>{stage}{counted}{left}</div>")
        if not state.ended and state.kind == "generate":
            preview = f'<img src="{base}/preview?{state.stage}{state.done}" alt="">' if state.preview else "<div></div>"
            after = _figure(preview, texts["preview"])
            before = _figure(f'<img src="{base}/picture" alt="">', texts["picture"])
            parts.append(f'<div class="pair">{before}{after}</div>')
        if state.error:
            parts.append(_error(state.error, language))
        if state.state == "done" and state.kind == "plan":
            lines = json.loads(public_sidecar(self.jobs.result(state.id, owner)))["plan"]
            text = escape("\n".join(lines))
            parts.append(f'<img class="plan" src="{base}/result" alt="{texts["plan job"]}"><pre>{text}</pre>')
        if state.state == "done" and state.kind == "generate":
            driving = _driving(base, self.jobs.input(state.id, owner, "video"), state.settings)
            made = f'<video src="{base}/result" controls autoplay loop muted playsinline></video>'
            parts.append(
                f'<div class="pair">{_figure(driving, texts["video"])}{_figure(made, texts["result"])}</div>'
                f'<p><a class="get" href="{base}/result" download="{state.id}.mp4">{texts["download"]}</a></p>'
            )
        given = [f"{k} {v}" for k, v in state.settings.items() if k != "preview"]
        facts = [texts["frames"].format(state.frames), *given]
        return "".join([*parts, f"<small>{escape(', '.join(facts))}</small>"])


# --- helpers ------------------------------------------------------------------------------------------------------

HELP = field_help(GenerateConfig)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _shown(value: Any) -> Any:
    """Convert a setting to the value shown in the form."""
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def _language(request: Request | gr.Request) -> Literal[0, 1]:
    """Return the index of the browser's language in `TEXTS`."""
    return 1 if request.headers.get("accept-language", "").lower().startswith("zh") else 0


def _line(state: JobState, language: int) -> str:
    made = time.strftime("%m-%d %H:%M", time.localtime(state.created))
    words = [TEXTS[key][language].format(state.frames) for key in (f"{state.kind} job", "frames", state.state)]
    return f"{SYMBOLS[state.state]} {made}  {', '.join(words)}"


def _error(error: dict[str, str], language: int) -> str:
    rows = [f"<b>{escape(error['got'])}</b>"]
    rows += [f"{TEXTS[name][language]}: {escape(error[name])}" for name in ("expected", "fix")]
    return f'<div class="mm"><div class="error">{"<br>".join(rows)}</div></div>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def _driving(base: str, path: Path, settings: dict[str, Any]) -> str:
    """Return HTML that shows the driving video or, if that is a pose file, the picture."""
    if path.suffix in (".npz", ".json"):
        return f'<img src="{base}/picture" alt="">'
    if path.suffix in (".gif", ".webp"):
        return f'<img src="{base}/video" alt="">'
    start, rate = (escape(str(settings.get(name, d))) for name, d in (("start", 0), ("tempo", 1)))
    return f'<video src="{base}/video" data-start="{start}" data-rate="{rate}" muted playsinline></video>'
