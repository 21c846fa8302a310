"""Final validation: the node right before a destructive act looks at the world once more.

::

    verdict = final_validation(
        [premise("price", http("https://quotes.example.com/ACME", "/price"), believed=10, rule=relative(0.01))],
        action={"buy": "ACME", "shares": 100},
    )
    if not verdict.proceed:
        return Command(goto="ask" if verdict.outcome is VerdictOutcome.ASK else "give_up")

Contract: a wait like any other (:mod:`perdure.sdk.waits`): the agent sleeps while the validator reads. The verdict is on one exact
action, may be used once and only until it expires (``effect(verdict=...)`` sees to that). Whatever is not a verdict of the
validator on this very action has the outcome *unknown*: a time-out, a plain ``command.resume``, a node that computes another action
after it woke. Unknown never passes.

Outside: reading sources (``perdure.validator``), using a verdict up (``perdure.sdk.effects``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from pydantic import ValidationError

from perdure.schemas import validation as wire
from perdure.schemas.validation import Finding, Premise, Rule, VerdictOutcome
from perdure.schemas.waits import OutcomeKind, ValidationRequest, Wait, WaitKind, WaitOutcome, digest
from perdure.sdk.errors import WaitError
from perdure.sdk.waits import _after, _wait

Policy: TypeAlias = Literal["refuse", "ask"]


class _Absent:
    """What was not given; ``None`` is a value that one may believe in."""


_ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Place:
    """A source, and where in its answer the value is."""

    source: wire.Source
    pointer: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the premises of one action."""

    outcome: VerdictOutcome
    reason: str
    """One sentence for people, on the first premise that does not hold, or why there is no verdict."""
    action_digest: str
    verdict_id: str | None = None
    """Names the verdict for ``effect(verdict=...)``; ``None`` where the validator gave none."""
    findings: tuple[Finding, ...] = ()
    """One for each premise, in their order."""
    read_at: datetime | None = None
    """When the oldest of the fresh values was read."""
    expires_at: datetime | None = None
    """Until when an effect may use it."""

    @property
    def proceed(self) -> bool:
        """Whether every premise held."""
        return self.outcome is VerdictOutcome.PROCEED

    def __getitem__(self, name: str) -> Finding:
        """The finding on the premise of this name; raises ``KeyError`` when there is none."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"the verdict has no finding on {name!r}: {self.reason}")


def final_validation(
    premises: Iterable[Premise],
    action: Any,
    *,
    expires: timedelta = timedelta(seconds=60),
    timeout: timedelta = timedelta(minutes=2),
) -> Verdict:
    """Sleep until the validator has read the premises' sources again; whether they still hold.

    Args:
        premises: 1 to 100, made by :func:`premise`.
        action: The exact act (JSON) that the verdict is for. A node that runs again must give the same.
        expires: How long after the reading an effect may use the verdict; at most a day.
        timeout: Without a verdict by then the outcome is unknown.

    Raises:
        WaitError: the premises or the action cannot be used.

    """
    wait, action_digest = _request(tuple(premises), action, expires, timeout)
    return _verdict(_wait(wait), action_digest)


def premise(
    name: str,
    place: Place,
    *,
    believed: Any = _ABSENT,
    rule: Rule | None = None,
    timeout: timedelta = timedelta(seconds=10),
    attempts: int = 3,
    on_violation: Policy = "refuse",
    on_unknown: Policy = "refuse",
) -> Premise:
    """Something that must still be true.

    Args:
        name: Of your choice, unique in one validation; at most 128 characters.
        place: Where the fresh value is: :func:`http`, :func:`mongodb`, :func:`opensearch`, :func:`fetcher`.
        believed: What the agent decided on, as JSON; not needed for :func:`between` and :func:`newer_than`.
        rule: :func:`equal` without.
        timeout: Of one attempt to read the source; at most 300 s.
        attempts: How often it is tried, 1 to 10.
        on_violation: ``ask``: a fresh value that breaks the rule makes the outcome *ask* instead of *stale*.
        on_unknown: ``ask``: a source that cannot be read makes the outcome *ask* instead of *unknown*.

    Raises:
        WaitError: the rule cannot be checked against what is believed.

    """
    rule = rule or wire.Equal()
    if isinstance(believed, _Absent):
        if not isinstance(rule, wire.Range | wire.NewerThan):
            raise WaitError(
                f"premise {name!r}: the rule {rule.rule!r} compares with what is believed; name believed=..."
            )
        believed = None
    try:
        return Premise(
            name=name,
            source=place.source,
            pointer=place.pointer,
            believed=believed,
            rule=rule,
            timeout_s=timeout.total_seconds(),
            attempts=attempts,
            on_violation=on_violation,
            on_unknown=on_unknown,
        )
    except ValidationError as error:
        raise _mistake(f"premise {name!r}", error) from error


def http(url: str, pointer: str = "", *, headers: Mapping[str, str] | None = None) -> Place:
    """JSON over HTTP (GET). ``${PERDURE_SOURCE_X}`` in a header is the validator's environment variable.

    The variable is sent to the hosts that ``PERDURE_SOURCE_X_HOSTS`` names there, and to no other.

    Args:
        url: ``http://`` or ``https://``.
        pointer: JSON Pointer (RFC 6901) to the value, ``/price``; empty: the whole answer.
        headers: Sent with the request.

    """
    return _place(wire.HttpSource, pointer, url=url, headers=dict(headers or {}))


def mongodb(
    connection: str,
    collection: str,
    query: Mapping[str, Any],
    pointer: str = "",
    *,
    sort: Mapping[str, int] | None = None,
) -> Place:
    """The first document of a MongoDB query, ``null`` when none fits; times and ids in Extended JSON.

    Args:
        connection: Its name in the validator's ``PERDURE_VALIDATOR_CONNECTIONS``.
        collection: In the database that the connection names.
        query: A MongoDB filter that compares fields; wrap values of the state in :func:`eq`.
        pointer: As for :func:`http`.
        sort: Field to 1 (ascending) or -1.

    """
    return _place(
        wire.MongoSource,
        pointer,
        connection=connection,
        collection=collection,
        filter=dict(query),
        sort=dict(sort or {}),
    )


def eq(value: Any) -> dict[str, Any]:
    """A condition of a MongoDB query: the field equals this value, whatever the value is.

    ``{"desk": state["desk"]}`` asks something else than it seems to when the state's value is ``{"$ne": None}``;
    ``{"desk": eq(state["desk"])}`` does not.
    """
    return {"$eq": value}


def opensearch(connection: str, index: str, body: Mapping[str, Any], pointer: str = "") -> Place:
    """The answer of an OpenSearch search; ``/hits/total/value`` counts, ``/hits/hits/0/_source/price`` is a field."""
    return _place(wire.OpenSearchSource, pointer, connection=connection, index=index, body=dict(body))


def fetcher(name: str, pointer: str = "", **arguments: Any) -> Place:
    """What a function of the project returns: ``"perdure": {"fetchers": {"quote": "./fetchers.py:quote"}}``."""
    return _place(wire.FetcherSource, pointer, name=name, arguments=arguments)


def equal() -> Rule:
    """The fresh value equals the believed one; 1 equals 1.0, neither equals ``True``."""
    return wire.Equal()


def absolute(tolerance: float) -> Rule:
    """Not further than ``tolerance`` from the believed number."""
    return _rule(wire.Absolute, tolerance=tolerance)


def relative(tolerance: float) -> Rule:
    """Not further from the believed number than this part of it; 0.05 is five per cent."""
    return _rule(wire.Relative, tolerance=tolerance)


def between(low: float | None = None, high: float | None = None) -> Rule:
    """From ``low`` to ``high``, both included; at least one of them."""
    return _rule(wire.Range, low=low, high=high)


def newer_than(max_age: timedelta | datetime) -> Rule:
    """The fresh value is a time, at most so old when it is read, or not before this moment."""
    if isinstance(max_age, datetime):
        return _rule(wire.NewerThan, than=max_age)
    return _rule(wire.NewerThan, max_age_s=max_age.total_seconds())


def unchanged() -> Rule:
    """The fresh value, however large, has the believed :func:`fingerprint`."""
    return wire.UnchangedHash()


def fingerprint(value: Any) -> str:
    """What to remember of a JSON value to see later that it is :func:`unchanged` (64 hex digits).

    Raises:
        WaitError: it is not JSON.

    """
    try:
        return digest(value)
    except (TypeError, ValueError) as error:
        raise WaitError(f"the value is not JSON: {error}") from error


def _request(premises: tuple[Premise, ...], action: Any, expires: timedelta, timeout: timedelta) -> tuple[Wait, str]:
    names = [one.name for one in premises]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise WaitError(f"premises need names of their own; repeated: {', '.join(sorted(repeated))}")
    if timeout <= timedelta():
        raise WaitError(f"a timeout of {timeout} leaves no time to read anything")
    try:
        action_digest = digest(action)
        request = ValidationRequest(
            premises=premises,
            action=action,
            action_digest=action_digest,
            verdict_expires_s=expires.total_seconds(),
        )
    except ValidationError as error:
        raise _mistake("this validation", error) from error
    except (TypeError, ValueError) as error:
        raise WaitError(f"the action must be JSON without NaN and infinity: {error}") from error
    return Wait(kind=WaitKind.VALIDATION, due_at=_after(timeout), validation=request), action_digest


def _verdict(given: Any, action_digest: str) -> Verdict:
    if not isinstance(given, WaitOutcome):
        return _none("the thread was resumed by hand, without a verdict", action_digest)
    if given.kind is not OutcomeKind.VERDICT:
        return _none("no verdict came in time", action_digest)
    found = wire.Verdict.model_validate(given.payload)
    if found.action_digest != action_digest:
        return _none("the node computes another action than the one that was validated", action_digest, found.findings)
    return Verdict(
        outcome=found.outcome,
        reason=_reason(found),
        action_digest=found.action_digest,
        verdict_id=given.wait_id,
        findings=found.findings,
        read_at=found.read_at.astimezone(UTC),
        expires_at=found.expires_at.astimezone(UTC),
    )


def _none(reason: str, action_digest: str, findings: tuple[Finding, ...] = ()) -> Verdict:
    return Verdict(VerdictOutcome.UNKNOWN, reason, action_digest, findings=findings)


def _reason(found: wire.Verdict) -> str:
    decisive = (finding for finding in found.findings if finding.outcome is found.outcome)
    first = next(decisive, None)
    if first is None or found.outcome is VerdictOutcome.PROCEED:
        return "every premise holds"
    return f"{first.name}: {first.reason}"


def _place(source: type[Any], pointer: str, **fields: Any) -> Place:
    try:
        return Place(source(**fields), pointer)
    except ValidationError as error:
        raise _mistake("this source", error) from error


def _rule(rule: type[Any], **fields: Any) -> Rule:
    try:
        made: Rule = rule(**fields)
    except ValidationError as error:
        raise _mistake("this rule", error) from error
    return made


def _mistake(what: str, error: ValidationError) -> WaitError:
    said = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()[:3])
    return WaitError(f"{what} cannot be used: {said}")
