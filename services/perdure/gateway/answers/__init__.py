"""Answers of people: approvals, the page behind a link, and mail that comes in."""
