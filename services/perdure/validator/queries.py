"""What queries of premises may say: reading what is there, no code, nothing of other collections and indices. Pure.

Contract: MongoDB's operators are those of a list, so that one which a later server adds is refused until it is looked at.
Extended JSON (``{"$date": ...}``) is taken as values are. Of OpenSearch's bodies the places where a script or another index can
stand are refused.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, Final

from perdure.validator.sources.errors import SourceError

_OPERATORS: Final = frozenset(
    (
        "$eq",
        "$ne",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$in",
        "$nin",
        "$and",
        "$or",
        "$nor",
        "$not",
        "$exists",
        "$type",
        "$size",
        "$all",
        "$elemMatch",
        "$mod",
        "$regex",
        "$options",
        "$bitsAllSet",
        "$bitsAnySet",
        "$bitsAllClear",
        "$bitsAnyClear",
        "$comment",
    )
)
_EXTENDED_JSON: Final = frozenset(
    (
        "$date",
        "$oid",
        "$numberInt",
        "$numberLong",
        "$numberDouble",
        "$numberDecimal",
        "$binary",
        "$uuid",
        "$timestamp",
        "$minKey",
        "$maxKey",
        "$regularExpression",
    )
)
_SCRIPTED: Final = frozenset(
    (
        "script",
        "script_fields",
        "script_score",
        "scripted_metric",
        "bucket_script",
        "bucket_selector",
        "moving_fn",
        "runtime_mappings",
        "derived",
        "_script",
        "template",
    )
)
_ELSEWHERE: Final = frozenset(
    (
        "indexed_shape",
        "percolate",
        "more_like_this",
        "pit",
    )
)
DEPTH: Final = 50
SYSTEM_INDICES: Final = "perdure-"


def require_filter(filter_: Mapping[str, Any], allowed_in: str) -> None:
    """Refuse a MongoDB filter that says more than a comparison of fields.

    Args:
        filter_: As JSON, before Extended JSON is read.
        allowed_in: The setting that would allow it, for the message.

    Raises:
        SourceError: with the operator.

    """
    for key, _, _ in _keys(filter_):
        if key.startswith("$") and key not in _OPERATORS and key not in _EXTENDED_JSON:
            raise SourceError(
                f"the filter uses {key}: premises compare fields only; {allowed_in} may allow the connection more",
                retryable=False,
            )


def require_body(body: Mapping[str, Any], allowed_in: str) -> None:
    """Refuse an OpenSearch body that holds a script or reads another index.

    Raises:
        SourceError: with the key.

    """
    for key, value, parent in _keys(body):
        lookup = parent == "terms" and isinstance(value, Mapping)
        if key in _SCRIPTED or key in _ELSEWHERE or lookup:
            what = "looks up another index" if lookup or key in _ELSEWHERE else "is a script"
            raise SourceError(
                f"the query has {key!r}, which {what}: {allowed_in} may allow the connection more", retryable=False
            )


def require_listed(name: str, listed: Sequence[str] | None, where: str, allowed_in: str) -> None:
    """Refuse a collection that is not listed; ``None`` lists all.

    Raises:
        SourceError: with what to change.

    """
    if listed is not None and not any(fnmatch.fnmatchcase(name, one) for one in listed):
        raise SourceError(f"{where}: {name!r} is not among {allowed_in}", retryable=False)


def require_indices(expression: str, listed: Sequence[str] | None, where: str, allowed_in: str) -> None:
    """Refuse an expression of indices that is not listed, and without a list one that may mean the system's own.

    Raises:
        SourceError: with what to change.

    """
    for one in expression.split(","):
        if listed is not None and (one in listed or not _wild(one)):
            require_listed(one, listed, where, allowed_in)
            continue
        if _wild(one) or one.startswith((".", SYSTEM_INDICES)):
            raise SourceError(
                f"{where}: {one!r} may mean indices of the system; write it into {allowed_in} if premises may read it",
                retryable=False,
            )


def _wild(name: str) -> bool:
    return not name or name == "_all" or name.startswith(("-", "<")) or "*" in name or "?" in name


def _keys(value: Any, parent: str = "", depth: int = 0) -> list[tuple[str, Any, str]]:
    """Every key with its value and the key that it stands under."""
    if depth > DEPTH:
        raise SourceError(f"the query is nested deeper than {DEPTH} levels", retryable=False)
    found: list[tuple[str, Any, str]] = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            found.append((key, inner, parent))
            found += _keys(inner, key, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            found += _keys(inner, parent, depth + 1)
    return found
