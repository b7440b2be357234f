"""The plugins that the recipe ``slimming/pictures`` needs: pictures, and networks that generate them."""

from nasframe import hookimpl

HERE = "nasframe_pictures"
PLUGIN_API = 2


@hookimpl
def register_models(register):
    """The toy generator with its discriminator."""
    register("picture_pair", f"{HERE}.model:Fresh")


@hookimpl
def register_tasks(register):
    """Generated pictures."""
    register("pictures", f"{HERE}.task:Pictures")


@hookimpl
def register_spaces(register):
    """How many channels are kept."""
    register("picture_channels", f"{HERE}.space:PictureChannels")


@hookimpl
def register_trainers(register):
    """The min-max loop."""
    register("min_max", f"{HERE}.min_max:MinMax")


@hookimpl
def register_transforms(register):
    """The figure."""
    register("picture_sheet", f"{HERE}.sheet:PictureSheet")
