"""What energy means in carbon: factors, hours, emissions, pay-back. Pure arithmetic; nothing is measured here."""
