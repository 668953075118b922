"""What does the money leg of the same work cost in Mojaloop's central ledger, over Kafka, in batches?

A transfer between two participants: prepared against limits and liquidity, fulfilled by its secret, posted
to two positions. It knows no person, no bill and no cover, and tells nobody.
"""
