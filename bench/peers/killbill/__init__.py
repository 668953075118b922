"""What does the money side of the same work cost in Kill Bill, a billing platform in Java, over its REST API?

An account, an invoice with one charge, an external payment that settles it, a push for each event. It keeps
more than we do: an audit row for each row, tenants, overdue and entitlement states. It has no certificate of
signatures, no seals, no review by an agency, no cover that begins, no Kafka.
"""
