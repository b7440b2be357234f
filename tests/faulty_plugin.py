"""A one-file plugin with one plugin of each kind, ``faulty``; option ``at`` says at which moment it raises.

``raises`` is what it raises: the name of an exception among Python's own.
"""

import builtins

from nasframe import hookimpl
from nasframe.interfaces import Modifier
from nasframe.testing.toy import ToySpace, ToyTask, tiny_net, tiny_tokenizer
from nasframe_basics.loop import Loop
from nasframe_basics.samplers import RandomSampler


class Faulty:
    def set(self, at, raises):
        self.at, self.raises = at, raises
        self.fail("making")

    def fail(self, moment):
        if self.at == moment:
            raise getattr(builtins, self.raises)("boom")


class FaultyModel(Faulty):
    def __init__(self, at: str = "", raises: str = "ValueError"):
        self.set(at, raises)

    def tokenizer(self):
        self.fail("tokenizer")
        return tiny_tokenizer()

    def load(self, labels, seed, random=False):
        self.fail("load")
        net = tiny_net(seed=seed % 2**31, labels=len(labels))
        net.config.id2label, net.config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
        return net


class FaultyBatches(list):
    def __getitem__(self, position):
        raise ValueError("boom")


class FaultyTask(ToyTask, Faulty):
    def __init__(self, seed: int = 0, at: str = "", raises: str = "ValueError"):
        super().__init__(seed % 1000)
        self.set(at, raises)

    @staticmethod
    def on_files(options, base):
        if options.get("at") == "on_files":
            raise ValueError("boom")
        return []

    def train_batches(self, seed, epoch, batch_size):
        self.fail("train_batches")
        batches = super().train_batches(seed, epoch, batch_size)
        return FaultyBatches(batches) if self.at == "__getitem__" else batches

    def loss(self, outputs, batch):
        self.fail("loss")
        return super().loss(outputs, batch)

    def evaluate(self, forward, split, examples=None):
        self.fail("evaluate")
        return super().evaluate(forward, split, examples)


class FaultySpace(ToySpace, Faulty):
    def __init__(self, at: str = "", raises: str = "ValueError"):
        super().__init__()
        self.set(at, raises)

    def view(self, net, arch):
        self.fail("view")
        return super().view(net, arch)

    def extract(self, net, arch):
        self.fail("extract")
        return super().extract(net, arch)


class FaultySampler(RandomSampler, Faulty):
    def __init__(self, domain, seed: int = 0, at: str = "", raises: str = "ValueError"):
        super().__init__(domain, seed)
        self.set(at, raises)

    def ask(self, n=1, within=None):
        self.fail("ask")
        return super().ask(n, within)

    def tell(self, trials):
        self.fail("tell")


class FaultyEstimator(Faulty):
    unit = "things"

    def __init__(self, at: str = "", raises: str = "ValueError"):
        self.set(at, raises)

    def estimate(self, space, net, arch):
        self.fail("estimate")
        return 1.0


class FaultyModifier(Modifier, Faulty):
    def __init__(self, at: str = "", raises: str = "ValueError"):
        self.set(at, raises)

    def validate(self, job):
        self.fail("validate")

    def on_start(self, job):
        self.fail("on_start")

    def on_loss(self, step, loss):
        self.fail("on_loss")
        return loss

    def on_gradients(self, step):
        self.fail("on_gradients")

    def on_update(self, step):
        self.fail("on_update")

    def on_finish(self, job):
        self.fail("on_finish")


class FaultyTransform(Faulty):
    def __init__(self, at: str = "", raises: str = "ValueError"):
        self.set(at, raises)

    def __call__(self, work):
        self.fail("__call__")
        return work


class FaultyTrainer(Loop, Faulty):
    def __init__(self, at: str = "", raises: str = "ValueError"):
        Loop.__init__(self)
        self.set(at, raises)

    def fit(self, job):
        self.fail("fit")
        return super().fit(job)


@hookimpl
def register_models(register):
    register("faulty", FaultyModel)


@hookimpl
def register_tasks(register):
    register("faulty", FaultyTask)


@hookimpl
def register_spaces(register):
    register("faulty", FaultySpace)


@hookimpl
def register_samplers(register):
    register("faulty", FaultySampler)


@hookimpl
def register_estimators(register):
    register("faulty", FaultyEstimator)


@hookimpl
def register_modifiers(register):
    register("faulty", FaultyModifier)


@hookimpl
def register_transforms(register):
    register("faulty", FaultyTransform)


@hookimpl
def register_trainers(register):
    register("faulty", FaultyTrainer)
