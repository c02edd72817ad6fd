"""What a run will take, before it is launched: memory, tokens, operations and hours, from `config.json` alone."""
