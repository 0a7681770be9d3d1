"""What a model looked at, what it nearly said, which words decided."""

from fledge.explanation.attention import Looked, looked
from fledge.explanation.deciding import Deciding, Word, deciding_label, deciding_next
from fledge.explanation.surprise import Surprise, surprises

__all__ = ["Deciding", "Looked", "Surprise", "Word", "deciding_label", "deciding_next", "looked", "surprises"]
