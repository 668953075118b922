"""What stands in for the world outside: the embedded stack, a synthetic city, providers and their faults."""
