"""Who is insured, where, and from when covered?"""
