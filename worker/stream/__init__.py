"""The data plane: source, lanes, checkpoint, sink and the pipeline that joins them. Knows no torch."""
