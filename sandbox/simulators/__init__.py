"""What stands outside: doubles of providers that speak their real protocols from a process of their own."""
