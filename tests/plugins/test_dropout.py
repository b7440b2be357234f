"""Modifier ``dropout``: the rate inside the stage, and the network's own rates after it."""

import torch

import nasframe as nf
from nasframe.interfaces import Modifier
from nasframe.testing.toy import tiny_net
from nasframe.testing.trainers import toy_job


class Twice(Modifier):
    """Run each batch a second time, and record how far the outputs are apart."""

    def __init__(self):
        self.apart = []

    def on_loss(self, step, loss):
        with torch.no_grad():
            self.apart.append(float((step.outputs.logits - step.forward().logits).abs().max()))
        return loss


def trained(*modifiers):
    job = toy_job(net=tiny_net(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2), modifiers=list(modifiers))
    nf.make("trainer", "loop").fit(job)
    return job.net


def rates(net):
    return [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)]


def test_without_dropout_a_batch_gives_the_same_outputs_twice():
    with_noise, without = Twice(), Twice()
    trained(with_noise)
    trained(nf.make("modifier", "dropout"), without)
    assert min(with_noise.apart) > 0
    assert max(without.apart) == 0


def test_the_networks_own_rates_come_back():
    before = rates(tiny_net(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2))
    assert rates(trained(nf.make("modifier", {"use": "dropout", "rate": 0.5}))) == before


def test_the_rate_is_that_of_the_option():
    class Look(Modifier):
        def on_loss(self, step, loss):
            self.rates = set(rates(step.job.net))
            return loss

    look = Look()
    trained(nf.make("modifier", {"use": "dropout", "rate": 0.5}), look)
    assert look.rates == {0.5}
