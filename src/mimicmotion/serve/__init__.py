"""The service: jobs over HTTP that survive whatever dies, their worker processes, tokens, and a client."""
