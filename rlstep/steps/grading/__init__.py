r"""Whether two final answers are the same, by value.

The rules of `rlstep.steps.answers.same_answer`:

- Spelling does not matter: spaces, `\left`, `\dfrac`, `$`, markdown, `{,}` and thin spaces between thousands, `√3`,
  `π`, `½`, `90°`, `\text{...}` around a word, a final full stop (`spelling`).
- A choice is its letter: `(B)`, `\text{(B)}` and `B` are the same. A word is its letters in order: "act" is not "cat".
  A number with a base is its digits and its base: 101_2 is neither 101_3 nor 101 nor 5 (`plain`).
- A unit after a value is dropped, unless both state one and the two differ: 18 cm is 18, and is not 18 kg. 50% is 50
  and 0.5; 90° is 90 and \pi/2 (`units`).
- Plain numbers are compared exactly: 0.5 is 1/2, 0.333 is not 1/3. There is no tolerance anywhere (`plain`). The
  comma of `1,500` and `1{,}500` is that of thousands, of `1{,}5` a decimal one. An ordinal is its number, whatever is
  counted: 12th grade is 12.
- Everything else is read as mathematics (`values`, `expressions`) and compared by value (`equality`, `zero`): equal
  after algebra, as lists, tuples, sets, intervals, matrices, equations and inequalities. `1, 2` has no order, `(1, 2)`
  has one; `(1, 2)`, `[1, 2]` and `\{1, 2\}` differ; `x > 2` is `(2, \infty)`. An equation that names a quantity stands
  for its value: `x = 5`, `f(3) = 76`, `m + n = 17`. An answer that is not simplified is right; what only restates the
  question is not an answer: a sum, an integral, a derivative, a limit, a maximum or a remainder that is still to be
  computed, and an equation or inequality that is still to be solved, `2x + 1 < 7` for `x < 3`. Where the reference
  itself is to be solved, the solved inequality is right.

Mathematics is compared in a separate process with limits (`rlstep.steps.grader`), and no text is evaluated as code.
"""
