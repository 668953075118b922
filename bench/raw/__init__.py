"""The raw loop: what each service does at least, and where it does it. Its middle is bench/raw_loop.py."""
