"""fledge: raise your own language model, from raw text to an assistant, on the machine you have."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fledge.verbs import (
        Model,
        chat,
        demo,
        embed,
        evaluate,
        explain,
        export,
        finetune,
        generate,
        import_model,
        load,
        plan,
        predict,
        prepare,
        pretrain,
        serve,
        show,
    )

__version__ = "0.1.0"
__all__ = [
    "Model",
    "chat",
    "demo",
    "embed",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "generate",
    "import_model",
    "load",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "serve",
    "show",
]


def __getattr__(name: str):
    """The verbs are imported when first used, so that a room such as `fledge.arch` can be imported alone."""
    if name in __all__:
        return getattr(import_module("fledge.verbs"), name)
    raise AttributeError(f"module 'fledge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
