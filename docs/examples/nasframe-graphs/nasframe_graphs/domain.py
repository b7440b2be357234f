"""Graphs of any shape up to a size: the domain of the space ``graphs``.

An architecture is ``{"nodes": [{"op": "conv3", "inputs": [0]}, …]}``. Input 0 is what the stem computes, input 1 is the
first node, and so on; a node reads one or two that come before it. What no node reads goes to the network's head.
"""

from nasframe.types import Drawing

OPS = ("conv1", "conv3", "depthwise3", "max3")
STEM = "x"


class Graphs:
    """All graphs of one to ``most`` operations.

    A node is its operation and what it reads: two nodes that agree in both are one. So a graph is a set of formulas,
    such as ``conv3(x)`` and ``max3(conv3(x) x)``, and its canonical form lists them from the shallow to the deep.

    Args:
        most: operations of the largest graph.
    """

    def __init__(self, most=5):
        self.most = most

    # ---- the whole of a domain

    def sample(self, rng):
        """Draw a number of nodes, then an operation and inputs for each."""
        nodes = []
        for number in range(int(rng.integers(1, self.most + 1))):
            nodes.append({"op": _drawn(OPS, rng), "inputs": self._inputs(number, rng)})
        return self.canonical({"nodes": nodes})

    def mutate(self, arch, rng):
        """Add, remove or change a node."""
        before = self.canonical(arch)
        ways = [self._with_another_op, self._with_other_inputs]
        if len(before["nodes"]) < self.most:
            ways.append(self._with_one_more)
        if len(before["nodes"]) > 1:
            ways.append(self._with_one_less)
        for _ in range(100):  # a change may lead back, because equal nodes become one
            nodes = [{"op": node["op"], "inputs": list(node["inputs"])} for node in before["nodes"]]
            changed = self.canonical({"nodes": _drawn(ways, rng)(nodes, rng)})
            if changed != before:
                return changed
        return self.sample(rng)

    def contains(self, arch):
        """Tell whether an architecture is a graph of these operations, of one to ``most`` nodes."""
        if set(arch) != {"nodes"} or not isinstance(arch["nodes"], list) or not arch["nodes"]:
            return False
        for number, node in enumerate(arch["nodes"]):
            if not isinstance(node, dict) or set(node) != {"op", "inputs"} or node["op"] not in OPS:
                return False
            inputs = node["inputs"]
            if not isinstance(inputs, list) or not 1 <= len(set(inputs)) == len(inputs) <= 2:
                return False
            if not all(type(source) is int and 0 <= source <= number for source in inputs):
                return False
        return len(self.canonical(arch)["nodes"]) <= self.most

    def canonical(self, arch):
        """Return the graph with equal nodes made one, and all nodes sorted by depth and formula."""
        formulas = _formulas(arch)
        order = sorted(set(formulas[1:]), key=lambda formula: (formula.depth, formula.text))
        number_of = {formulas[0]: 0}
        nodes = []
        for formula in order:
            number_of[formula] = len(number_of)
            nodes.append({"op": formula.op, "inputs": sorted(number_of[source] for source in formula.sources)})
        return {"nodes": nodes}

    # ---- what a domain may say besides

    def smallest(self):
        """Return the graph with the fewest weights."""
        return {"nodes": [{"op": "max3", "inputs": [0]}]}

    def largest(self):
        """Return the graph with the most weights: percentages of budgets refer to it."""
        return {"nodes": [{"op": "conv3", "inputs": [number]} for number in range(self.most)]}

    def features(self, arch):
        """Return how often each operation occurs, the edges, the depth, and the loose ends."""
        nodes = arch["nodes"]
        counts = [sum(node["op"] == op for node in nodes) for op in OPS]
        edges = sum(len(node["inputs"]) for node in nodes)
        depth = max(formula.depth for formula in _formulas(arch))
        return [*counts, edges, depth, len(loose_ends(nodes))]

    def drawing(self, arch):
        """Return the graph as a report draws it."""
        names = {"0": "stem"}
        edges = []
        for number, node in enumerate(arch["nodes"], start=1):
            names[str(number)] = node["op"]
            edges += [(str(source), str(number)) for source in node["inputs"]]
        names["head"] = "head"
        edges += [(str(number), "head") for number in loose_ends(arch["nodes"])]
        return Drawing(names, edges)

    # ---- changes

    def _inputs(self, number, rng):
        """Draw what node ``number`` reads: one or two of the stem and the nodes before it."""
        count = int(rng.integers(1, min(2, number + 1) + 1))
        return sorted(rng.choice(number + 1, size=count, replace=False).tolist())

    def _with_another_op(self, nodes, rng):
        nodes[int(rng.integers(len(nodes)))]["op"] = _drawn(OPS, rng)
        return nodes

    def _with_other_inputs(self, nodes, rng):
        number = int(rng.integers(len(nodes)))
        nodes[number]["inputs"] = self._inputs(number, rng)
        return nodes

    def _with_one_more(self, nodes, rng):
        return [*nodes, {"op": _drawn(OPS, rng), "inputs": self._inputs(len(nodes), rng)}]

    def _with_one_less(self, nodes, rng):
        """Remove a node; what read it reads its first input, and later nodes move up."""
        removed = int(rng.integers(len(nodes))) + 1
        instead = nodes[removed - 1]["inputs"][0]
        kept = []
        for number, node in enumerate(nodes, start=1):
            if number == removed:
                continue
            sources = [instead if source == removed else source for source in node["inputs"]]
            moved = sorted({source - (source > removed) for source in sources})
            kept.append({"op": node["op"], "inputs": moved})
        return kept


def loose_ends(nodes):
    """Return the numbers of the nodes that no other one reads."""
    read = {source for node in nodes for source in node["inputs"]}
    return [number for number in range(1, len(nodes) + 1) if number not in read]


class Formula:
    """What a node computes, written out: its operation and the formulas that it reads.

    Args:
        op: the operation; empty for the stem.
        sources: the formulas that it reads.
    """

    def __init__(self, op, sources):
        self.op = op
        self.sources = set(sources)  # a node that reads two equal nodes reads one
        self.depth = 1 + max((source.depth for source in sources), default=-1)
        inside = " ".join(sorted(source.text for source in self.sources))
        self.text = f"{op}({inside})" if sources else STEM

    def __eq__(self, other):
        return self.text == other.text

    def __hash__(self):
        return hash(self.text)


def _formulas(arch):
    """Return the formulas of the stem and of every node."""
    formulas = [Formula("", [])]
    for node in arch["nodes"]:
        formulas.append(Formula(node["op"], [formulas[source] for source in node["inputs"]]))
    return formulas


def _drawn(choices, rng):
    return choices[int(rng.integers(len(choices)))]
