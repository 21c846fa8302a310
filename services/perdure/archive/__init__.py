"""The archive: whole threads packed into objects of a folder, S3, GCS or Azure, and brought back identical (ADR 15).

Used by the scheduler (which archives), the command line (which is asked to) and the index rebuild (which reads).
"""
