"""What a run will take before it is launched: memory per GPU, tokens, operations and hours, from `config.json` alone."""
