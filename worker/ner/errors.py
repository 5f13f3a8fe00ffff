"""What can go wrong between a text and its entities."""


class ModelError(Exception):
    """A model, taxonomy or engine cannot be used as asked; the message says which, why and what to do."""


class EngineError(Exception):
    """The engine failed on a batch; trying the same batch in parts may succeed."""


class EngineOutOfMemory(EngineError):
    """The device's memory did not suffice for a batch; a smaller one may fit."""
