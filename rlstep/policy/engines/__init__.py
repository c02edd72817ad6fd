"""Where a policy samples: in this process by transformers or vLLM, or on a server."""
