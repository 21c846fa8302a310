"""Contracts of Perdure: what crosses a process boundary, and nothing else.

Scope: the envelope, the topics, commands, events, dead letters, the documents of the store and the HTTP problem shape.
Outside: any I/O, any client library, any decision. Every service imports this package; this package imports no service.

A wire type is frozen, has a dotted ``TYPE`` and an integer ``VERSION``, and is recorded in ``schemas/golden/``; every later
version of the code must still read every recorded message.
"""
