"""The ways on which notices travel: webhooks, e-mail, Slack. One file each, all of the shape ``result.Send``."""
