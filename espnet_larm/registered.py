"""Importing this module registers the plugins: for processes that are started anew and are told what to import."""

from espnet_larm import registry

registry.register()
