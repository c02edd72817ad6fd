"""Values of steps: reward models, implicit PRMs, adapters on a shared base."""
