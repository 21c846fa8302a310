"""The question that a plain ``interrupt()`` asks: what a person reads, and what an answer must fit (ADR 34).

Contract: pure. Every value is a question. Three shapes are known by their fields, whoever made them: agent-inbox's
``HumanInterrupt`` (one, or a list of them), and the requests of LangChain's ``HumanInTheLoopMiddleware``, for several tool calls at
once (``action_requests``) or for one (``tool_approval``). Their answers have the form that those libraries read. Of any other value
a text stands for the question, and the rest of the value for its details.

Outside: questions of ``ask_human``, which say all of this themselves (``perdure.schemas.waits``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from perdure.registry.answers import BrokenSchema, require_schema
from perdure.schemas.waits import Question, digest

TEXT_LIMIT: Final = 16_000
"""Characters of a question; a longer text is whole in the details."""
UNASKED: Final = "The agent waits for an answer."
"""Stands for the question where the value has no text."""
ASKING: Final = ("question", "message", "prompt", "description", "title", "text")
"""The key whose text is the question, the first that there is."""
ACTIONS_LIMIT: Final = 100
"""More requests in one interrupt have no form of their own: they are answered with JSON."""
VERDICTS: Final = 256
"""Schemas whose verdicts are remembered; each is at most 64 KiB of JSON."""
FORM_OF_DEFAULT: Final = "x-perdure-form-of-default"
"""Annotation of an object's schema: a form has one field for each key of its ``default``."""

Schema = dict[str, Any]


def question_of(value: Any, response_schema: Mapping[str, Any] | None = None) -> Question:
    """The question of an interrupt.

    Args:
        value: What the node passed to ``interrupt()``, as JSON.
        response_schema: What an answer must fit, as the node says it; goes before what the value's shape says. A schema by which
            nothing can be judged is passed over.

    """
    asked = next((made for shape in _SHAPES if (made := shape(value)) is not None), None) or _any(value)
    if response_schema is not None and _is_usable(response_schema):
        return asked.model_copy(update={"answer_schema": dict(response_schema)})
    return asked


def question_in(wait: Mapping[str, Any]) -> Question:
    """The question of a wait's document, of ``ask_human`` and of a plain interrupt alike."""
    interrupt = wait.get("interrupt")
    if interrupt is None:
        return Question.model_validate(wait["question"])
    return question_of(interrupt["value"], interrupt.get("response_schema"))


def _any(value: Any) -> Question:
    """The question of a value of no known shape."""
    if isinstance(value, str) and value.strip():
        return _question(value, {})
    if isinstance(value, Mapping):
        key = next((key for key in ASKING if isinstance(value.get(key), str) and value[key].strip()), None)
        details = {name: one for name, one in value.items() if name != key}
        return _question(value[key] if key is not None else UNASKED, details)
    return _question(UNASKED, {} if value in (None, "") else {"value": value})


def _human_interrupts(value: Any) -> Question | None:
    """The question of agent-inbox's ``HumanInterrupt``, answered by a list with one ``HumanResponse`` for each."""
    requests = value if isinstance(value, list) else [value]
    if not 0 < len(requests) <= ACTIONS_LIMIT or not all(map(_is_human_interrupt, requests)):
        return None
    actions = [{"action": one["action_request"]["action"], "args": one["action_request"]["args"]} for one in requests]
    names = [action["action"] for action in actions]
    schemas = [_responses(action, one["config"]) for action, one in zip(actions, requests, strict=True)]
    schema = _list_of(schemas, names) if all(schemas) else {"type": "array"}
    return _about(actions, names, [one.get("description") for one in requests], schema)


def _is_human_interrupt(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("config"), Mapping):
        return False
    request = value.get("action_request")
    return isinstance(request, Mapping) and isinstance(request.get("action"), str) and _is_object(request.get("args"))


def _responses(action: Mapping[str, Any], config: Mapping[str, Any]) -> list[Schema]:
    """The responses that a ``HumanInterruptConfig`` allows."""
    nothing: Schema = {"default": None, "readOnly": True}
    edited: Schema = {
        "title": "Action",
        "type": "object",
        "properties": {"action": _name("Action", action["action"]), "args": _arguments(action["args"])},
        "required": ["action", "args"],
    }
    known = (
        ("allow_accept", _alternative("accept", args=nothing)),
        ("allow_edit", _alternative("edit", args=edited)),
        ("allow_respond", _alternative("response", args=_text("Your response"))),
        ("allow_ignore", _alternative("ignore", args=nothing)),
    )
    return [schema for name, schema in known if config.get(name)]


