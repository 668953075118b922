"""What is due, until when, and why?"""
