"""Sentences of a small grammar of household requests: about a hundred words, in LibriSpeech's text style."""

import random

HOURS = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN", "ELEVEN", "TWELVE"]
NUMBERS = [*HOURS, "FIFTEEN", "TWENTY", "THIRTY", "FORTY", "FIFTY"]

GRAMMAR: dict[str, list[str]] = {
    "SENTENCE": [
        "{PLEASE}{SWITCH} THE {DEVICE} IN THE {ROOM}",
        "{PLEASE}{SWITCH} THE {COLOUR} {DEVICE}",
        "{PLEASE}SET THE {DEVICE} TO {NUMBER} PERCENT",
        "{PLEASE}SET {A_TIMER} FOR {NUMBER} {UNIT}",
        "{PLEASE}CALL {NAME} {WHEN}",
        "{PLEASE}TELL {NAME} THAT {NEWS}",
        "{PLEASE}PLAY {MUSIC} IN THE {ROOM}",
        "{PLEASE}ADD {NUMBER} {FOOD} TO MY SHOPPING LIST",
        "WAKE ME {WHEN}",
        "WHAT IS THE WEATHER {WHEN}",
        "WHEN IS THE NEXT {VEHICLE} TO {TOWN}",
        "HOW FAR IS IT FROM {TOWN} TO {TOWN}",
        "IS THE {DEVICE} IN THE {ROOM} STILL ON",
        "{NAME} AND {NAME} NEED {NUMBER} {FOOD}",
    ],
    "PLEASE": ["", "", "PLEASE ", "COULD YOU "],
    "SWITCH": ["SWITCH ON", "SWITCH OFF", "TURN ON", "TURN OFF", "TURN DOWN", "TURN UP"],
    "DEVICE": ["LIGHT", "LAMP", "HEATER", "RADIO", "FAN", "OVEN", "SCREEN", "MUSIC"],
    "ROOM": ["KITCHEN", "BEDROOM", "GARDEN", "OFFICE", "HALL", "BATHROOM"],
    "COLOUR": ["RED", "GREEN", "BLUE", "WHITE", "YELLOW"],
    "A_TIMER": ["A TIMER", "AN ALARM", "A REMINDER"],
    "UNIT": ["SECONDS", "MINUTES", "HOURS", "DAYS"],
    "NUMBER": NUMBERS,
    "HOUR": HOURS,
    "NAME": ["ANNA", "PETER", "MARY", "OLIVER", "JULIA", "DAVID", "MOTHER", "MY BROTHER"],
    "WHEN": ["AT {HOUR} O'CLOCK", "ON {DAY}", "ON {DAY} AT {HOUR}", "TOMORROW", "TONIGHT", "IN {NUMBER} MINUTES"],
    "DAY": ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"],
    "NEWS": ["I WILL BE LATE", "DINNER IS READY", "THE {VEHICLE} LEAVES AT {HOUR}", "WE MEET {WHEN}"],
    "MUSIC": ["SOME JAZZ", "THE NEWS", "A QUIET SONG", "THE NEXT SONG", "SOME MUSIC"],
    "FOOD": ["APPLES", "EGGS", "LEMONS", "ONIONS", "BOTTLES OF MILK", "LOAVES OF BREAD"],
    "VEHICLE": ["TRAIN", "BUS", "BOAT", "PLANE"],
    "TOWN": ["LONDON", "PARIS", "VIENNA", "GENEVA", "OXFORD"],
}


def make_sentence(source: random.Random) -> str:
    """Draw a sentence.

    Args:
        source: Source of randomness; the same state gives the same sentence.

    Returns:
        Words of A-Z and apostrophe, joined by single spaces.
    """
    return _expand("SENTENCE", source)


def _expand(symbol: str, source: random.Random) -> str:
    text = source.choice(GRAMMAR[symbol])
    while "{" in text:
        before, _, rest = text.partition("{")
        inner, _, after = rest.partition("}")
        text = before + _expand(inner, source) + after
    return text
