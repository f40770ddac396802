"""The page of a study: one HTML file with its style and script inside, which asks nothing of other servers."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from mimicmotion.study.folder import Study

_HERE = Path(__file__).parent


def render_page(study: Study) -> str:
    """index.html of a study; the data stand inside, so the page also works when opened from a disk."""
    # "</script>" or "<!--" in a title must not end the element
    data = json.dumps(study.as_json(), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(study.title),
        "question": html.escape(study.question),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": (_HERE / "page.js").read_text(encoding="utf-8"),
        "study": data,
    }
    # in one pass: a title that holds "{{script}}" stays a title
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], (_HERE / "page.html").read_text(encoding="utf-8"))
