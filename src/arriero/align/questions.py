"""What a user might ask, one thing after the other: dialogues where there are none to begin with.

Each question stands by itself, so any of them may follow any other. Those of `HELD_OUT` are for measuring alone.
"""

import numpy as np

from arriero.common.errors import ArrieroError

TRAINING = (
    "Why is the sea salty?",
    "How do bees make honey?",
    "What should I pack for a day at the beach?",
    "Explain what a rainbow is.",
    "How do I keep my houseplants alive?",
    "What is the use of a compass?",
    "Can you suggest a simple breakfast?",
    "Why do leaves change their colour in autumn?",
    "How does a bicycle stay upright?",
    "What do owls eat?",
    "Tell me something about the Moon.",
    "How can I fall asleep sooner?",
    "What is bread made of?",
    "Why do we have leap years?",
    "How do I write a thank-you note?",
    "What makes a good friend?",
    "Describe a market in the morning.",
    "How is paper made?",
    "What is a glacier?",
    "How do I remove a coffee stain?",
    "Why does ice float?",
    "What does a librarian do?",
    "Give me an idea for a birthday present.",
    "How do magnets work?",
    "What is the difference between a lake and a pond?",
    "How do I start running?",
    "Why do onions make us cry?",
    "What can I do on a rainy day?",
    "Tell me about camels.",
    "How do I prepare for an exam?",
    "What is a proverb?",
    "Why do birds migrate?",
    "How do I make a cup of tea?",
    "What is an island?",
    "Recommend a hobby for the winter.",
    "How does a sundial show the time?",
    "What do firefighters do?",
    "How can I save water at home?",
    "Why do stars twinkle?",
    "What is a good name for a small dog?",
    "How do I plan a picnic?",
    "What is wool?",
    "Why do we yawn?",
    "How do ships float although they are heavy?",
    "What is in a toolbox?",
    "How do I learn ten new words a day?",
    "Tell me a fact about elephants.",
    "What is the point of a thermos flask?",
)

HELD_OUT = (
    "What is a volcano?",
    "How do I boil an egg?",
    "Why do cats purr?",
    "What is a desert?",
    "How do I tie a scarf?",
    "Why is the grass green?",
    "What does a baker do all day?",
    "How does a candle burn?",
    "Tell me about penguins.",
    "What should I cook tonight?",
    "How do I clean a window?",
    "What is thunder?",
    "Why do we dream?",
    "How do I choose a good melon?",
    "What is a bridge for?",
    "How can I remember names?",
    "Describe a forest in the rain.",
    "What is a violin?",
    "How do fish breathe?",
    "Why do clocks go clockwise?",
    "What is chess about?",
    "How do I care for a bicycle?",
    "Give me a tip for taking photographs.",
    "What is a lighthouse?",
)


def draw_questions(count: int, turns: int, seed: int, *, held_out: bool = False) -> list[tuple[str, ...]]:
    """What users ask in so many dialogues of so many turns, each question once in a dialogue.

    Raises:
        ArrieroError: there are fewer questions than turns.
    """
    known = HELD_OUT if held_out else TRAINING
    if not 1 <= turns <= len(known):
        raise ArrieroError(f"turns: expected 1 to {len(known)}, as many as there are questions, got {turns}")
    drawn = (np.random.default_rng([seed, number]).permutation(len(known))[:turns] for number in range(count))
    return [tuple(known[place] for place in order) for order in drawn]
