"""Settings of the notifier."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from perdure.chassis.settings import LinkSettings


class NotifierSettings(LinkSettings):
    """What an operator may set beside the shared settings. Times are in seconds."""

    notifier_allowed_targets: tuple[str, ...] = ()
    """JSON: hosts (``hooks.internal``, ``*.internal``) and networks (``10.1.0.0/16``, ``127.0.0.0/8``) that webhooks may reach
    although they are private, and by plain ``http``. Everything else must be public and ``https``."""
    notifier_ca_file: str | None = None
    """Certificates that receivers are verified with, besides the system's."""
    notifier_webhook_secret: SecretStr | None = None
    """``whsec_...``: signs what goes to the ``webhook`` of a run, which has no secret of its own. Unsigned without one."""
    notifier_timeout_s: float = Field(default=15.0, gt=0)
    """How long a receiver may take to answer."""
    notifier_response_limit: int = Field(default=16 * 1024, ge=0)
    """Bytes of an answer that are read at most."""
    notifier_per_endpoint: int = Field(default=8, ge=1)
    """Deliveries to one host (or the mail server) at once."""
    notifier_at_once: int = Field(default=200, ge=1)
    """Deliveries at once, to all of them."""
    notifier_retry_first_s: float = Field(default=5.0, gt=0)
    """Before the second attempt; each later pause is three times as long, 25 % more or less."""
    notifier_retry_cap_s: float = Field(default=6 * 3600.0, gt=0)
    """The longest pause between two attempts."""
    notifier_patience_s: float = Field(default=3 * 86400.0, gt=0)
    """A notice that could not be delivered for so long is dead. It can be redriven."""
    notifier_breaker_failures: int = Field(default=5, ge=1)
    """An endpoint that failed so often in a row is left alone for a while."""
    notifier_breaker_first_s: float = Field(default=5.0, gt=0)
    """For how long at first; twice as long each time that it fails again."""
    notifier_breaker_cap_s: float = Field(default=300.0, gt=0)
    """And at most."""
    notifier_claim_s: float = Field(default=90.0, gt=0)
    """A claimed delivery that was not recorded after so long is sent by another instance."""
    notifier_poll_s: float = Field(default=0.25, gt=0)
    """Between two looks at what is due, when idle."""
    notifier_sweep_s: float = Field(default=15.0, gt=0)
    """Between two sweeps of what dead processes and broken endpoints left."""
    notifier_link_days: int = Field(default=30, ge=1)
    """How long a link answers a question that never expires."""
    notifier_smtp_host: str | None = None
    """The mail server; without one e-mail is dead with a reason."""
    notifier_smtp_port: int = Field(default=587, ge=1, le=65535)
    """Of the mail server."""
    notifier_smtp_tls: str = Field(default="starttls", pattern="^(none|starttls|tls)$")
    """``starttls`` (port 587), ``tls`` from the first byte (port 465), or ``none``. Certificates are always verified."""
    notifier_smtp_ca_file: str | None = None
    """Certificates that the mail server is verified with; the system's by default."""
    notifier_smtp_user: str | None = None
    """Logs in with it, if set."""
    notifier_smtp_password: SecretStr | None = None
    """Of that user."""
    notifier_mail_from: str = Field(default="perdure@localhost", pattern=r"^[^\s<>,]+@[^\s<>,]+$")
    """The sender's address."""
    notifier_mail_name: str = "Perdure"
    """The sender's name."""

    @model_validator(mode="after")
    def _claims_outlast_attempts(self) -> Self:
        if self.notifier_claim_s < self.notifier_timeout_s + 1:
            raise ValueError("NOTIFIER_CLAIM_S must be a second more than NOTIFIER_TIMEOUT_S at least")
        return self
