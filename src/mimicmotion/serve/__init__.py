"""The service: HTTP jobs that survive crashes, their worker processes, and tokens."""

from mimicmotion.runtime.extras import check_extra

check_extra("serve", "dbos", "fastapi", "gradio", "python_multipart", "uvicorn")
