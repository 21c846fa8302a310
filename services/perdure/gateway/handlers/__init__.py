"""Handlers by resource. Each takes a request and returns a response; what is wrong is raised as a problem."""
