"""Which records aiokafka cannot read: it decodes headers' names as UTF-8, and gives a batch up at one that is not.

Reading on behind such a record does not help: brokers hand out whole batches, and aiokafka goes through each from its
first record on.
"""

from traceback import walk_tb

from aiokafka import TopicPartition


def unreadable(error: UnicodeDecodeError) -> tuple[TopicPartition, range]:
    """The offsets that cannot be read where `getmany()` raised `error`: from the record on to the end of its batch.

    The partition's position has not moved; what `getmany()` had taken of other partitions is gone. Raises `error` where
    it comes from somewhere else.
    """
    for frame, _ in walk_tb(error.__traceback__):  # aiokafka does not say, and keeps no more of it than this
        if frame.f_code.co_name == "_unpack_records":
            found = frame.f_locals
            return found["tp"], range(found["self"].next_fetch_offset, found["next_batch"].next_offset)
    raise error
