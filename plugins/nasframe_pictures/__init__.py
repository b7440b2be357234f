"""GAN Slimming as published, at toy size: a generator of pictures and its discriminator, on generated pictures.

This package registers nothing. The recipe ``slimming/pictures`` does, by a plugin file of its own.
"""
