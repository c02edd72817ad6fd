"""A verifier on another machine: the server and its client."""
