"""The words of a report, in Markdown: a list, its terms bold."""

GLOSSARY = """\
- **step**: a part of a solution, such as a line. **clean**: the answer is right and so is every step, by the task's
  exact checker.
- **PRM** (process reward model): gives each step its probability of being right; they make a solution's score.
- **ORM** (outcome reward model): gives a solution its probability of a right answer, read at its end.
- **best of N**: of N samples the one with the highest score is picked; how often its answer is right.
- **majority**: the most frequent answer is picked. **weighted**: the answer with the largest sum of PRM scores.
- **pass@N**: at least one sample is right; no way to pick does better.
- **process**: PPO rewarded by the PRM's step scores and the verified answer. **outcome**: by the verified answer alone.
  **process only**: by a frozen PRM alone.
- **samples**: completions drawn for RL. Those the PRM was trained on are not included."""
