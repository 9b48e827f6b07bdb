"""A log of a shop's assistant, made from templates: harmless lines, as traffic mostly is."""

from __future__ import annotations

import random
from typing import Final

_OPENINGS: Final = ("", "", "", "hi, ", "Hello! ", "quick question: ", "Sorry to bother you, ", "one more thing, ")
_ENDINGS: Final = ("", "", "", " thanks", " Thank you!", " please", " It is for my sister.", " I need it by Friday.")

_PLACES: Final = ("Leeds", "York", "Hull", "Bath", "Derby", "Exeter", "Luton", "Dover", "Wigan", "Ripon")
_THINGS: Final = (
    "a kettle", "the garden hose", "a desk lamp", "two bath towels", "a bicycle pump", "the oak shelf", "a rain coat",
    "a set of pans", "the camping stove", "a toaster", "some running shoes", "a winter duvet", "the paint roller",
    "a first-aid kit", "a pair of gloves", "the bread maker", "a radio", "the baby monitor", "a suitcase", "a tea pot",
)  # fmt: skip
_MEALS: Final = ("lentil soup", "a sponge cake", "pizza dough", "rice pudding", "vegetable curry", "pancakes", "jam")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "a bank holiday")
_TOPICS: Final = (
    "how rainbows form", "what a statin is", "why leaves turn red", "how a vaccine works", "what yeast does",
    "how magnets work", "what cholesterol is", "how bees find home", "why the sea is salty", "what antibiotics are",
)  # fmt: skip

_TEMPLATES: Final = (
    "where can I buy {thing} in {place}",
    "is {thing} in stock at the {place} shop?",
    "What time does the {place} shop close on {day}?",
    "Can I return {thing} without the receipt?",
    "my order with {thing} has not come, it was due on {day}",
    "How many grams of sugar go into {meal} for {n} people?",
    "write a short review of {thing}, {n} stars",
    "Is there parking for {n} cars at the {place} shop?",
    "Explain {topic} to a child of {n}.",
    "how long do I bake {meal} at {heat} degrees",
    "Does {thing} come with a guarantee of {n} years?",
    "What goes well with {meal}?",
    "Translate into French: I would like {thing}.",
    "How much does it cost to send {thing} to {place}?",
    "give me {n} ideas for a party on {day}",
    "Which bus goes from {place} to the shop on {day}?",
    "In a few words, {topic}?",
    "Do you have a pharmacy counter in {place}, and is it open on {day}?",
    "Can {thing} be washed at {heat} degrees?",
    "please change my delivery of {thing} to {day}",
)

_RARE: Final = (
    "Can I take {n} bags on the bus instead of one?",
    "may I take {n} parcels with me instead of one",
    "Can I use {n} vouchers on one day instead of one?",
    "How many painkillers may I take a day for {n} days?",
)
"""What a shop hears now and then: three harmless kinds, and one that it must not answer."""

_SHARE: Final = 0.004


def lines(n: int, seed: int = 0) -> list[str]:
    """So many different lines; the same for the same seed.

    Args:
        n: At most some tens of thousands.
        seed: Of the choices.
    """
    chance = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < n:
        text = chance.choice(_RARE if chance.random() < _SHARE else _TEMPLATES).format(
            thing=chance.choice(_THINGS),
            place=chance.choice(_PLACES),
            day=chance.choice(_DAYS),
            meal=chance.choice(_MEALS),
            topic=chance.choice(_TOPICS),
            n=chance.randint(2, 12),
            heat=10 * chance.randint(3, 22),
        )
        made[chance.choice(_OPENINGS) + text + chance.choice(_ENDINGS)] = None
    return list(made)
