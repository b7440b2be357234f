"""Registers models whose layers differ in size with the auto classes of transformers.

After ``import nasframe.hf``, directories that an export in mode ``hetero`` wrote load without ``trust_remote_code``:

>>> import nasframe.hf
>>> from transformers import AutoConfig
>>> AutoConfig.for_model("nasframe-bert").model_type
'nasframe-bert'
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig

from nasframe.nn.elastic import resize
from nasframe.nn.rows import rows


def classes(stock: Any, config: Any = None) -> tuple[type, type]:
    """Return configuration and model classes like a stock class's, whose layers may differ in size.

    An exported modelling file contains the source of this function, after the source of ``nasframe.nn.elastic``.

    Args:
        stock: a model class of transformers.
        config: the configuration class, if the model shares that of another.

    Returns:
        The configuration class and the model class. The configuration has the further fields ``layer_heads`` and
        ``layer_ffn`` (one number for each layer), ``head_size``, ``embedding_rank``, ``head_order``, ``factorized``
        (``"layer.map"`` → rank) and ``kept_layers``, which only documents where the layers come from.
    """

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        # The uniform network comes first and is then resized, so that the stock classes work unchanged.
        stock.__init__(self, config, *args, **kwargs)
        sizes = zip(config.layer_heads, config.layer_ffn, strict=True)
        layers = [{"heads": heads, "ffn": ffn} for heads, ffn in sizes]
        others = {key: getattr(config, key, None) for key in ("embedding_rank", "factorized", "head_order")}
        resize(self, {"layers": layers, **others})

    base = stock.config_class
    fields: dict[str, Any] = {"model_type": f"nasframe-{base.model_type}", "__module__": __name__}
    config_class = config or type(f"Nasframe{base.__name__}", (base,), fields)
    methods = {"__init__": __init__, "config_class": config_class, "__module__": __name__}
    return config_class, type(f"Nasframe{stock.__name__}", (stock,), methods)


def auto_classes(stock: type) -> list[str]:
    """Return the names of the auto classes of transformers that load a model class, the most specific ones first.

    Args:
        stock: a model class of transformers.

    >>> from transformers import BertForSequenceClassification, BertModel, GPT2LMHeadModel
    >>> auto_classes(BertForSequenceClassification), auto_classes(BertModel)
    (['AutoModelForSequenceClassification'], ['AutoModel'])
    >>> auto_classes(GPT2LMHeadModel)
    ['AutoModelForCausalLM', 'AutoModelForPreTraining']
    """
    names = []
    for name in _HEADS:
        loaded = getattr(transformers, name)._model_mapping.get(stock.config_class, None)  # type: ignore[attr-defined]
        if stock in (loaded if isinstance(loaded, tuple) else (loaded,)):
            names.append(name)
    return names


_HEADS = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "AutoModelForNextSentencePrediction",
    "AutoModel",
    "AutoModelForPreTraining",  # of many families this is one of the classes above
)


def _register(family: str) -> None:
    """Register the classes of a family, with every head that an auto class of transformers knows."""
    stock_config = CONFIG_MAPPING[family]
    config: Any = None
    for name in _HEADS:
        auto = getattr(transformers, name)
        stock = auto._model_mapping.get(stock_config, None)
        if stock is None:
            continue
        if isinstance(stock, tuple):  # the auto class chooses by the architecture in the configuration
            models = []
            for cls in stock:
                config, model = classes(cls, config)
                models.append(model)
            registered: Any = tuple(models)
        else:
            config, registered = classes(stock, config)
        # exist_ok, because an exported directory may have registered its own copy of these classes before.
        AutoConfig.register(f"nasframe-{family}", config, exist_ok=True)
        auto.register(config, registered, exist_ok=True)


for _family in rows():
    _register(_family)
