"""From texts to entities: models, batching, engines and decoding. Knows no Kafka."""
