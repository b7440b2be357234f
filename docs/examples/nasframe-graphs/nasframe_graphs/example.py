"""How ``nasframe plugins check`` tries the space: on the stem that it is made for, with pictures of digits."""

import torch
from nasframe.testing import SpaceContract
from nasframe_graphs.network import Stem


class Space(SpaceContract):
    def net(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Stem(channels=8).eval()

    def inputs(self):
        return {"pixels": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))}
