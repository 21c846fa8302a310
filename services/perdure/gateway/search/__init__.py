"""Search over past states: the language, its fields, the query and the resource."""
