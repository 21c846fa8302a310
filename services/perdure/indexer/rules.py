"""Reading redaction rules: a JSON or TOML list of ``{path, action, graph?}``, checked when the service starts.

Contract: :func:`load` returns compiled rules or raises :class:`ConfigurationError` that names the file, the rule by its
position, and what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonpath import JSONPathError
from jsonpath import compile as compile_path
from jsonpath.path import JSONPath
from jsonpath.segments import JSONPathRecursiveDescentSegment
from jsonpath.selectors import IndexSelector, NameSelector, SliceSelector, WildcardSelector
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.setting_files import read_setting_file
from perdure.indexer.redaction import ANY, BELOW, Action, Redaction, Rule

NO_END = 2**63


class RuleSpec(BaseModel):
    """One rule as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    action: Action
    graph: str | None = None


def load(file: Path | None, key: SecretStr | None) -> Redaction:
    """The rules of a file; none without a file.

    Raises:
        ConfigurationError: the file cannot be read, or a rule is wrong.

    """
    if file is None:
        return Redaction()
    specs = _read(file)
    rules = [_rule(file, n, spec) for n, spec in enumerate(specs, 1)]
    if key is None and any(rule.action is Action.HASH for rule in rules):
        raise ConfigurationError(f"{file}: a rule says hash, and PERDURE_REDACTION_KEY (the secret for it) is not set")
    return Redaction(rules, key.get_secret_value().encode() if key else b"")


def _read(file: Path) -> list[Any]:
    found = read_setting_file("PERDURE_REDACTION_FILE", file)
    rules = found.get("rules") if isinstance(found, dict) else found
    if not isinstance(rules, list):
        raise ConfigurationError(f"{file}: must be a list of rules, or have one under the key 'rules'")
    return rules


def _rule(file: Path, position: int, spec: Any) -> Rule:
    where = f"{file}: rule {position}"
    try:
        checked = RuleSpec.model_validate(spec)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'rule'}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{where} {spec!r}: {problems}") from error
    return Rule(_pattern(f"{where} ({checked.path})", checked.path), checked.action, checked.graph)


def _pattern(where: str, path: str) -> tuple[str | range, ...]:
    try:
        compiled = compile_path(path)
    except JSONPathError as error:
        raise ConfigurationError(f"{where}: not a JSONPath: {error}") from error
    if not isinstance(compiled, JSONPath):
        raise ConfigurationError(f"{where}: write one rule for each path, without | and &")
    steps: list[str | range] = []
    for segment in compiled.segments:
        if isinstance(segment, JSONPathRecursiveDescentSegment):
            steps.append(BELOW)
        if len(segment.selectors) != 1:
            raise ConfigurationError(f"{where}: write one rule for each selector of [a, b]")
        steps.extend(_steps(where, segment.selectors[0]))
    if not steps:
        raise ConfigurationError(f"{where}: selects everything; name what is to be redacted")
    return tuple(steps)


def _steps(where: str, selector: object) -> list[str | range]:
    match selector:
        case NameSelector(name=name):
            return [name]
        case WildcardSelector():
            return [ANY]
        case IndexSelector(index=index) if index >= 0:
            return [str(index)]
        case SliceSelector(slice=span) if (span.start or 0) >= 0 and (span.stop or 0) >= 0 and (span.step or 1) > 0:
            return [range(span.start or 0, NO_END if span.stop is None else span.stop, span.step or 1)]
    raise ConfigurationError(
        f"{where}: {selector} cannot be used here: only names, indices from 0, slices from 0, * and .. can"
    )
