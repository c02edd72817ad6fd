"""Who says whether a step is right: the tasks' exact checkers, or rollouts of a policy."""
