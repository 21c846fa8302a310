"""The resources of the API: each is a class that brings its routes, in one file or in a folder whose front is its ``__init__``."""
