"""An answer for the eye says what it stands on, and shows foreign text as text."""

from dataclasses import replace

from arriero.rag.answer import Answer
from arriero.rag.citations import Citation
from arriero.rag.passage import Passage
from arriero.rag.search import Hit

PASSAGE = Passage("It <b>leaves</b> at\nseven.", "plan.txt", 0, 25, 2, 2, "Trains", 0)
HIT = Hit(passage=PASSAGE, passage_id=1, score=1.0, dense=0.9, bm25=None, metadata={})
CITED = Citation(
    number=1, document="plan.txt", page=2, page_end=2, section="Trains", quote=PASSAGE.text, start=0, end=25,
    passage_id=1,
)  # fmt: skip
FULL = Answer(
    question="When?", text="At seven. [1]", citations=(CITED,), passages=(HIT,), refused=False, grounded="full",
    finish_reason="stop",
)  # fmt: skip


def test_a_supported_answer_has_its_quotes():
    assert str(FULL) == "At seven. [1]\n\n[1] plan.txt, page 2, Trains\n    “It <b>leaves</b> at seven.”"


def test_what_nothing_supports_is_said_to_be_so_before_what_was_found():
    text = str(replace(FULL, text="At nine.", citations=(), grounded="none"))
    assert text.index("do not rely on it") < text.index("plan.txt") < text.index("leaves")
    assert str(replace(FULL, grounded="partial")).endswith("do not rely on the others.")


def test_a_refusal_is_its_text():
    assert str(replace(FULL, text="No.", citations=(), refused=True, grounded="none")) == "No."


def test_html_holds_no_tags_of_documents_or_models():
    html = replace(FULL, text="<script>x</script>")._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;leaves" in html
