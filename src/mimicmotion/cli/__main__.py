"""`python -m mimicmotion.cli`: the same as the `mimicmotion` command."""

from __future__ import annotations

from mimicmotion.cli import main

raise SystemExit(main())
