r"""Whether two final answers are the same, by value.

The rules of `rlstep.steps.answers.same_answer`:

- Spelling does not matter: spaces, `\left`, `\dfrac`, `$`, markdown, `{,}` and thin spaces between thousands, `√3`,
  `π`, `½`, `90°`, `\text{...}` around a word, a final full stop (`spelling`).
- A choice is its letter: `(B)`, `\text{(B)}` and `B` are the same; several are their letters, `A, C` and `AC`. A word
  is its letters in order: "act" is not "cat". A number with a base is its digits and its base: 101_2 is neither 101_3
  nor 101 nor 5 (`plain`).
- A unit after a value is dropped, unless both state one and the two differ: 18 cm is 18, and is not 18 kg. 50% is 50
  and 0.5; 90° is 90 and \pi/2 (`units`). Quantities that both state a unit are compared in one: 1.5 hours are 90
  minutes and 1 hour 30 minutes (`quantities`).
- Plain numbers are compared exactly: 0.5 is 1/2, 0.333 is not 1/3. There is no tolerance anywhere (`plain`). The
  comma of `1,500` and `1{,}500` is that of thousands, of `1{,}5` a decimal one; in `1,500, 2,000` a space tells the two
  numbers apart. An ordinal is its number, whatever is counted: 12th grade is 12, third is 3. A number in words is its
  value (`numerals`).
- A date is a day, `March 3, 2020` and `2020-03-03`, and not that of another year or of none (`calendar`); 3/4/2020 is
  two days, and none. A time of day is its minutes: noon is 12:00 pm. `x \equiv 3 \pmod 7` is its residues and its
  modulus (`congruences`), and not 3. That there is no solution has many forms, DNE and \emptyset among them (`plain`).
- Everything else is read as mathematics (`values`, `expressions`) and compared by value (`equality`, `zero`): equal
  after algebra, as lists, tuples, sets, intervals, matrices, equations and inequalities. `1, 2` has no order, `(1, 2)`
  has one; `(1, 2)`, `[1, 2]` and `\{1, 2\}` differ; `x > 2` is `(2, \infty)`; `]0, 1[` is `(0, 1)`. Named coordinates
  stand in the order of their names: `y = 2, x = 1` is `(1, 2)`. A variable that stands for all integers may have any
  name (`domains`).
- An equation that names a quantity stands for its value: `x = 5`, `f(3) = 76`, `m + n = 17`. A point may have its
  name: `A(1, 2)` is `(1, 2)`, and not `B(1, 2)`. `C(4, 1)` is a binomial coefficient, 4, and the same as `C(4, 3)`: a
  reference that is a point named C has to be `(4, 1)`. `P(5, 2)` is 20 arrangements beside a number, the point (5, 2)
  beside a point, and the same as another only part by part.
- An answer that is not simplified is right; what only restates the question is not an answer: a sum, an integral, a
  derivative, a limit, a maximum or a remainder that is still to be computed, and an equation or inequality that is
  still to be solved, `2x + 1 < 7` for `x < 3`. Where the reference itself is to be solved, the solved inequality is
  right.

Mathematics is compared in a separate process with limits (`rlstep.steps.grader`), and no text is evaluated as code.
"""
