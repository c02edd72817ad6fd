"""The rewards of completions: sources, guards, and cached scores of verifiers."""
