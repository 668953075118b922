"""What do bad payloads look like, and what must become of each? Made from the contracts, one mutation each.
"""
