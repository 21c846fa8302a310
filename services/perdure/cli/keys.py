"""``perdure keys``: API keys, made and revoked on the database itself, so that the first key can be made."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.encryption import rotate_encryption
from perdure.cli.options import DEFAULT_URL, AsJson, Url
from perdure.cli.output import Output, fields, table
from perdure.cli.parsing import ahead
from perdure.schemas.scopes import SETS, UnknownScope, scopes_of
from perdure.schemas.session_documents import TICKET_PATH

app = typer.Typer(
    no_args_is_help=True,
    help="API keys, made and revoked on the database itself, and the encryption of what is stored.",
)
app.command("rotate-encryption")(rotate_encryption)

_FIELDS = {
    "key id": "key_id",
    "name": "name",
    "tenant": "tenant",
    "scopes": "scopes",
    "expires": "expires_at",
    "key": "key",
}
_COLUMNS = {
    "key id": "key_id",
    "name": "name",
    "tenant": "tenant",
    "state": "state",
    "scopes": "scopes",
    "made by": "created_by",
    "made": "created_at",
    "expires": "expires_at",
    "last used": "last_used",
}


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for; changes are recorded as key:NAME.")],
    *,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", "-s", help=f"A scope, or a set of scopes: {', '.join(SETS)}. Several times for several."
        ),
    ],
    tenant: Annotated[
        str, typer.Option(envvar="PERDURE_TENANT", help="Whose data the key gives access to.")
    ] = "default",
    expires: Annotated[str | None, typer.Option(help="90d, 12h or a time; without it the key does not expire.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once."""
    try:
        scopes = scopes_of(scope)
    except UnknownScope as error:
        raise typer.BadParameter(str(error), param_hint="--scope") from error
    expires_at = ahead(expires, "--expires")
    from perdure.cli import keys_work

    output = Output(as_json)
    made = keys_work.create(tenant=tenant, name=name, scopes=scopes, expires_at=expires_at)
    output.note("The key is shown this once. Clients send it as x-api-key; `perdure` takes it from PERDURE_API_KEY.")
    output.result(made, fields(made, _FIELDS))


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None, as_json: AsJson = False
) -> None:
    """Show the keys, oldest first; the secrets are not stored."""
    from perdure.cli import keys_work

    found = keys_work.list_keys(tenant)
    Output(as_json).result(found, table(found, _COLUMNS, "no key"))


@app.command()
def ticket(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="A key id, as `perdure keys list` shows it.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a link that signs a browser in to the console once, with what the key may do; good for thirty minutes."""
    from perdure.cli import keys_work

    link = f"{url.rstrip('/')}{TICKET_PATH}{keys_work.ticket(key_id)}"
    Output(as_json).result({"url": link}, link)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="A key id, as `perdure keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key; gateways refuse it within three seconds."""
    from perdure.cli import keys_work

    shown = keys_work.revoke(key_id)
    Output(as_json).result(shown, f"revoked {key_id} ({shown['name']})")
