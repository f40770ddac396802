"""Run the `mimicmotion` command with `python -m mimicmotion.cli`."""

from __future__ import annotations

from mimicmotion.cli import main

raise SystemExit(main())
