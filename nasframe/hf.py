"""Registers models whose layers differ in size with the auto classes of transformers.

After ``import nasframe.hf``, directories that an export in mode ``hetero`` wrote load without ``trust_remote_code``:

>>> import nasframe.hf
>>> from transformers import AutoConfig
>>> AutoConfig.for_model("nasframe-bert").model_type
'nasframe-bert'
"""

from __future__ import annotations

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
)
from transformers import AutoModelForSequenceClassification as _Auto

from nasframe.nn.elastic import FAMILIES, resize


def classes(stock: Any, config: Any = None) -> tuple[type, type]:
    """Return configuration and model classes like a stock class's, whose layers may differ in size.

    An exported modelling file contains the source of this function, after the source of ``nasframe.nn.elastic``.

    Args:
        stock: a model class of transformers.
        config: the configuration class, if the model shares that of another.

    Returns:
        The configuration class and the model class. The configuration has the further fields ``layer_heads`` and
        ``layer_ffn`` (one number for each layer), ``head_size``, ``embedding_rank``, ``factorized`` (``"layer.map"`` →
        rank) and ``kept_layers``, which only documents where the layers come from.
    """

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        # The uniform network comes first and is then resized, so that the stock classes work unchanged.
        stock.__init__(self, config, *args, **kwargs)
        sizes = zip(config.layer_heads, config.layer_ffn, strict=True)
        layers = [{"heads": heads, "ffn": ffn} for heads, ffn in sizes]
        ranks = {key: getattr(config, key, None) for key in ("embedding_rank", "factorized")}
        resize(self, {"layers": layers, **ranks})

    base = stock.config_class
    fields: dict[str, Any] = {"model_type": f"nasframe-{base.model_type}", "__module__": __name__}
    config_class = config or type(f"Nasframe{base.__name__}", (base,), fields)
    methods = {"__init__": __init__, "config_class": config_class, "__module__": __name__}
    return config_class, type(f"Nasframe{stock.__name__}", (stock,), methods)


# exist_ok, because an exported directory may have registered its own copy of these classes before.
for _family in FAMILIES:
    _config, _model = classes(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[CONFIG_MAPPING[_family]])
    AutoConfig.register(f"nasframe-{_family}", _config, exist_ok=True)
    _Auto.register(_config, _model, exist_ok=True)
    _, _base = classes(MODEL_MAPPING[CONFIG_MAPPING[_family]], _config)
    AutoModel.register(_config, _base, exist_ok=True)
