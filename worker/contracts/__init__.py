"""Bytes to records and back, held to the JSON Schemas in schemas/."""
