"""Questions about the language reference, made by a program from its sentences: what trains the query encoder.

    The optional "else" clause is executed if the control flow …   When is the optional else clause executed?
    An iterator is an object …                                     What is an iterator?
    The "raise" statement causes …                                 What does the raise statement do?

The passage that the sentence stands in is to be found, and what follows the verb is the answer. Questions of one topic
are held out together. They are poorer than people's, and marked as synthetic.
"""

import re
from collections.abc import Iterator, Mapping

from arriero.rag.questions import Question

_SENTENCE = re.compile(r"(?:^|(?<=[.!?]\s)|(?<=[.!?]\s\s))[ ]*([A-Z][^.!?]{30,300}[.])(?=\s|$)")
_SUBJECT = r"^(?P<subject>[\"*]?[A-Z\"][^,;:()|]{2,50}?)"
_ONE, _MANY = (
    rf"{_SUBJECT} (?P<rest>(?:{verbs}) .+)\.$"
    for verbs in (
        "allows|binds|calls|causes|compares|contains|converts|creates|defines|describes|determines|evaluates|executes|"
        "gives|has|implements|introduces|makes|performs|provides|raises|represents|returns|sets|specifies|supports|"
        "takes|tests|uses|yields",
        "allow|bind|call|cause|compare|contain|convert|create|define|describe|determine|evaluate|execute|give|have|"
        "implement|introduce|make|perform|provide|raise|represent|return|set|specify|support|take|test|use|yield",
    )
)
_FORMS = tuple(
    (re.compile(form), question)
    for form, question in (
        (rf"{_SUBJECT} (?P<be>is|are) (?P<done>\w+ed|run|found|given) (?P<rest>(?:only )?(?:if|when) .+)\.$",
         "When {be} {subject} {done}?"),
        (rf"{_SUBJECT} (?P<be>is|are) used (?P<rest>(?:to|for|by|in) .+)\.$", "What {be} {subject} used for?"),
        (rf"{_SUBJECT} (?P<be>is|are) (?P<done>\w+ed) (?P<rest>(?:by|from|using|with|in|as|to) .+)\.$",
         "How {be} {subject} {done}?"),
        (rf"{_SUBJECT} (?P<be>is|are) (?P<rest>(?:an?|the) .+)\.$", "What {be} {subject}?"),
        (_ONE, "What does {subject} do?"),
        (_MANY, "What do {subject} do?"),
    )
)  # fmt: skip
"""The forms of sentences that make a question, the most telling first."""
_VAGUE = re.compile(
    r"^(?:after|all|although|any|as|at|because|before|below|both|but|by|during|either|even|finally|for|formally|given|"
    r"furthermore|here|how|however|if|in|instead|later|like|most|no|not|note|of|on|only|other|otherwise|same|see|since|"
    r"so|some|such|then|there|to|two|typical|unless|unlike|until|what|when|where|while|with|you)\b|"
    r"^(?:an?|the|each|every|all) (?:above|below|first|following|latter|new|next|original|previous|primary|result|"
    r"resulting|return|returned|same|second|similar|statement|value|values)\b|"
    r"\b(?:are|can|could|do|does|has|if|is|it|its|may|must|not|should|that|their|they|these|this|those|to|we|when|"
    r"which|who|will)\b",
    re.IGNORECASE,
)
"""Subjects that nobody could ask for without the text before them, or that are none."""
_MARKS = re.compile(r'["“”*`]+')
_ARTICLE = re.compile(r"(?:An?|The|Each|Every|All) ")
_PARAGRAPH = re.compile(r"\n\s*\n")
_CLAUSE = re.compile(r"[,;:(]|\s(?:and|which|that)\s")
_MOST_OF_A_TOPIC, _MOST_WORDS = 25, 12


def make_questions(topics: Mapping[str, str]) -> list[Question]:
    """Questions with their answers and paragraphs, in the order of the topics.

    Args:
        topics: texts of the reference by their names.
    """
    made: dict[str, Question] = {}
    for topic, text in topics.items():
        fresh = [one for one in _of_topic(topic, text) if one.question not in made]
        made |= {one.question: one for one in fresh[:_MOST_OF_A_TOPIC]}
    return list(made.values())


def ask(sentence: str) -> tuple[str, str] | None:
    """A question that the sentence answers, and the answer; None where it has none of the forms."""
    for form, question in _FORMS:
        if (match := form.match(sentence)) is None:
            continue
        parts = match.groupdict()
        subject = _MARKS.sub("", parts["subject"])
        answer = " ".join(_CLAUSE.split(parts["rest"], maxsplit=1)[0].split()[:_MOST_WORDS]).strip('"* ')
        if _VAGUE.search(subject) or answer.count(" ") < 2:
            return None
        parts["subject"] = subject[0].lower() + subject[1:] if _ARTICLE.match(subject) else subject
        return question.format(**parts), answer
    return None


def _of_topic(topic: str, text: str) -> Iterator[Question]:
    from arriero.rag.qa_metrics import holds_answer  # lazily: it imports NumPy, and help does without

    for number, paragraph in enumerate(_PARAGRAPH.split(text)):
        for found in _SENTENCE.finditer(paragraph.strip()):
            context = " ".join(paragraph.split())
            if (asked := ask(" ".join(found[1].split()))) is not None and holds_answer(context, asked[1:]):
                question, answer = asked
                yield Question(
                    id=f"{topic}-{number}-{found.start()}",
                    question=question,
                    answers=(answer,),
                    title=topic,
                    context=context,
                    synthetic=True,
                )
