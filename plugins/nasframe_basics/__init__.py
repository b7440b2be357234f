"""The basics: what every other method is compared with, and builds on."""

from nasframe import hookimpl

HERE = "nasframe_basics"


@hookimpl
def register_spaces(register):
    register("bert_width_depth", f"{HERE}.bert_width_depth:BertWidthDepth")


@hookimpl
def register_samplers(register):
    register("random", f"{HERE}.samplers:RandomSampler")
    register("grid", f"{HERE}.samplers:GridSampler")
    register("every", f"{HERE}.samplers:EverySampler")
    register("sandwich", f"{HERE}.samplers:SandwichSampler")
    register("evolution", f"{HERE}.evolution:EvolutionSampler")


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
    register("latency", f"{HERE}.latency:Latency")


@hookimpl
def register_modifiers(register):
    register("kd", f"{HERE}.kd:KD")
    register("kd_hidden", f"{HERE}.kd_hidden:KDHidden")
    register("fake_quant", f"{HERE}.fake_quant:FakeQuant")


@hookimpl
def register_transforms(register):
    register("rewire", f"{HERE}.rewire:Rewire")
    register("svd", f"{HERE}.svd:SVD")


@hookimpl
def register_tasks(register):
    register("glue", f"{HERE}.glue:glue")
    register("text_classification", f"{HERE}.text_classification:text_classification")
    register("package_docs", f"{HERE}.package_docs:package_docs")


@hookimpl
def register_models(register):
    register("hf", f"{HERE}.models:HF")
    register("minilm-l6", f"{HERE}.models:minilm_l6")
