"""Stop strings cut the text before them, however it was cut into pieces, and nothing of them is ever shown."""

from hypothesis import given
from hypothesis import strategies as st

from arriero.generate.stops import StopText


def feed(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    text = StopText(stops)
    shown = [text.push(piece) for piece in pieces]
    return [*shown, text.flush()], text.found


def expected(stops: list[str], text: str) -> str:
    """By brute force: the first prefix of the text that ends with a stop string, without it."""
    for end in range(1, len(text) + 1):
        ending = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(ending)]
    return text


@given(
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text("abcd", max_size=5), max_size=12),
)
def test_any_cutting_into_pieces_gives_the_brute_force_answer(stops, pieces):
    shown, found = feed(stops, pieces)
    text = "".join(pieces)
    assert "".join(shown) == expected(stops, text)
    assert found == any(stop in text for stop in stops)


def test_a_stop_string_that_straddles_pieces_is_never_shown():
    assert feed(["\n\nUser:"], ["Hello", ".\n", "\nUs", "er", ": x"]) == (["Hello", ".", "", "", "", ""], True)


def test_held_text_is_released_when_it_turns_out_harmless():
    assert feed(["END"], ["an E", "N", "ter"]) == (["an ", "", "ENter", ""], False)


def test_without_stop_strings_everything_passes_at_once():
    assert feed([], ["a", "b"]) == (["a", "b", ""], False)
