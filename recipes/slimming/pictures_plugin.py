"""What the recipe ``slimming/pictures`` needs beside the package's plugins: pictures, and networks that make them."""

from nasframe import hookimpl

HERE = "nasframe_slimming.pictures"
PLUGIN_API = 1


@hookimpl
def register_models(register):
    """The toy generator with its discriminator."""
    register("picture_pair", f"{HERE}.model:Fresh")


@hookimpl
def register_tasks(register):
    """Pictures, generated."""
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
