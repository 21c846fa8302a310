"""A form made from the JSON Schema of an answer: pure functions.

Contract: :func:`form_of` makes a form for every schema: what has no field of its own is one field for JSON. The form only helps to
write an answer; whether it fits is judged by the whole schema (``perdure.registry.answers``).

Fields are named ``answer`` followed by the JSON Pointer of their place, so that a reason finds its field; fields of an alternative
have its number in between.

Outside: the answer made from what was typed into a form (``perdure.gateway.answers.typed``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from perdure.chassis import json
from perdure.registry.questions import FORM_OF_DEFAULT

ROOT: Final = "answer"
DEPTH: Final = 2
"""Objects within objects that get fields of their own; deeper ones are written as JSON."""
PROPERTIES: Final = 50
"""An object with more of them is written as JSON."""
LINE: Final = 120
"""A text that may be longer gets several lines."""
CHOICES: Final = 100
ALTERNATIVES: Final = 20
REFERENCES: Final = 8
APPROVING: Final = frozenset(
    {
        "accept",
        "accepted",
        "allow",
        "allowed",
        "approval",
        "approve",
        "approved",
        "confirm",
        "confirmed",
        "ok",
        "proceed",
    }
)
"""A required boolean of such a name is the decision that the question is about: its values are the buttons."""

_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-\s]+")


class Kind(StrEnum):
    """How a field is filled in."""

    DECISION = "decision"
    """Two buttons that also send the form."""
    FLAG = "flag"
    CHOICE = "choice"
    TEXT = "text"
    LINES = "lines"
    INTEGER = "integer"
    NUMBER = "number"
    GROUP = "group"
    LIST = "list"
    """A list with one field for each of its places."""
    ALTERNATIVES = "alternatives"
    """One of several objects: a choice, and the fields of each alternative."""
    JSON = "json"
    ANYTHING = "anything"
    """JSON, or any text: of a question without a schema."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values; ``value`` is its place among them."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field, or a group of them.

    Attributes:
        pointer: Its place in the answer (JSON Pointer).
        key: Its name in its object; empty of the root.
        required: An answer without it does not fit.
        nullable: Left empty, it is ``null`` where it is required.
        initial: What stands in it at first, as typed.
        values: Of a choice: the values.
        fields: Of a group or list: its fields; of alternatives: the group of each.
        fixed: Of an alternative: the values that it has without a field.
        branch: Numbers of the alternatives that the field is in, as part of its name.

    """

    pointer: str
    key: str
    kind: Kind
    label: str
    hint: str = ""
    required: bool = True
    nullable: bool = False
    initial: str = ""
    choices: tuple[Choice, ...] = ()
    values: tuple[Any, ...] = ()
    fields: tuple[Field, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    branch: str = ""

    @property
    def name(self) -> str:
        """The name of the form's control."""
        return ROOT + self.branch + self.pointer


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the form a field is made; ``depth`` counts objects within objects."""

    root: Mapping[str, Any]
    pointer: str = ""
    depth: int = 0
    branch: str = ""

    def within(self, key: str | int) -> _Place:
        return replace(self, pointer=f"{self.pointer}/{_escaped(str(key))}", depth=self.depth + 1)


def form_of(schema: Mapping[str, Any] | None) -> Field:
    """The form for an answer that fits ``schema`` (``None``: any answer)."""
    if not schema:
        return Field("", "", Kind.ANYTHING, "Your answer", 'Text as it is, or JSON such as true, 42 or {"a": 1}.')
    root = _field(schema, _Place(schema), "", required=True)
    root = replace(root, label=str(schema.get("title") or "Your answer"))
    if root.kind is Kind.FLAG:
        return replace(root, kind=Kind.DECISION, label=str(schema.get("title") or "Your decision"))
    deciding = [one for one in root.fields if one.kind is Kind.FLAG and one.required and not one.nullable]
    if len(deciding) == 1 and deciding[0].key.lower() in APPROVING:
        decision = replace(deciding[0], kind=Kind.DECISION)
        others = tuple(one for one in root.fields if one is not deciding[0])
        return replace(root, fields=(*others, decision))
    return root


def decision_of(form: Field) -> Field | None:
    """The field whose values are the form's buttons."""
    return next((one for one in fields_in(form) if one.kind is Kind.DECISION), None)


def fields_in(form: Field) -> Iterator[Field]:
    """A field and all those within it, in their order."""
    yield form
    for one in form.fields:
        yield from fields_in(one)


