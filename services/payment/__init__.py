"""Payment decides whether money arrived, whose it is and what it settles; it keeps the ledger."""
