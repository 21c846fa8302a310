"""From events to deliveries: who is told what, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import pytest

from perdure.notifier.domain import PASSED_OVER, told_by
from perdure.notifier.matching import Plan, keys_of, plan_of
from perdure.registry.deliveries import delivery_id, endpoint_of, shown_target
from perdure.registry.subscriptions import is_address, rotated, scope_key, valid_secrets
from perdure.schemas import events
from perdure.schemas.batches import BatchFinished, BatchThresholdReached
from perdure.schemas.events import InterruptInfo
from perdure.schemas.message import Message
from perdure.schemas.notices import NoticeKind
from perdure.schemas.waits import Question, Wait, WaitKind

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
OF = {
    "tenant": "acme",
    "thread_id": "th",
    "run_id": "r1",
    "graph_id": "audit",
    "assistant_id": "a-1",
    "seq": 7,
    "epoch": 1,
    "occurred_at": NOW,
}
ERROR = events.ErrorInfo(type="builtins.ValueError", message="no", node="Login", traceback="secret")
SECRET_TARGETS = (
    "https://discord.com/api/webhooks/123/s3cret",
    "https://acme.webhook.office.com" + "/webhookb2/s3cret@t/IncomingWebhook/s3cret/u",
    "https://hooks.zapier.com/hooks/catch/1/s3cret/",
    "https://hooks.slack.com" + "/services/T0/B0/s3cret",
    "https://example.com:8443/hook?token=s3cret",
    "https://u:s3cret@example.com/#s3cret",
)
ALL = [kind.value for kind in NoticeKind]


def asked(due_in_s: float | None = 7200, assigned_to: str | None = "ann@example.com") -> Any:
    due_at = NOW + timedelta(seconds=due_in_s) if due_in_s is not None else None
    question = Question(question="Pay 82,000?", action={"pay": 82000}, assigned_to=assigned_to)
    return Wait(kind=WaitKind.APPROVAL, due_at=due_at, question=question, events=("reply",)).value()


def interrupted(*values: Any, seq: int = 7) -> events.RunInterrupted:
    infos = tuple(InterruptInfo(id=f"i{n}", value=value) for n, value in enumerate(values))
    return events.RunInterrupted(**(OF | {"seq": seq}), interrupts=infos, next=("pay",))


def subscription(scope: str = "tenant", scope_id: str | None = None, **more: Any) -> Any:
    return {
        "_id": "s1",
        "tenant": "acme",
        "scope": scope,
        "scope_key": scope_key("acme", scope, scope_id),
        "kinds": ALL,
        "channel": "webhook",
        "target": "https://example.com/hook?token=secret",
        "created_at": NOW - timedelta(days=1),
        "lead_s": 3600.0,
        **more,
    }


def planned(message: Message | list[Message], *subscriptions: Any, runs: Any = None, now: datetime = NOW) -> Plan:
    messages = message if isinstance(message, list) else [message]
    told = [one for each in messages for one in told_by(each)]
    keys = {key for one in told for key in keys_of(one, (runs or {}).get(one.notice.run_id or ""))}
    fitting = [one for one in subscriptions if one["scope_key"] in keys]
    return plan_of(told, fitting, runs or {}, now, 259200.0)


STUCK = events.ThreadStuck(**OF, note=1, code=events.StuckCode.OVERDUE, reason="late", since=NOW, next=("Login",))
RECOVERED = events.ThreadRecovered(**OF, note=2, code=events.StuckCode.OVERDUE, stuck_since=NOW, status="running")
BATCH = {"tenant": "acme", "thread_id": "b1", "occurred_at": NOW, "total": 3, "assistant_id": "a-1"}
KINDS: list[tuple[Message, list[str]]] = [
    (events.RunSucceeded(**OF, steps=3), ["completed"]),
    (events.RunFailed(**OF, error=ERROR), ["failed"]),
    (interrupted(), ["paused"]),
    (events.RunTimedOut(**OF, error=ERROR), ["timed_out"]),
    (events.RunCancelled(**OF), ["cancelled"]),
    (interrupted(asked()), ["approval_wanted", "approval_expiring"]),
    (interrupted(asked(None)), ["approval_wanted"]),
    (
        interrupted({"question": "a plain interrupt"}, Wait(kind=WaitKind.TIMER, due_at=NOW).value()),
        ["approval_wanted"],
    ),
    (interrupted({"perdure_wait": 1, "kind": "no such kind"}), ["approval_wanted"]),
    (interrupted("Go?", "And now?"), ["approval_wanted", "approval_wanted"]),
    (STUCK, ["stuck"]),
    (RECOVERED, ["recovered"]),
    (BatchFinished(**BATCH, status="completed"), ["batch_finished"]),
    (BatchThresholdReached(**BATCH, threshold=2, action="paused"), ["batch_threshold"]),
    (
        events.ApprovalEscalated(
            **OF,
            note=1,
            wait_id="th:i0",
            question="Pay?",
            assigned_to="ben@example.com",
            escalations=1,
            expected_by=NOW,
        ),
        ["approval_wanted", "approval_expiring"],
    ),
]


@pytest.mark.parametrize(("message", "kinds"), KINDS)
def test_every_event_tells_what_it_is(message: Message, kinds: list[str]) -> None:
    assert [one["kind"] for one in planned(message, subscription()).deliveries] == kinds


def test_every_event_is_read_or_passed_over() -> None:
    read = {type(message).TYPE for message, _ in KINDS}
    assert {event.TYPE for event in events.EVENTS.values()} <= read | PASSED_OVER


@pytest.mark.parametrize(
    ("scope", "scope_id", "fits"),
    [
        ("tenant", None, True),
        ("thread", "th", True),
        ("thread", "other", False),
        ("run", "r1", True),
        ("run", "r2", False),
        ("assistant", "a-1", True),
        ("assistant", "audit", True),
        ("assistant", "other", False),
        ("batch", "th", False),
    ],
)
def test_scopes(scope: str, scope_id: str | None, fits: bool) -> None:
    assert bool(planned(KINDS[0][0], subscription(scope, scope_id)).deliveries) is fits


def test_another_tenants_subscription_is_told_nothing() -> None:
    other = subscription() | {"scope_key": scope_key("other", "tenant", None)}
    assert planned(KINDS[0][0], other).deliveries == []


def test_batches_have_scopes_of_their_own() -> None:
    finished = BatchFinished(**BATCH, status="completed")
    assert planned(finished, subscription("batch", "b1")).deliveries[0]["data"]["total"] == 3
    assert planned(finished, subscription("assistant", "a-1")).deliveries
    assert not planned(finished, subscription("batch", "b2")).deliveries


def test_only_the_kinds_that_were_asked_for() -> None:
    assert not planned(KINDS[0][0], subscription(kinds=["failed"])).deliveries


def test_what_happened_before_it_was_made_is_not_told() -> None:
    assert not planned(KINDS[0][0], subscription(created_at=NOW + timedelta(seconds=6))).deliveries
    assert planned(KINDS[0][0], subscription(created_at=NOW + timedelta(seconds=4))).deliveries, "clocks differ"


def test_the_same_event_twice_is_one_delivery() -> None:
    once, twice = planned(KINDS[0][0], subscription()), planned([KINDS[0][0]] * 2, subscription())
    assert [one["_id"] for one in once.deliveries] == [one["_id"] for one in twice.deliveries]


def test_a_question_that_is_asked_again_by_a_sibling_is_one_notice() -> None:
    plan = planned([interrupted(asked(), seq=7), interrupted(asked(), seq=12)], subscription())
    assert [one["kind"] for one in plan.deliveries] == ["approval_wanted", "approval_expiring"]


def test_a_question_that_goes_to_the_next_person_is_another_notice() -> None:
    escalated = KINDS[-1][0]
    to_assigned = subscription(channel="email", target="assigned_to", kinds=["approval_wanted"])
    plan = planned([interrupted(asked()), escalated], to_assigned)
    assert [one["target"] for one in plan.deliveries] == ["ann@example.com", "ben@example.com"]


@pytest.mark.parametrize("assigned_to", [None, "ops", "ann@example.com\nBcc: eve@example.com", "a@b, c@d", "<a@b.c>"])
def test_a_question_that_nobody_can_be_mailed_is_dead_with_a_reason(assigned_to: str | None) -> None:
    to_assigned = subscription(channel="email", target="assigned_to")
    (dead, *_) = planned(interrupted(asked(assigned_to=assigned_to)), to_assigned).deliveries
    assert dead["state"] == "dead"
    assert "assigned to" in str(dead["reason"])
    assert "due_at" not in dead
    assert dead["told"] is False


def test_expiring_is_told_shortly_before() -> None:
    _, expiring = planned(interrupted(asked(7200)), subscription(lead_s=600.0)).deliveries
    assert expiring["due_at"] == NOW + timedelta(seconds=6600)
    assert expiring["wait_id"] == "th:i0"
    assert expiring["data"]["events"] == ["reply"]


def test_quiet_hours_put_off() -> None:
    quiet = {"timezone": "UTC", "start": "08:00", "end": "18:00", "urgent": ["stuck"]}
    assert planned(KINDS[0][0], subscription(quiet=quiet)).deliveries[0]["due_at"] == NOW.replace(hour=18)
    assert planned(STUCK, subscription(quiet=quiet)).deliveries[0]["due_at"] == NOW


def test_a_digest_gathers() -> None:
    more = KINDS[0][0].model_copy(update={"seq": 8})
    plan = planned([KINDS[0][0], more, interrupted(asked())], subscription(digest_s=3600.0))
    (digest,) = plan.digests.values()
    assert digest["due_at"] == NOW + timedelta(hours=1, seconds=1)
    assert [one["state"] for one in plan.deliveries] == ["gathered", "gathered", "gathered", "pending"]
    assert {one.get("digest") for one in plan.deliveries} == {digest["_id"], None}
    later = planned(more, subscription(digest_s=3600.0), now=NOW + timedelta(hours=1))
    assert later.digests.keys() != plan.digests.keys()


def test_no_traceback_leaves() -> None:
    assert "secret" not in str(planned(events.RunFailed(**OF, error=ERROR), subscription()).deliveries[0]["data"])


def run(id_: str = "r1", **more: Any) -> dict[str, Any]:
    return {"_id": id_, "tenant": "acme", "created_at": NOW - timedelta(minutes=1)} | more


def test_the_webhook_of_a_run_is_a_subscription() -> None:
    plan = planned(KINDS[0][0], runs={"r1": run(webhook="https://me.example/x")})
    assert [(one["subscription_id"], one["target"]) for one in plan.deliveries] == [("run:r1", "https://me.example/x")]
    assert not planned(STUCK, runs={"r1": run(webhook="https://me.example/x")}).deliveries


def test_the_items_of_a_batch_are_told_as_a_batch_unless_asked() -> None:
    runs = {"r1": run(batch={"id": "b1", "number": 7, "attempt": 1})}
    for ended in (
        each for each, kinds in KINDS if kinds and kinds[0] in ("completed", "failed", "timed_out", "cancelled")
    ):
        for wide in (subscription(), subscription("assistant", "a-1")):
            assert planned(ended, wide), "a run of its own"
            assert not planned(ended, wide, runs=runs).deliveries
            assert planned(ended, wide | {"batch_items": True}, runs=runs).deliveries
        for narrow in (subscription("thread", "th"), subscription("run", "r1")):
            assert planned(ended, narrow, runs=runs).deliveries
    assert planned(interrupted(asked()), subscription(), runs=runs).deliveries, "a question waits for somebody"
    assert planned(STUCK, subscription(), runs=runs).deliveries


@pytest.mark.parametrize("webhook", ["https://x:99999/", "https://[::1", "", "no address at all"])
def test_a_webhook_that_is_no_url_leaves_the_others_theirs(webhook: str) -> None:
    plan = planned(KINDS[0][0], subscription(), runs={"r1": run(webhook=webhook or "https://[")})
    assert {one["subscription_id"] for one in plan.deliveries} == {"s1", "run:r1"}
    assert not plan.failed
    assert "x:99999" not in shown_target("webhook", webhook)


def test_a_notice_that_cannot_be_planned_leaves_the_others_theirs() -> None:
    end_of_time = datetime(9999, 12, 31, 23, tzinfo=UTC)
    value = Wait(kind=WaitKind.APPROVAL, due_at=end_of_time, question=Question(question="Pay?")).value()
    plan = planned(interrupted(value), subscription())
    assert [one["kind"] for one in plan.deliveries] == ["approval_wanted"]
    ((notice, error),) = plan.failed
    assert (notice.kind, type(error)) == ("approval_expiring", OverflowError)


def test_the_webhook_of_a_run_is_told_whatever_the_clocks_say() -> None:
    ahead = run(webhook="https://me.example/x", created_at=NOW + timedelta(minutes=1))
    assert planned(KINDS[0][0], runs={"r1": ahead}).deliveries
    assert not planned(KINDS[0][0], subscription(created_at=NOW + timedelta(minutes=1))).deliveries


def test_a_run_goes_on_in_the_runs_that_wake_its_thread() -> None:
    runs = {"r1": run(origin_run_id="r0", wait_id="w"), "r0": run("r0", webhook="https://me.example/x")}
    plan = planned(KINDS[0][0], subscription("run", "r0"), runs=runs)
    assert sorted(one["subscription_id"] for one in plan.deliveries) == ["run:r0", "s1"]


def test_a_waking_run_that_came_too_late_was_not_cancelled() -> None:
    late = {"r1": run(wait_id="w")}
    assert not planned(events.RunCancelled(**OF), subscription(), runs=late).deliveries
    asked_for = {"r1": run(wait_id="w", cancel_requested_at=NOW)}
    assert planned(events.RunCancelled(**OF), subscription(), runs=asked_for).deliveries


def test_addresses() -> None:
    assert is_address("ann.o'hara+x@mail.example.com")
    for wrong in ("ann", "ann@", "@b", "a@b\r\nX: y", "a b@c", "a@b,c@d", "a@b..c", "a" * 65 + "@b"):
        assert not is_address(wrong), wrong


def test_ids_and_targets() -> None:
    assert delivery_id("t", "e", "s") == delivery_id("t", "e", "s") != delivery_id("t", "e", "s2")
    assert delivery_id("t", "e", "s").startswith("msg_")
    assert endpoint_of("webhook", "https://Example.com/a") == "example.com:443"
    assert endpoint_of("slack", "http://localhost:8080/a") == "localhost:8080"
    assert endpoint_of("email", "a@b.c") == "smtp"
    for channel in ("webhook", "slack"):
        for target in SECRET_TARGETS:
            shown = shown_target(channel, target)
            assert "s3cret" not in shown
            host, digest = urlsplit(target).netloc.rpartition("@")[2], sha256(target.encode()).hexdigest()[:12]
            assert shown == f"https://{host}/... (sha256 {digest})"


def test_secrets_rotate() -> None:
    first: Any = [{"secret": "a", "until": None}]
    both = rotated(first, "b", NOW, 60)
    assert valid_secrets({"secrets": both}, NOW) == ["b", "a"]
    assert valid_secrets({"secrets": both}, NOW + timedelta(seconds=61)) == ["b"]
    assert valid_secrets({"secrets": rotated(both, "c", NOW, 0)}, NOW) == ["c"]
    many = first
    for number in range(10):
        many = rotated(many, str(number), NOW, 600)
    assert valid_secrets({"secrets": many}, NOW) == ["9", "8", "7", "6", "5"]


def test_a_plain_interrupt_is_told_with_what_the_node_passed() -> None:
    value = {"message": "Pay?", "amount": 82000}
    (told,) = planned(interrupted(value), subscription()).deliveries
    assert told["wait_id"] == "th:i0"
    assert told["question_due_at"] is None
    data = told["data"]
    assert (data["approval_id"], data["question"], data["details"]) == ("th:i0", "Pay?", {"amount": 82000})
    assert data["interrupt"] == {"id": "i0", "value": value}
    assert (data["expires_at"], data["events"], data["answer_schema"]) == (None, [], None)


def test_the_question_of_ask_human_is_told_as_before() -> None:
    told = planned(interrupted(asked()), subscription()).deliveries[0]
    assert "interrupt" not in told["data"]
    assert told["data"]["action"] == {"pay": 82000}


def test_a_run_that_asks_twice_is_told_once_in_the_agent_servers_format() -> None:
    event = interrupted("Go?", "And now?")
    (told,) = planned(event, subscription(format="langgraph")).deliveries
    assert (told["format"], told["kind"], told["wait_id"]) == ("langgraph", "approval_wanted", None)
    again = interrupted("Go?", "And now?", seq=9)
    assert planned([event, again], subscription(format="langgraph")).deliveries == [told]
    standard = planned(event, subscription()).deliveries
    assert len(standard) == 2
    assert not any("format" in one for one in standard)


def test_the_webhook_of_a_run_has_the_format_that_its_run_names() -> None:
    run: Any = {"_id": "r1", "tenant": "acme", "webhook": "https://example.com/", "created_at": NOW}
    success = events.RunSucceeded(**OF, steps=3)
    (told,) = planned(success, runs={"r1": run | {"webhook_format": "langgraph"}}).deliveries
    assert told["format"] == "langgraph"
    (told,) = planned(success, runs={"r1": run}).deliveries
    assert "format" not in told
