"""Tells people: webhooks, e-mail and Slack, on completion, failure, approval wanted, stuck and more."""
