"""What a person asks for: one function per verb. torch is imported when work starts, not before."""

from fledge.verbs import finetune
from fledge.verbs.chatting import chat
from fledge.verbs.demonstration import demo
from fledge.verbs.display import show
from fledge.verbs.embedding import embed
from fledge.verbs.explaining import explain
from fledge.verbs.exporting import export
from fledge.verbs.importing import import_model
from fledge.verbs.model import Model, load
from fledge.verbs.planning import plan
from fledge.verbs.prediction import predict
from fledge.verbs.preparation import prepare
from fledge.verbs.pretraining import pretrain
from fledge.verbs.scoring import evaluate
from fledge.verbs.serving import serve
from fledge.verbs.writing import generate, stream

__all__ = [
    "Model", "chat", "demo", "embed", "evaluate", "explain", "export", "finetune", "generate", "import_model", "load", "plan", "predict",
    "prepare", "pretrain", "serve", "show", "stream",
]  # fmt: skip
