"""Importing this module registers the plugins, for new processes that can be told to import it."""

from espnet_larm import registry

registry.register()
