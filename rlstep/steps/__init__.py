"""What a step is: records, boundaries in the text, positions in the tokens, answers, and readers of data sets."""
