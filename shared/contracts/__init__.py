"""What crosses the wire: the envelope, the events of each producer, the topics, and an example of each."""
