"""Where fresh values come from: one module for each kind of source, all with the shape of :class:`SourceReader`.

Contract of each: ``read`` gives plain JSON or raises :class:`perdure.validator.sources.errors.SourceError`; it keeps no copy, so
that every read is a fresh one. Outside: time-outs, repeated attempts and how many read at once (:mod:`perdure.validator.reading`).
"""
