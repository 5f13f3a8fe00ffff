"""What can stop a recovery."""


class RecoveryError(Exception):
    """It cannot go on; the message is one line: what, where, what to do. What was done is noted and not done again."""
