"""``perdure dlq``: dead letters, the records that could not be handled: see them, send them again, give them up."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.client import Gateway
from perdure.cli.options import DEFAULT_URL, AsJson, Limit, Url
from perdure.cli.output import Output, fields, indented, table

app = typer.Typer(no_args_is_help=True, help="Dead letters: see them, send them again, give them up.")

LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="A dead letter: topic:partition:offset.")]
Topic = Annotated[str | None, typer.Option(help="Of this topic, such as perdure.commands.")]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="envelope, unknown_type, unknown_version, payload, handler.")
]
TypeOption = Annotated[str | None, typer.Option("--type", help="Of this message type, such as perdure.run.start.")]
ThreadOption = Annotated[str | None, typer.Option("--thread", help="Of this thread.")]
By = Annotated[str | None, typer.Option("--by", envvar="USER", help="Who decides; kept with the letter.")]

_COLUMNS = {
    "id": "id",
    "state": "state",
    "reason": "reason",
    "type": "type",
    "thread": "thread_id",
    "died": "died_at",
    "redrives": "redrives",
}
_FIELDS = {
    "id": "id",
    "state": "state",
    "reason": "reason",
    "detail": "detail",
    "consumer": "consumer",
    "died": "died_at",
    "type": "type",
    "thread": "thread_id",
    "bytes": "size",
    "redrives": "redrives",
    "redriven": "redriven_at",
    "redriven by": "redriven_by",
    "was": "redriven_from",
    "redriven before": "earlier_redrives",
    "dropped": "dropped_at",
    "dropped by": "dropped_by",
    "removed": "expires_at",
    "key": "key",
}
_SHOWN_BYTES = 64 * 1024


@app.command("list")
def list_letters(
    *,
    topic: Topic = None,
    reason: ReasonOption = None,
    type_: TypeOption = None,
    thread: ThreadOption = None,
    state: Annotated[str, typer.Option(help="open, redriven, dropped or all.")] = "open",
    limit: Limit = 50,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, newest first."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get(
            "dead-letters",
            topic=topic,
            reason=reason,
            type=type_,
            thread_id=thread,
            state=None if state == "all" else state,
            limit=limit,
        )
    if found["cursor"]:
        output.note(f"There are more than {limit}; see more with --limit.")
    output.result(found["items"], table(found["items"], _COLUMNS, "no dead letter"))


@app.command()
def show(letter: LetterArgument, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one dead letter with its headers and its value."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        found = gateway.get("dead-letters", letter)
    output.result(
        found,
        fields(found, _FIELDS),
        table(found["headers"], {"header": "name", "is": "value"}, "no headers"),
        Text("value", style="bold"),
        _value(found),
    )


@app.command()
def redrive(
    letters: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters: topic:partition:offset.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All open ones that fit the options, the oldest first.")] = False,
    topic: Topic = None,
    reason: ReasonOption = None,
    type_: TypeOption = None,
    thread: ThreadOption = None,
    limit: Limit = 100,
    force: Annotated[bool, typer.Option("--force", help="Also those that were redriven or dropped before.")] = False,
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send records to their topics again, as they were; do it after what refused them is mended."""
    if bool(letters) is every:
        raise typer.BadParameter("name dead letters, or choose them with --all and options", param_hint="ID")
    output = Output(as_json)
    with Gateway(url) as gateway:
        if letters:
            params = {"force": "true"} if force else {}
            done = [gateway.post("dead-letters", one, "redrive", body=_decision(by), params=params) for one in letters]
            output.result(done, table(done, _COLUMNS, ""))
            return
        wanted = {"topic": topic, "reason": reason, "type": type_, "thread_id": thread, "limit": limit}
        body = {name: value for name, value in wanted.items() if value is not None} | _decision(by)
        found = gateway.post("dead-letters", "redrive", body=body)
    lines = [f"{len(found['redriven'])} redriven"]
    lines += [f"{refusal['id']} refused: {refusal['detail']}" for refusal in found["refused"]]
    lines += ["More are open that fit: do it again, or raise --limit."] if found["more"] else []
    output.result(found, "\n".join(lines))


@app.command()
def drop(
    letters: Annotated[list[str], typer.Argument(metavar="ID...", help="Dead letters: topic:partition:offset.")],
    by: By = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up; they are removed 30 days later."""
    output = Output(as_json)
    with Gateway(url) as gateway:
        done = [gateway.post("dead-letters", one, "drop", body=_decision(by)) for one in letters]
    output.result(done, table(done, _COLUMNS, ""))


def _decision(by: str | None) -> dict[str, Any]:
    return {"by": by} if by else {}


def _value(letter: dict[str, Any]) -> Text:
    """The value for people: JSON with indentation, text as it is, a note for the rest."""
    if letter["value_encoding"] == "json":
        shown = indented(letter["value"])
    else:
        try:
            shown = base64.b64decode(letter["value"]).decode()
        except UnicodeDecodeError:
            shown = f"{letter['size']} bytes that are no text; --json gives them in base64"
    cut = shown[:_SHOWN_BYTES]
    return Text(cut if cut == shown else f"{cut}\n... ({letter['size']} bytes; --json gives all)")
