"""Documents as they came -> documents worth learning from: what each rule does is a setting, and what it did is counted."""

from fledge.data.cleaning.changes import Changes, Count
from fledge.data.cleaning.cleaner import Cleaner, cleaner
from fledge.data.cleaning.settings import CLEANINGS, LANGUAGES, LIGHT, Cleaning, Language, Lines, Privacy, Quality, Repetition

__all__ = [
    "CLEANINGS",
    "LANGUAGES",
    "LIGHT",
    "Changes",
    "Cleaner",
    "Cleaning",
    "Count",
    "Language",
    "Lines",
    "Privacy",
    "Quality",
    "Repetition",
    "cleaner",
]
