"""Who says whether a step is right: exact checkers, rollouts, a teacher, a judge; and which steps are worth a label."""
