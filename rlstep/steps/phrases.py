"""The words with which a completion states its answer: a label before it, or the sentence that it ends."""

import re

# Tick marks, emoji and the like, which decorate a label or an answer.
_PICTURES = "\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"
TICKS = "\u2705\u2713\u2714\u2611\ufe0f\U0001f389\U0001f3af"
# "Answer" and "the answer is" in Chinese, Japanese, Korean and European languages.
_ELSEWHERE = (
    r"ans|answers|r[ée]ponse(?: finale)?|respuesta(?: final| correcta)?|antwort"
    r"|risposta(?: finale)?|resposta(?: final)?"
    r"|\u043e\u0442\u0432\u0435\u0442|\u7b54\u3048|\uc815\ub2f5|\ub2f5"
)
_IS_ELSEWHERE = (
    r"(?:\u6700\u7ec8|\u6b63\u786e)?(?:\u7b54\u6848|\u7b54|(?<=\u6b63\u786e)\u9009\u9879)"
    r"(?:(?:\u662f|\u4e3a|\u70ba)[ \t]*[:\uff1a]?|[ \t]*[:\uff1a])[ \t]*"
    r"|\bla r[ée]ponse (?:finale |correcte )?est(?: ?:)?[ \t]*"
    r"|\bla respuesta (?:final |correcta )?es(?:[ \t]*:)?[ \t]*"
    r"|\bdie (?:richtige )?antwort (?:ist|lautet)(?:[ \t]*:)?[ \t]*"
    r"|\bla risposta (?:finale |corretta )?\u00e8(?:[ \t]*:)?[ \t]*"
    r"|\ba resposta (?:final |correta )?\u00e9(?:[ \t]*:)?[ \t]*"
    r"|\u7b54\u3048\u306f[ \t]*|(?:\uc815\ub2f5|\ub2f5)\uc740[ \t]*"
)
# What ends such a sentence in Japanese and Korean, after the answer.
END_ELSEWHERE = re.compile(r"(?:\u3067\u3059|\uc785\ub2c8\ub2e4)[\u3002. ]*$")
LABEL = re.compile(
    rf"^(?:[ \t>*_#`\u2022{_PICTURES}-]|\d{{1,2}}[.)][ \t])*(?P<math>\\[\[(]|\$\$?)?"
    r"(?P<styled>\\(?:text(?:bf|it)?|mathbf)\{)?"
    r"(?:(?:so|thus|therefore|hence),?[ ]+)?(?:(?:the|my|our)[ ]+)?(?P<final>final[ ]+|correct[ ]+)?"
    rf"(?:answer|(?:{_ELSEWHERE})(?=[*_`]*[ \t]*[:\uff1a]))"
    r"(?P<closed>[*_`]*)[ \t]*"
    r"(?:(?P<colon>[:=\uff1a\u2192]|[-=]>|is:|(?<=[ \t])[-\u2013\u2014](?=[ \t]))[ \t]*(?P<inline>[^\n]*)"
    r"|(?<=[*_][ \t])(?P<value>[-+]?[$\\\d][^\n]*)|$)",
    re.MULTILINE | re.IGNORECASE,
)
HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<inline>\S[^\n]*)$", re.MULTILINE)
_IS = (
    r"(?:is|would be|should be|must be|will be|has to be|(?:comes|turns) out to be|equals)(?![A-Za-z']|n't)"
    r"(?: (?:therefore|thus|then|simply|just|now|clearly|equal to)(?![A-Za-z]))?"
)
SENTENCE = re.compile(
    r"\b(?:(?:final |correct )?answer(?: (?:to|for|in) [\w()' ]{1,40}?| \([^()\n]{1,40}\)"
    r"|, [^,.\n]{1,40},)?|(?:correct|right|best) (?:option|choice)) "
    rf"{_IS}(?:[ \t]*:)?[ \t]*|{_IS_ELSEWHERE}"
    r"|\b(?:option|choice) (?=[*_]{0,2}\(?[A-Z]\)?[*_]{0,2} is (?:the )?(?:correct|right|best)"
    r"(?: \w+)?[*_]{0,2}(?:[.!]|$))"
    r"|^(?:(?:So|Thus|Therefore|Hence),? )?(?=[*_]{0,2}\(?[A-H]\)?[*_]{0,2} is (?:the )?(?:correct|right|best)"
    r"(?: (?:answer|option|choice))?[*_]{0,2}(?:[.!]|$))"
    r"|\bI (?:choose|pick|select|go with) (?:option |choice )?(?=[*_]{0,2}\(?[A-Z]\)?[*_]{0,2}(?:[.!]|$))"
    r"|(?:[\u6545\u5e94\u61c9]|\u56e0\u6b64|\u6240\u4ee5)\u9009(?:\u62e9)?[:\uff1a]?[ \t]*(?=[(\uff08]?[A-H])",
    re.IGNORECASE | re.MULTILINE,
)
SENTENCE_IN_LABEL = re.compile(
    rf"(?:(?:so|thus|therefore|hence),? )?(?:the )?(?:final |correct )?answer {_IS}[ \t]*:?[ \t]*", re.I
)
