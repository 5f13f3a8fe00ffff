"""What can stop the data plane."""


class StreamError(Exception):
    """The stream cannot go on, and trying again would not mend it; the message is one line: what, where, what to do."""