def _field(schema: Any, at: _Place, key: str, *, required: bool) -> Field:
    if (found := _alternatives(schema, at)) is not None:
        return _choice_of(found, schema, at, key, required=required)
    schema, nullable = _plain(schema, at.root)
    label = _label(key) if (title := schema.get("title")) is None else str(title)
    hint = str(schema.get("description") or "")
    kind = _kind(schema, at.depth)
    made = Field(at.pointer, key, kind, label, hint, required, nullable, branch=at.branch)
    values = _values(schema)
    if values is not None:
        choices = tuple(Choice(str(n), text) for n, (_, text) in enumerate(values))
        only = tuple(value for value, _ in values)
        return replace(made, choices=choices, values=only, initial=_chosen(schema, only))
    if kind is Kind.LIST:
        items = enumerate(schema["prefixItems"])
        inner = tuple(_field(one, replace(at.within(n), depth=at.depth), "", required=True) for n, one in items)
        return replace(made, fields=inner)
    if kind is Kind.GROUP:
        return replace(made, fields=_fields(schema, at))
    return replace(made, initial=_initial(kind, schema), nullable=nullable or schema.get(FORM_OF_DEFAULT) == "null")


def _fields(schema: Mapping[str, Any], at: _Place, without: Collection[str] = ()) -> tuple[Field, ...]:
    """The fields of an object's properties."""
    if schema.get(FORM_OF_DEFAULT):
        shown = {name: _like(value) for name, value in schema["default"].items()}
        return tuple(_field(one, at.within(name), name, required=True) for name, one in shown.items())
    needed = schema.get("required", [])
    properties = ((name, one) for name, one in schema["properties"].items() if name not in without)
    return tuple(_field(one, at.within(name), name, required=name in needed) for name, one in properties)


def _like(value: Any) -> dict[str, Any]:
    """The schema of a field in which a value is changed to another of its kind."""
    if isinstance(value, bool):
        return {"type": "boolean", "default": value}
    if isinstance(value, int | float):
        return {"type": "number", "default": value}
    if isinstance(value, str):
        short = {"maxLength": LINE} if len(value) <= LINE and value.isprintable() else {}
        return {"type": "string", "default": value, **short}
    if isinstance(value, Mapping) and value:
        return {"type": "object", "default": value, FORM_OF_DEFAULT: True}
    return {"default": value, FORM_OF_DEFAULT: "null" if value is None else False}


def _alternatives(schema: Any, at: _Place) -> tuple[str, list[Mapping[str, Any]]] | None:
    """The property that tells a schema's alternatives apart, and these; ``None`` where they are not told apart so."""
    branches = (schema.get("oneOf") or schema.get("anyOf")) if isinstance(schema, Mapping) else None
    if not isinstance(branches, list) or not 0 < len(branches) <= ALTERNATIVES or at.branch:
        return None
    plain = [_plain(one, at.root)[0] for one in branches]
    if not all(isinstance(one.get("properties"), Mapping) and len(one["properties"]) <= PROPERTIES for one in plain):
        return None
    for name in plain[0]["properties"]:
        tags = [_constant(one["properties"].get(name)) for one in plain]
        if None not in tags and len(set(tags)) == len(tags) and all(name in one.get("required", ()) for one in plain):
            return name, plain
    return None


def _constant(schema: Any) -> str | None:
    const = schema.get("const") if isinstance(schema, Mapping) else None
    return const if isinstance(const, str) and const else None


def _choice_of(
    found: tuple[str, list[Mapping[str, Any]]], schema: Mapping[str, Any], at: _Place, key: str, *, required: bool
) -> Field:
    """The field of a choice between objects that ``found`` tells apart."""
    tag, branches = found
    groups = []
    for number, one in enumerate(branches):
        properties: Mapping[str, Any] = one["properties"]
        fixed = {name: value["default"] for name, value in properties.items() if _is_fixed(value)}
        fixed = {tag: properties[tag]["const"], **fixed}
        inner = replace(at, depth=-1, branch=f"[{number}]")
        fields = _fields(one, inner, without=fixed)
        label = _label(fixed[tag])
        groups.append(Field(at.pointer, "", Kind.GROUP, label, fields=fields, fixed=fixed, branch=inner.branch))
    choices = tuple(Choice(str(number), group.label) for number, group in enumerate(groups))
    made = Field(at.pointer, key, Kind.ALTERNATIVES, str(schema.get("title") or _label(key)), required=required)
    initial = "0" if len(groups) == 1 else ""
    return replace(made, choices=choices, fields=tuple(groups), initial=initial, branch=at.branch)


