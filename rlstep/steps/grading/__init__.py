r"""Whether two final answers are the same, by value.

What the rules are, in the order in which they are asked (`rlstep.steps.answers.same_answer`):

- Spelling does not count: spaces, `\left`, `\dfrac`, `$`, markdown, `{,}` and thin spaces between thousands, `√3`, `π`,
  `½`, `90°`, `\text{...}` around a word, a final full stop (`spelling`).
- A unit after a value is dropped, unless both state a known one and the two differ: 18 cm is 18, and is not 18 kg. 50% is
  50 and 0.5; 90° is 90 and \pi/2 (`units`).
- Plain numbers are compared exactly: 0.5 is 1/2, 0.333 is not 1/3. No tolerance anywhere (`plain`).
- A choice is its letter: `(B)`, `\text{(B)}` and `B` are the same. A word is its letters in order: "act" is no "cat". A
  number with a base is its digits and its base: 101_2 is neither 101_3 nor 101 nor 5 (`plain`).
- All else is read as mathematics (`values`, `expressions`) and compared by value (`equality`): equal after algebra, as
  sets, intervals, tuples, matrices, equations and inequalities. This happens in a process of its own behind limits
  (`rlstep.steps.grader`), and nothing in a text is ever evaluated as code.
"""
