"""Bytes to records and back, held to the JSON Schemas in schemas/."""

from worker.contracts.contracts import Contracts
from worker.contracts.dead_letters import dead_letter_headers
from worker.contracts.refusal import Reason, Refused

__all__ = ["Contracts", "Reason", "Refused", "dead_letter_headers"]
