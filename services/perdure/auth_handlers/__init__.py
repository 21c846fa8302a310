"""A project's own handlers for authentication and authorisation (LangGraph's ``Auth``), in a process of their own (ADR 43).

The gateway starts this process and asks it over a socket that both inherit (``perdure.schemas.auth_questions``). The handlers are
the project's code: no service imports them, and what they do to their process does not reach the gateway.
"""
