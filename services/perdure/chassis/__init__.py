"""What every service stands on: settings, clients, lifecycle, telemetry. Thin: no decision of any service lives here."""