def _tool_calls(value: Any) -> Question | None:
    """The question of ``HumanInTheLoopMiddleware`` about the tool calls of one turn: one decision for each, by position."""
    if not isinstance(value, Mapping):
        return None
    requests, configs = value.get("action_requests"), value.get("review_configs")
    if not isinstance(requests, list) or not isinstance(configs, list) or not 0 < len(requests) <= ACTIONS_LIMIT:
        return None
    if not all(map(_is_call, requests)) or not all(isinstance(one, Mapping) for one in configs):
        return None
    calls = [{"name": one["name"], "args": one["args"]} for one in requests]
    allowed = {config.get("action_name"): config.get("allowed_decisions") for config in configs}
    schemas = [_decisions(call, allowed.get(call["name"])) for call in calls]
    names = [call["name"] for call in calls]
    decisions = _list_of(schemas, names) if all(schemas) else {"type": "array"}
    schema = {"type": "object", "properties": {"decisions": decisions | {"title": ""}}, "required": ["decisions"]}
    return _about(calls, names, [one.get("description") for one in requests], schema)


def _tool_call(value: Any) -> Question | None:
    """The question of ``HumanInTheLoopMiddleware`` about one tool call; its ``response_schema`` says what may be decided."""
    if not isinstance(value, Mapping) or value.get("type") != "tool_approval" or not _is_call(value):
        return None
    return _about([{"name": value["name"], "args": value["args"]}], [value["name"]], [value.get("description")], None)


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str) and _is_object(value.get("args"))


def _decisions(call: Mapping[str, Any], allowed: Any) -> list[Schema]:
    """The decisions that a review allows for a call; none where it does not say which."""
    edited: Schema = {
        "title": "Tool call",
        "type": "object",
        "properties": {"name": _name("Tool", call["name"]), "args": _arguments(call["args"])},
        "required": ["name", "args"],
    }
    reject = _alternative("reject", message=_text("Reason"))
    known = {
        "approve": _alternative("approve"),
        "edit": _alternative("edit", edited_action=edited),
        "reject": reject | {"required": ["type"]},
        "respond": _alternative("respond", message=_text("Your response")),
    }
    return [known[name] for name in known if isinstance(allowed, list) and name in allowed]


def _about(
    actions: Sequence[Mapping[str, Any]], names: Sequence[str], described: Sequence[Any], schema: Schema | None
) -> Question:
    """The question whether these actions may be done."""
    texts = [text if isinstance(text, str) and text.strip() else None for text in described]
    if len(actions) == 1:
        asked, details = texts[0] or f"May I do this: {names[0]}?", {}
    else:
        asked = f"{len(actions)} actions wait for your decision: {', '.join(names)}"
        details = {
            f"{number}. {name}": text for number, (name, text) in enumerate(zip(names, texts, strict=True), 1) if text
        }
    return _question(asked, details, actions[0] if len(actions) == 1 else list(actions), schema)


def _question(text: str, details: Mapping[str, Any], action: Any = None, schema: Schema | None = None) -> Question:
    more = {"text": text} if len(text) > TEXT_LIMIT else {}
    return Question(
        question=text if not more else text[: TEXT_LIMIT - 1] + "…",
        answer_schema=schema,
        details={**details, **more},
        action=action,
        action_digest=digest(action) if action is not None else None,
    )


def _list_of(alternatives: Iterable[Sequence[Schema]], names: Sequence[str]) -> Schema:
    """The schema of a list with one of its alternatives at each place."""
    several = len(names) > 1
    items = [
        {"title": f"{number}. {name}" if several else "Your decision", "oneOf": list(schemas)}
        for number, (name, schemas) in enumerate(zip(names, alternatives, strict=True), 1)
    ]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _alternative(kind: str, **properties: Schema) -> Schema:
    """An answer of one ``type``, with these properties, all of them required."""
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **properties},
        "required": ["type", *(name for name, schema in properties.items() if not schema.get("readOnly"))],
    }


def _text(title: str) -> Schema:
    return {"title": title, "type": "string"}


def _name(title: str, default: str) -> Schema:
    """The schema of a name: one line, not empty."""
    return {"title": title, "type": "string", "pattern": ".", "default": default}


def _arguments(args: Mapping[str, Any]) -> Schema:
    return {"title": "Arguments", "type": "object", "default": dict(args), FORM_OF_DEFAULT: True}


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_usable(schema: Mapping[str, Any]) -> bool:
    return _is_usable_text(json.dumps(schema))


@lru_cache(maxsize=VERDICTS)
def _is_usable_text(schema: str) -> bool:
    """Whether answers can be judged by a schema, given as JSON: the questions of a node mostly have the same one."""
    try:
        require_schema(json.loads(schema))
    except BrokenSchema:
        return False
    return True


_SHAPES: Final[tuple[Callable[[Any], Question | None], ...]] = (_human_interrupts, _tool_calls, _tool_call)
