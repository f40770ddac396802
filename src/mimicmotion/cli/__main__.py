"""`python -m mimicmotion.cli`: the same as the command `mimicmotion`."""

from __future__ import annotations

from mimicmotion.cli import main

raise SystemExit(main())
