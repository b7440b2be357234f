"""A one-file plugin: the tiny encoder and task of ``nasframe.testing.toy`` under the name ``toy``."""

from nasframe import hookimpl
from nasframe.testing.toy import ToyTask, tiny_net


class ToyModel:
    def __init__(self, family: str = "bert", layers: int = 3) -> None:
        self.family, self.layers = family, layers

    def tokenizer(self):
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        words = WordLevel({"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i for i in range(2, 97)}, unk_token="[UNK]")
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="[UNK]", pad_token="[PAD]")

    def load(self, labels, seed, random=False):
        net = tiny_net(self.family, seed=seed % 2**31, labels=len(labels), layers=self.layers)
        net.config.id2label, net.config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
        return net


def toy_task(seed: int = 0, train: int = 64) -> ToyTask:
    return ToyTask(seed=seed % 1000, train=train)


@hookimpl
def register_models(register):
    register("toy", ToyModel)


@hookimpl
def register_tasks(register):
    register("toy", toy_task)
