"""Sixty candidates for promotion: those that are bad are refused for the right reason, those that are good are not."""
