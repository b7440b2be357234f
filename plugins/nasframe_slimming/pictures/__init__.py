"""The original of GAN Slimming at toy size: a generator of pictures and a discriminator, on generated pictures.

Nothing here is registered with the package: the recipe ``slimming/pictures`` brings it in by a plugin file of its own.
"""
