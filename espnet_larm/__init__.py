"""Plugins for ESPnet2 that make speech recognition spend its compute where it pays."""

__version__ = "0.1.0"
