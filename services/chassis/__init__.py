"""The microservice chassis: one engine for everything that arrives. It knows no business word."""