def _is_fixed(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("readOnly") is True and "default" in schema


def _kind(schema: Mapping[str, Any], depth: int) -> Kind:
    if _values(schema) is not None:
        return Kind.CHOICE
    kind = schema.get("type")
    if kind == "string":
        return Kind.TEXT if schema.get("maxLength", LINE + 1) <= LINE or "pattern" in schema else Kind.LINES
    simple = {"boolean": Kind.FLAG, "integer": Kind.INTEGER, "number": Kind.NUMBER}
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    return (_container(schema) or Kind.JSON) if depth < DEPTH else Kind.JSON


def _container(schema: Mapping[str, Any]) -> Kind | None:
    """Whether a schema's parts have fields of their own."""
    kind, items, properties = schema.get("type"), schema.get("prefixItems"), schema.get("properties")
    if schema.get(FORM_OF_DEFAULT) is True:
        return Kind.GROUP if len(schema["default"]) <= PROPERTIES else None
    if kind == "array" and isinstance(items, list) and len(items) <= CHOICES:
        return Kind.LIST if schema.get("minItems") == schema.get("maxItems") == len(items) else None
    if kind in ("object", None) and isinstance(properties, Mapping) and 0 < len(properties) <= PROPERTIES:
        return Kind.GROUP if set(schema.get("required", ())) <= set(properties) else None
    return None


def _plain(schema: Any, root: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """A schema without references and alternatives that say only "or null"; whether null is allowed."""
    nullable = False
    for _ in range(REFERENCES):
        if not isinstance(schema, Mapping):
            return {}, nullable
        rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf", "anyOf", "oneOf")}
        alternatives = schema.get("anyOf") or schema.get("oneOf") or ()
        others = [one for one in alternatives if one != {"type": "null"}]
        if isinstance(schema.get("$ref"), str):
            schema = {**_referred(schema["$ref"], root), **rest}
        elif len(schema.get("allOf", ())) == 1 and isinstance(schema["allOf"][0], Mapping):
            schema = {**schema["allOf"][0], **rest}
        elif len(others) == 1 and isinstance(others[0], Mapping):
            nullable = nullable or len(others) < len(alternatives)
            schema = {**others[0], **rest}
        else:
            break
    kinds = schema.get("type")
    if isinstance(kinds, list):
        others = [one for one in kinds if one != "null"]
        nullable = nullable or len(others) < len(kinds)
        schema = {**schema, "type": others[0] if len(others) == 1 else kinds}
    return schema, nullable


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the schema leads to; nothing for any other."""
    here: Any = root
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return {}
    for part in reference[2:].split("/"):
        here = here.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here if isinstance(here, Mapping) else {}


def _values(schema: Mapping[str, Any]) -> list[tuple[Any, str]] | None:
    """The values that a schema lists, with their labels; ``None`` when it lists none."""
    if "const" in schema:
        return [(schema["const"], _said(schema["const"]))]
    listed = schema.get("enum")
    if isinstance(listed, list) and 0 < len(listed) <= CHOICES:
        return [(value, _said(value)) for value in listed]
    branches = schema.get("oneOf") or schema.get("anyOf")
    if not isinstance(branches, list) or not 0 < len(branches) <= CHOICES:
        return None
    if all(isinstance(one, Mapping) and "const" in one for one in branches):
        return [(one["const"], str(one.get("title") or _said(one["const"]))) for one in branches]
    return None


def _chosen(schema: Mapping[str, Any], values: Sequence[Any]) -> str:
    if len(values) == 1:
        return "0"
    default = schema.get("default", ...)
    same = (str(n) for n, value in enumerate(values) if type(value) is type(default) and value == default)
    return next(same, "")


def _initial(kind: Kind, schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    if default is None or kind is Kind.GROUP:
        return ""
    if kind is Kind.FLAG:
        return {True: "true", False: "false"}.get(default, "") if isinstance(default, bool) else ""
    if kind is Kind.JSON:
        return json.dumps(default).decode()
    return default if isinstance(default, str) else _said(default)


def _said(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value).decode()


def _label(key: str) -> str:
    words = " ".join(part for part in _WORDS.split(key) if part)
    return words[:1].upper() + words[1:] if words else "Your answer"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
