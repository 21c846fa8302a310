"""Tells people: webhooks, e-mail, Slack, on completion, failure, approval wanted, stuck. Not built yet."""
