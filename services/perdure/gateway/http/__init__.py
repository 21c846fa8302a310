"""How the gateway speaks HTTP: errors, bodies, parameters, cursors, routes and the API description. Knows no feature."""
