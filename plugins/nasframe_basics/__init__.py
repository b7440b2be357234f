"""The basics: what every other method is compared with, and builds on."""

from nasframe import hookimpl

HERE = "nasframe_basics"


# Plugins are registered by their paths: a module is imported when a recipe names its plugin. An ``example`` has the
# options with which ``nasframe plugins check`` tries a plugin that needs some.


@hookimpl
def register_spaces(register):
    sizes = {"layers": [1, 2, 3], "heads": ["25%", "50%", "100%"], "ffn": ["25%", "50%", "100%"]}
    register("width_depth", f"{HERE}.width_depth:WidthDepth", example=sizes)
    register("bert_width_depth", f"{HERE}.width_depth:bert_width_depth", example=sizes)
    register("compound", f"{HERE}.compound:Compound", example={"smallest": "20%", "step": 1.3})


@hookimpl
def register_samplers(register):
    register("random", f"{HERE}.samplers:RandomSampler")
    register("grid", f"{HERE}.samplers:GridSampler")
    register("every", f"{HERE}.samplers:EverySampler")
    register("sandwich", f"{HERE}.samplers:SandwichSampler")
    register("evolution", f"{HERE}.evolution:EvolutionSampler")
    register("milp", f"{HERE}.milp:MilpSampler", example=f"{HERE}.examples:Milp")
    register("dynamic", f"{HERE}.dynamic:DynamicSampler", example=f"{HERE}.examples:Dynamic")


@hookimpl
def register_trainers(register):
    register("loop", f"{HERE}.loop:Loop")


@hookimpl
def register_estimators(register):
    register("params", f"{HERE}.estimators:params")
    register("backbone_params", f"{HERE}.estimators:backbone_params")
    register("encoder_params", f"{HERE}.estimators:encoder_params")
    register("macs", f"{HERE}.estimators:macs")
    register("flops", f"{HERE}.estimators:flops")
    register("size", f"{HERE}.estimators:size")
    register("latency", f"{HERE}.latency:Latency", example={"length": 16, "repeats": 3})


@hookimpl
def register_evaluators(register):
    register("metric", f"{HERE}.evaluators:Metric")
    register("loss", f"{HERE}.evaluators:Loss")
    register("agreement", f"{HERE}.evaluators:Agreement")
    register("gradients", f"{HERE}.gradients:Gradients")
    register("racing", f"{HERE}.racing:Racing")


@hookimpl
def register_modifiers(register):
    register("kd", f"{HERE}.kd:KD")
    register("kd_hidden", f"{HERE}.kd_hidden:KDHidden")
    register("fake_quant", f"{HERE}.fake_quant:FakeQuant")
    register("dropout", f"{HERE}.dropout:Dropout")
    register("ema", f"{HERE}.ema:EMA")
    register("resort", f"{HERE}.resort:Resort")
    register("lazy_adamw", f"{HERE}.lazy_adamw:LazyAdamW")


@hookimpl
def register_transforms(register):
    register("rewire", f"{HERE}.rewire:Rewire")
    register("svd", f"{HERE}.svd:SVD", example={"rank": 4, "linears": "50%", "lower": "truncate"})
    register("reconstruct", f"{HERE}.reconstruct:Reconstruct", example={"models": ["teacher"]})
    register("vocabulary", f"{HERE}.vocabulary:Vocabulary")
    register("new_head", f"{HERE}.new_head:NewHead")
    register("redraw", f"{HERE}.redraw:Redraw")


@hookimpl
def register_tasks(register):
    register("glue", f"{HERE}.glue:glue", example=f"{HERE}.examples:Glue")
    classes = f"{HERE}.examples:TextClassification"
    register("text_classification", f"{HERE}.text_classification:text_classification", example=classes)
    images = f"{HERE}.examples:ImageClassification"
    register("image_classification", f"{HERE}.image_classification:image_classification", example=images)
    register("causal_lm", f"{HERE}.causal_lm:causal_lm", example=f"{HERE}.examples:CausalLM")
    register("masked_lm", f"{HERE}.masked_lm:masked_lm", example=f"{HERE}.examples:MaskedLM")
    register("package_docs", f"{HERE}.package_docs:package_docs", example={"limit": 240, "max_length": 200})


@hookimpl
def register_models(register):
    register("hf", f"{HERE}.models:HF", example=f"{HERE}.examples:HF")
    register("from_config", f"{HERE}.from_config:FromConfig", example=f"{HERE}.examples:FromConfig")
    register("minilm-l6", f"{HERE}.models:minilm_l6")


@hookimpl
def register_exporters(register):
    register("hetero", f"{HERE}.exporters:Hetero")
    register("padded", f"{HERE}.exporters:Padded")
    register("stock", f"{HERE}.exporters:Stock")


@hookimpl
def register_families(register):
    register("sliceable", f"{HERE}.families:sliceable", example=f"{HERE}.examples:SliceableFamily")
    register("described", f"{HERE}.families:Own", example=f"{HERE}.examples:DescribedFamily")
    register("transformers", f"{HERE}.families:Transformers", example=f"{HERE}.examples:TransformersFamily")


@hookimpl
def register_observers(register):
    register("events", f"{HERE}.events:Events")
