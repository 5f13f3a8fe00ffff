"""koner-stream: Korean named entities for records on Kafka."""
