from rlstep.policy.rewards.score_cache import ScoreCache


class Verifier:
    """Scores a step by its length, and remembers what it was asked."""

    kind, gives = "prm", "probability"

    def __init__(self):
        self.asked = []

    def score(self, prompts, completions, steps=None, cut=False):
        self.asked.append(list(completions))
        return [[(end - start) / 100 for start, end in spans] for spans in steps]


def ask(cache, *completions, prompt="p"):
    return cache.score([prompt] * len(completions), list(completions), [[(0, len(c))] for c in completions])


def test_what_comes_again_is_not_asked_again():
    cache = ScoreCache(verifier := Verifier(), size=10)
    assert ask(cache, "a", "bbb", "a") == [[0.01], [0.03], [0.01]]
    assert ask(cache, "bbb", "cc") == [[0.03], [0.02]]
    assert verifier.asked == [["a", "bbb"], ["cc"]]
    assert (cache.requested, cache.hits, cache.kind) == (5, 2, "prm")


def test_another_prompt_or_other_steps_are_another_question():
    cache = ScoreCache(verifier := Verifier(), size=10)
    ask(cache, "ab")
    ask(cache, "ab", prompt="q")
    assert cache.score(["p"], ["ab"], [[(0, 1), (1, 2)]]) == [[0.01, 0.01]]
    assert len(verifier.asked) == 3


def test_the_newest_are_kept():
    cache = ScoreCache(verifier := Verifier(), size=2)
    ask(cache, "a", "b")
    ask(cache, "a")  # now b is the oldest
    ask(cache, "c")
    ask(cache, "a", "b")
    assert verifier.asked == [["a", "b"], ["c"], ["b"]]


def test_size_0_keeps_nothing():
    cache = ScoreCache(verifier := Verifier(), size=0)
    ask(cache, "a")
    ask(cache, "a")
    assert verifier.asked == [["a"], ["a"]]


def test_a_changed_verifier_is_asked_anew():
    cache = ScoreCache(verifier := Verifier(), size=10)
    ask(cache, "a")
    cache.clear()
    ask(cache, "a")
    assert len(verifier.asked) == 2


def test_a_continued_run_has_the_same_scores():
    cache = ScoreCache(Verifier(), size=10)
    scores = ask(cache, "a", "bb")
    later = ScoreCache(verifier := Verifier(), size=10)
    later.load_state_dict(cache.state_dict())
    assert ask(later, "a", "bb") == scores
    assert verifier.asked == []
    assert list(later.state_dict()["keys"]) == list(cache.state_dict()["keys"])


def test_a_verifiers_own_steps_are_kept_apart_from_given_ones():
    class Lines(Verifier):
        """Finds a step of its own in each completion where it is given none."""

        def score(self, prompts, completions, steps=None, cut=False):
            return super().score(prompts, completions, steps or [[(0, 1)] for _ in completions])

    cache = ScoreCache(verifier := Lines(), size=10)
    assert cache.score(["p"] * 2, ["ab", "ab"]) == [[0.01], [0.01]]
    assert cache.score(["p"], ["ab"], [[(0, 2)]]) == [[0.02]]
    assert cache.score(["p"], ["ab"]) == [[0.01]]
    assert verifier.asked == [["ab"], ["ab"]]


def test_what_is_given_out_can_be_changed():
    cache = ScoreCache(Verifier(), size=10)
    ask(cache, "a")[0].append(9.0)
    assert ask(cache, "a") == [[0.01]]


def test_it_says_what_the_verifiers_values_are():
    verifier = Verifier()
    verifier.kind, verifier.gives = "orm", "reward"
    cache = ScoreCache(verifier, size=10)
    assert (cache.kind, cache.gives) == ("orm", "reward")
