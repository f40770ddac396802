"""The HTTP service: its API and web page, jobs that survive crashes, worker processes, and tokens."""

from mimicmotion.runtime.extras import check_extra

check_extra("serve", "dbos", "fastapi", "gradio", "python_multipart", "uvicorn")
