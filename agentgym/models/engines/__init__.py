"""What generates tokens.

``local`` samples for many requests at once on a ``kv_cache``; ``engine_thread`` drives it for requests from everywhere.
"""
