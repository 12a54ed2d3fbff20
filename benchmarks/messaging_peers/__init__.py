"""A module a broker: its server, its bare client library, and FastStream where that has the broker."""
