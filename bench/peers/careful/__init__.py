"""What does the same work cost, a message at a time, written with care?

A transaction for each message: inbox, the business's statements, outbox. A relay publishes what was
committed. What fails is rolled back and tried again, so nothing is lost and nothing has an effect twice.
Partitions go on side by side.
"""
