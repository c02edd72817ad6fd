"""Step labels by hand: the queue, what is kept on disk, and the page that `rlstep annotate` serves."""
