"""The commands serve and serve token."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from mimicmotion.cli.options import app, say, settings_command
from mimicmotion.settings.serve import Scope, ServeConfig

serve_app = App(name="serve", help="Run jobs submitted over HTTP or on a web page; the queue survives crashes.")
token_app = App(name="token", help="Manage the service's access tokens; needs write access to its data folder.")
app.command(serve_app)
serve_app.command(token_app)

DATA = ServeConfig.data


@settings_command(serve_app, ServeConfig)
def serve(settings: ServeConfig) -> None:
    """Run the service until Ctrl-C or SIGTERM. Interrupted jobs resume at the next start, even after a kill."""
    from mimicmotion.serve.app import serve as run

    run(settings, lambda line: say(line, flush=True))


@token_app.command(name="add")
def token_add(name: str, /, *, scope: Scope = "jobs", data: Path = DATA) -> None:
    """Create the token NAME and print its secret, which is not stored and cannot be shown again.

    Args:
        name: Name of the token; jobs created with it belong to this name.
        scope: read (see its own jobs), jobs (also create and cancel them) or admin (all jobs, and server metrics).
        data: Data folder of the service.
    """
    from mimicmotion.serve.tokens import Tokens

    say(Tokens(data).add(name, scope))


@token_app.command(name="list")
def token_list(*, data: Path = DATA) -> None:
    """List the tokens.

    Args:
        data: Data folder of the service.
    """
    from datetime import datetime

    from mimicmotion.serve.tokens import Tokens

    for token in Tokens(data).all():
        made = datetime.fromtimestamp(token.created).isoformat(" ", "minutes")
        say(f"{token.name}  {token.scope}  created {made}" + ("  revoked" if token.revoked else ""))


@token_app.command(name="revoke")
def token_revoke(name: str, /, *, data: Path = DATA) -> None:
    """Revoke the token NAME immediately; its jobs are kept.

    Args:
        name: Name of the token.
        data: Data folder of the service.
    """
    from mimicmotion.serve.tokens import Tokens

    Tokens(data).revoke(name)
    say(f"{name} is revoked")
