"""Asking the validator about a wait's premises: the same message from agent-step and from the scheduler, which asks again."""

from __future__ import annotations

from perdure.chassis.clock import now
from perdure.chassis.kafka.producer import Producer
from perdure.chassis.signatures import Signatures
from perdure.chassis.telemetry import logger
from perdure.schemas.documents import WaitDocument
from perdure.schemas.envelope import Record, encode
from perdure.schemas.topics import VALIDATIONS
from perdure.schemas.validation import ValidatePremises
from perdure.schemas.waits import ValidationRequest

log = logger(__name__)


def request_record(wait: WaitDocument, source: str) -> Record:
    """``ValidatePremises`` of a wait of kind validation."""
    asked = ValidationRequest.model_validate(wait["validation"])
    message = ValidatePremises(
        tenant=wait["tenant"],
        thread_id=wait["thread_id"],
        run_id=wait["run_id"],
        wait_id=wait["_id"],
        premises=asked.premises,
        action_digest=asked.action_digest,
        verdict_expires_s=asked.verdict_expires_s,
        due_at=wait.get("due_at"),
    )
    return encode(
        message,
        id=f"{wait['_id']}:validate",
        source=source,
        correlation_id=wait["run_id"],
        traceparent=wait.get("traceparent"),
        time=now(),
    )


def publish_request(producer: Producer, wait: WaitDocument, source: str, signatures: Signatures) -> None:
    """Queue the request, signed; never waits. One that is lost is asked again by the scheduler."""
    try:
        producer.produce(VALIDATIONS.name, signatures.signed(VALIDATIONS.name, request_record(wait, source)))
    except BufferError:
        log.warning("validation.left_to_sweep", wait_id=wait["_id"])
